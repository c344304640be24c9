"""What a training needs of every card, worked out from the published configurations: arithmetic, not measured.

    python benchmarks/memory_plan.py             the tables of docs/scaling.md
    python benchmarks/memory_plan.py --model 7b --stage grpo --cards 8

    python benchmarks/memory_plan.py --model /path/to/checkpoint          reads its config.json

Parameters are counted on models of transformers' own classes, built on the meta device (no weights). The sizes below
are those of the `config.json` files of the Hugging Face repositories named beside them, read in public copies (they
could not be opened themselves); what they do not name is the default of transformers' class. 1 GB is 10^9 bytes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen3VLConfig

# huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct, Qwen2.5-VL-7B-Instruct and Qwen3-VL-2B-Instruct, config.json. The 2B's as
# in torchtitan (torchtitan/experiments/qwen3_vl/__init__.py at 0375bb6, flavour "2B").
QWEN2_5_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
QWEN2_5_ROPE = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}
CONFIGS: dict[str, Any] = {
    "2b": lambda: Qwen3VLConfig(
        text_config={
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0, "mrope_section": [24, 20, 20],
                                "mrope_interleaved": True},
        },
        vision_config={
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
            "spatial_merge_size": 2, "out_hidden_size": 2048, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        tie_word_embeddings=True,
    ),
    "3b": lambda: Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "rope_parameters": QWEN2_5_ROPE,
        },
        vision_config={**QWEN2_5_VISION, "out_hidden_size": 2048},
        tie_word_embeddings=True,
    ),
    "7b": lambda: Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "rope_parameters": QWEN2_5_ROPE,
        },
        vision_config={**QWEN2_5_VISION, "out_hidden_size": 3584},
        tie_word_embeddings=False,
    ),
}  # fmt: skip
NAMES = {"2b": "Qwen3-VL-2B", "3b": "Qwen2.5-VL-3B", "7b": "Qwen2.5-VL-7B"}
TEXT, ANSWER = 100, 256  # tokens of a prompt's text [assumed] and of the longest answer
SAMPLES = 2  # in a forward pass of the supervised stages, with two images each at most
IMAGES, K = 8, 6  # of a group, outputs of an image
BLOCK = 256  # positions whose logits exist at one time
RANK = 64


@dataclass
class Size:
    """Counts of one model. Parameters: language part without embeddings (`layers`), embeddings and head, vision."""

    layers: int
    embeddings: int
    vision: int
    linear: int
    adapter: int
    config: Any
    image_tokens: int

    @property
    def language(self) -> int:
        """What full fine-tuning trains."""
        return self.layers + self.embeddings

    @property
    def total(self) -> int:
        """Every parameter."""
        return self.language + self.vision


def measure(name: str) -> Size:
    """Build a model without weights and count; `name` is one of ours or a checkpoint's directory."""
    config = CONFIGS[name]() if name in CONFIGS else AutoConfig.from_pretrained(name)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    count = {"layers": 0, "embeddings": 0, "vision": 0}
    for path, weight in model.named_parameters():
        part = "vision" if "visual" in path else "embeddings" if "embed" in path or "lm_head" in path else "layers"
        count[part] += weight.numel()
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "language_model.layers" in n]
    vision = config.vision_config
    return Size(
        **count,
        linear=sum(m.weight.numel() for m in linear),
        adapter=sum(RANK * (m.in_features + m.out_features) for m in linear),
        config=config,
        image_tokens=(512 // (vision.patch_size * vision.spatial_merge_size)) ** 2,
    )


@dataclass
class Plan:
    """Gigabytes on one card."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    whole: float
    activations: float
    logits: float
    cache: float

    @property
    def peak(self) -> float:
        """Rollout and update take turns: the cache and the gathered weights are gone when activations are made."""
        lasting = self.weights + self.gradients + self.optimizer + self.reference
        return lasting + max(self.whole + self.cache, self.activations + self.logits)


def plan(size: Size, stage: str, method: str, strategy: str, cards: int, *, checkpointing: bool = True) -> Plan:
    """Memory of one card.

    Args:
        size: the model.
        stage: `sft` or `grpo`.
        method: `full` (float32 weights, AdamW in float32), `lora` or `qlora` (bfloat16 or 4 bits, float32 adapter).
        strategy: `ddp` (also a single card), `fsdp2`, `zero2` or `zero3`.
        cards: number of processes.
        checkpointing: activations of the layers are recomputed.
    """
    trained = size.language if method == "full" else size.adapter
    deepspeed = strategy.startswith("zero")
    kept = 4 if method == "full" and not deepspeed else 2  # bytes of a weight that the model holds
    if method == "qlora":
        # 4 bits, and of double quantisation 0.127 bits of scales (arXiv 2305.14314, Sec. 3).
        weights = size.linear * (4 + 0.127) / 8 + (size.total - size.linear) * 2 + size.adapter * 4
    else:
        weights = size.total * kept + (size.adapter * 4 if method == "lora" else 0)
    gradients = trained * (2 if deepspeed and method == "full" else 4)
    # Two moments of AdamW in float32; under DeepSpeed the float32 master weights lie with them.
    optimizer = trained * (12 if deepspeed and method == "full" else 8)
    reference = size.total * kept if stage == "grpo" and method == "full" else 0.0
    pieces = {"ddp": (1, 1, 1), "zero2": (1, cards, cards), "fsdp2": (cards,) * 3, "zero3": (cards,) * 3}[strategy]
    # DeepSpeed cuts what it trains; the frozen copy stays whole.
    copies = 1 if deepspeed else pieces[0]
    whole = size.total * 2 if pieces[0] > 1 and stage == "grpo" else _largest_unit(size) if pieces[0] > 1 else 0
    text = size.config.text_config
    per_card = max(1, IMAGES // cards)
    prompt = size.image_tokens + TEXT
    # Supervised: whole rows of two images. GRPO: one image at a time (accumulate: 8), its prompt once, K answers.
    tokens = SAMPLES * (2 * size.image_tokens + TEXT + ANSWER) if stage == "sft" else prompt + K * ANSWER
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    # bfloat16. Recomputed: the input of every layer, and one layer open. Kept: 34 bytes per token and hidden unit of a
    # layer without the attention matrix (Korthikanti et al. 2022, arXiv 2205.05198, Eq. 2, for an MLP 4 wide).
    layer = tokens * 34 * text.hidden_size * _width(text)
    inputs = tokens * 2 * text.hidden_size * text.num_hidden_layers
    activations = inputs + layer if checkpointing else layer * text.num_hidden_layers
    # Logits of a block of positions: bfloat16, their float32 copy and its exponentials; and, while the head is trained,
    # the sum of its gradient over the blocks in float32.
    logits = BLOCK * text.vocab_size * (2 + 4 + 4) + (text.vocab_size * text.hidden_size * 4 if method == "full" else 0)
    kv = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * head
    cache = per_card * K * (prompt + ANSWER) * kv if stage == "grpo" else 0
    gb = 1e-9
    return Plan(
        weights / pieces[0] * gb, gradients / pieces[1] * gb, optimizer / pieces[2] * gb, reference / copies * gb,
        whole * gb, activations * gb, logits * gb, cache * gb,
    )  # fmt: skip


def _largest_unit(size: Size) -> float:
    """FSDP2 and ZeRO-3 hold the unit that runs: the embeddings and head in bfloat16 are the largest, and one layer."""
    return 2 * (size.embeddings + size.layers / size.config.text_config.num_hidden_layers)


def _width(text: Any) -> float:
    """How much wider than 4 hidden units the gated MLP's three matrices make a layer's kept activations."""
    mlp = 3 * text.intermediate_size / (8 * text.hidden_size)
    return 0.5 + 0.5 * mlp


ROWS = [
    ("full", "ddp", 1), ("full", "fsdp2", 2), ("full", "fsdp2", 4), ("full", "fsdp2", 8), ("full", "zero2", 8),
    ("full", "zero3", 8), ("lora", "ddp", 1), ("lora", "fsdp2", 4), ("qlora", "ddp", 1),
]  # fmt: skip


def _table(size: Size, stage: str, rows: list[tuple[str, str, int]]) -> str:
    head = "| trained | strategy | cards | weights | gradients | optimiser | reference | gathered + KV cache | "
    head += "activations + logits (without checkpointing) | peak | smallest card |"
    lines = [head, "|---|---|--:" + "|--:" * 8 + "|"]
    for method, strategy, cards in rows:
        p = plan(size, stage, method, strategy, cards)
        open_ = plan(size, stage, method, strategy, cards, checkpointing=False)
        # A tenth for the allocator's gaps, CUDA's own context and the tower's pass.
        fitting = next((f"{c} GB" for c in (24, 48, 80, 141) if p.peak * 1.1 + 2 <= c), "none")
        name = "one card" if (strategy, cards) == ("ddp", 1) else strategy
        lines.append(
            f"| {method} | {name} | {cards} | {p.weights:.1f} | {p.gradients:.1f} | {p.optimizer:.1f} "
            f"| {p.reference:.1f} | {p.whole + p.cache:.1f} | {p.activations + p.logits:.1f} "
            f"({open_.activations + open_.logits:.1f}) | {p.peak:.1f} | {fitting} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="2b, 3b, 7b, or a checkpoint's directory; else all three")
    parser.add_argument("--stage", choices=["sft", "grpo"])
    parser.add_argument("--cards", type=int, help="only rows for this many cards, each way of training and strategy")
    given = parser.parse_args(words)
    names = [given.model] if given.model else list(CONFIGS)
    sizes = {name: measure(name) for name in names}
    print("| model | layers | embeddings and head | trained in full | vision | all | adapter (r = 64) | image tokens |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, s in sizes.items():
        millions = (s.layers, s.embeddings, s.language, s.vision, s.total, s.adapter)
        print(f"| {NAMES.get(name, name)} | {' | '.join(f'{n / 1e6:,.0f} M' for n in millions)} | {s.image_tokens} |")
    rows = ROWS
    if given.cards:
        ways = ["ddp", "fsdp2", "zero2", "zero3"] if given.cards > 1 else ["ddp"]
        rows = [(m, s, given.cards) for m in ("full", "lora", "qlora") for s in ways if m != "qlora" or s == "ddp"]
    for stage in [given.stage] if given.stage else ["sft", "grpo"]:
        for name, size in sizes.items():
            print(f"\n### {NAMES.get(name, name)}, {'stages 1 and 2' if stage == 'sft' else 'stage 3'}\n")
            print(_table(size, stage, rows))


if __name__ == "__main__":
    main()
