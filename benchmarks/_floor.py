"""The least work a GRPO step can be: products of matrices, counted from a model's sizes.

    python benchmarks/_floor.py                 the table of the shape that `grpo_step.py` measures
    python benchmarks/_floor.py --model 7b

A product of (m, k) and (k, n) is 2 m k n operations. Norms, activations, softmax and sampling are left out: they are
few per product on wide models, and on narrow ones they are part of how far a measured step is from this floor.

With N images, K outputs of each, P prompt tokens and C completion tokens, `shared` counts each image through the tower
once and each prompt once per pass, N P + N K C tokens; the repeated form counts N K (P + C) tokens, and the tower N K
times in every pass, as a trainer that copies the prompt K times does.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from _workload import Shape, add_shape_arguments, model_config, shape_of


@dataclass(frozen=True)
class Sizes:
    """What the counts need of a model's configuration.

    Attributes:
        layer: weights of all the language part's layers.
        attention: width of all heads together, times layers.
        cache: width of all key and value heads together, both, times layers.
        head: weights of the output head.
        patches: P_v, patches of an image.
        tower: operations of one image in the tower.
    """

    layer: int
    attention: int
    cache: int
    head: int
    patches: int
    tower: float

    @classmethod
    def of(cls, config: Any, image_size: int) -> "Sizes":
        """Of a transformers configuration.

        Args:
            config: of a Qwen2.5-VL or Qwen3-VL model.
            image_size: side of an image in pixels.
        """
        text, vision = config.text_config, config.vision_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads, kv = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
        layer = 2 * text.hidden_size * (heads + kv) + 3 * text.hidden_size * text.intermediate_size
        patches = (image_size // vision.patch_size) ** 2
        return cls(
            layer=layer * text.num_hidden_layers,
            attention=heads * text.num_hidden_layers,
            cache=2 * kv * text.num_hidden_layers,
            head=text.hidden_size * text.vocab_size,
            patches=patches,
            tower=_tower(vision, patches),
        )


def _tower(vision: Any, patches: int) -> float:
    """Operations of one image: patch embedding, blocks (windowed or full), mergers."""
    width, gated = vision.hidden_size, hasattr(vision, "fullatt_block_indexes")
    full = len(vision.fullatt_block_indexes) if gated else vision.depth
    window = (vision.window_size // vision.patch_size) ** 2 if gated else patches
    context = full * patches + (vision.depth - full) * window
    block = 4 * width**2 + (3 if gated else 2) * width * vision.intermediate_size
    embedding = 3 * vision.temporal_patch_size * vision.patch_size**2 * width
    merged = width * vision.spatial_merge_size**2
    mergers = 1 + (0 if gated else len(vision.deepstack_visual_indexes))
    merger = mergers * (merged**2 + merged * vision.out_hidden_size) / vision.spatial_merge_size**2
    return patches * (2 * (embedding + vision.depth * block + merger) + 4 * width * context)


def operations(sizes: Sizes, shape: Shape, *, shared: bool = True, reference: bool = True) -> dict[str, float]:
    """Floating-point operations of one step, by phase.

    Args:
        sizes: of the model.
        shape: N, K, P and C.
        shared: prompts and images once, or K times.
        reference: whether there is a reference model.
    """
    prompt, new, rows = shape.prompt_tokens, shape.new_tokens, shape.completions
    copies = shape.images if shared else rows
    prompts = copies * prompt * (2 * sizes.layer + 4 * sizes.attention * prompt / 2)
    # Token t of a completion looks back on the prompt and on t tokens; the last one drawn is never fed back.
    completions = rows * new * (2 * sizes.layer + 4 * sizes.attention * (prompt + new / 2))
    head = rows * new * 2 * sizes.head
    tower = copies * sizes.tower
    forward = prompts + completions + head
    found = {
        "tower": tower if shared else tower * (2 + reference),
        "prefill": prompts,
        "decode": completions * (new - 1) / new + head,
        "reference": forward if reference else 0.0,
        "update forward": forward,
        "update backward": 2 * forward,
    }
    return found | {"all": sum(found.values())}


def decode_bytes(sizes: Sizes, shape: Shape, *, shared: bool = True, size: int = 4) -> float:
    """Bytes of weights and cached keys and values that decoding reads: every step all of them.

    Args:
        sizes: of the model.
        shape: N, K, P and C.
        shared: the prompt's keys and values once for K outputs, or a copy for each.
        size: bytes of a number.
    """
    copies = shape.images if shared else shape.completions
    tokens = copies * shape.prompt_tokens + shape.completions * shape.new_tokens / 2
    return shape.new_tokens * size * (sizes.layer + sizes.head + sizes.cache * tokens)


def main() -> None:
    """Print the floor of a shape."""
    from redaes.models.nano import train_tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape_arguments(parser)
    shape = shape_of(parser.parse_args())
    config = model_config(shape, train_tokenizer([], 400))
    if shape.model == "nano":
        config.text_config.vocab_size = shape.vocab
    sizes = Sizes.of(config, shape.image_size)
    print(sizes)
    shared, repeated = (operations(sizes, shape, shared=form) for form in (True, False))
    for phase, count in shared.items():
        print(f"{phase:16} {count / 1e9:12.1f} GFLOP shared  {repeated[phase] / 1e9:12.1f} repeated")
    size = 4 if shape.dtype == "float32" else 2
    read = [decode_bytes(sizes, shape, shared=form, size=size) / 1e9 for form in (True, False)]
    print(f"{'decoding reads':16} {read[0]:12.1f} GB    shared  {read[1]:12.1f} repeated")


if __name__ == "__main__":
    main()
