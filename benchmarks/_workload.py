"""What the benchmarks run on: a checkpoint with random weights and a dataset of made-up photographs.

The checkpoint is of the real model class and opens without redaes. Two things make rollouts comparable:

- its end-of-turn token has an id one past the model's vocabulary, so that no model can draw it and every completion has
  exactly `new_tokens` tokens, whoever samples it, without a logits processor on either side;
- the chat template opens with a system message, as Qwen's does, of the length that makes the prompt `prompt_tokens`
  long: the project's own question, its 324 image tokens at 504 pixels and the template come to fewer.

`--model 2b|3b|7b` takes the sizes of Qwen3-VL-2B, Qwen2.5-VL-3B and Qwen2.5-VL-7B as their published config.json
files have them.
"""

import argparse
import json
import random
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """One workload.

    Attributes:
        model: `nano` (the sizes below) or a published size, `2b`, `3b`, `7b`.
        family: model class of a `nano` model.
        layers: depth of a `nano` model's language part.
        width: its width, a multiple of 32.
        vision: width of its tower of three layers, a multiple of 32.
        vocab: its vocabulary. 8192 makes the head 43 % of the language part's products at 4 x 256; the published
            models have 8 % (7B) to 22 % (2B).
        images: N, images of a step.
        k: K, outputs of each image.
        new_tokens: C, tokens of each output.
        prompt_tokens: P, tokens of a prompt, image tokens among them.
        image_size: side of the images in pixels.
        dtype: of weights and activations.
        device: `cpu` or `cuda`.
        threads: of the processor.
    """

    model: str = "nano"
    family: str = "qwen2_5_vl"
    layers: int = 4
    width: int = 256
    vision: int = 256
    vocab: int = 8192
    images: int = 8
    k: int = 6
    new_tokens: int = 128
    prompt_tokens: int = 426
    image_size: int = 504
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 2

    @property
    def completions(self) -> int:
        """N * K."""
        return self.images * self.k


PUBLISHED: dict[str, dict[str, Any]] = {
    "2b": {
        "family": "qwen3_vl",
        "text": {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        "vision": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
            "num_position_embeddings": 2304,
        },
        "tied": True,
    },
    "3b": {
        "family": "qwen2_5_vl",
        "text": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        "vision": {"out_hidden_size": 2048},
        "tied": True,
    },
    "7b": {
        "family": "qwen2_5_vl",
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        "vision": {"out_hidden_size": 3584},
        "tied": False,
    },
}
"""Sizes that differ between the published models; what is not here is the same in all of one family."""

FAMILY: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "text": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
        },
        "vision": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    },
    "qwen3_vl": {"text": {}, "vision": {}},
}


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for each field of `Shape`."""
    choices = {
        "model": ["nano", *PUBLISHED],
        "family": list(FAMILY),
        "dtype": ["float32", "bfloat16"],
        "device": ["cpu", "cuda"],
    }
    group = parser.add_argument_group("shape of the workload")
    for field in fields(Shape):
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            choices=choices.get(field.name),
            help=f"default {field.default}",
        )


def shape_of(options: argparse.Namespace) -> Shape:
    """The shape that a command line asks for."""
    shape = Shape(**{field.name: getattr(options, field.name) for field in fields(Shape)})
    return replace(shape, family=PUBLISHED[shape.model]["family"]) if shape.model in PUBLISHED else shape


class LetterShare:
    """A reward that costs nothing: the share of the letter e in a text, here and for the peer (`letter_share`)."""

    def __call__(self, inputs: Any) -> Any:
        """(N, K) rewards."""
        import torch

        return torch.tensor([[letter_share(text) for text in row] for row in inputs.texts])


def letter_share(text: str) -> float:
    """Share of the letter e."""
    return text.count("e") / max(1, len(text))


# --- the checkpoint and the dataset -----------------------------------------------------------------------------------


def words(seed: int, count: int) -> str:
    """Made-up words of one to four syllables."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfghklmnprstvz" for v in "aeiou"]
    return " ".join("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(count))


def write_checkpoint(shape: Shape, folder: Path, *, endless: bool = True) -> Path:
    """A checkpoint of the real model class with random weights.

    Args:
        shape: of the model and its prompt.
        folder: where it is written.
        endless: put the end-of-turn token out of the model's reach; then it cannot be trained on either.

    Raises:
        SystemExit: the prompt cannot be as short as asked.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from redaes.models.nano import build_nano
    from redaes.models.processor import VisionTextProcessor
    from redaes.models.vlm import export

    model, processor = build_nano(
        [words(seed, 2000) for seed in range(40)],
        shape.family,
        hidden=shape.width,
        layers=shape.layers,
        vision=shape.vision,
        vocab_size=shape.vocab,
    )
    tokenizer = processor.tokenizer
    if shape.model in PUBLISHED:
        torch.manual_seed(0)
        config, dtype = model_config(shape, tokenizer), getattr(torch, shape.dtype)
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if endless:
        tokenizer.add_tokens([f"<|unused_{i}|>" for i in range(vocabulary - len(tokenizer))])
        tokenizer.add_special_tokens({"eos_token": "<|never|>"})
        assert tokenizer.eos_token_id == vocabulary, "the end must be out of the model's reach"
        model.config.text_config.eos_token_id = None  # transformers warns of an id that is not in the vocabulary
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = VisionTextProcessor(tokenizer, processor.image_processor, shape.image_size)
    _lengthen_prompt(processor, shape.prompt_tokens)
    return export(model, processor, folder, dtype=None if shape.dtype == "float32" else shape.dtype)


def model_config(shape: Shape, tokenizer: Any) -> Any:
    """transformers' configuration of a shape's model."""
    from redaes.models.nano import nano_config

    if shape.model not in PUBLISHED:
        return nano_config(shape.family, tokenizer, shape.width, shape.layers, shape.vision)
    size, common = PUBLISHED[shape.model], FAMILY[shape.family]
    nano = nano_config(shape.family, tokenizer, 256, 1, 256)
    ids = {name: value for name, value in nano.to_dict().items() if name.endswith("_token_id")}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return type(nano)(
        text_config={**common["text"], **size["text"], **ends, "max_position_embeddings": 32768},
        vision_config={**common["vision"], **size["vision"]},
        tie_word_embeddings=size["tied"],
        **ids,
    )


def _lengthen_prompt(processor: Any, length: int) -> None:
    """Give the chat template a system message that makes the prompt of a score `length` tokens long."""
    from redaes.prompts import render

    template, system = processor.tokenizer.chat_template, ""
    while True:
        opening = f"<|im_start|>system\\n{system}<|im_end|>\\n" if system else ""
        processor.tokenizer.chat_template = f"{{{{- '{opening}' }}}}" + template
        found = len(processor.prompt_ids(render("score")))
        if found == length:
            return
        if found > length:
            raise SystemExit(f"the prompt has {found} tokens; --prompt-tokens {length} is out of reach")
        system += " this" if system else "Judge"


def photograph(seed: int, side: int) -> Any:
    """A smooth image in colour, cheap to decode."""
    import numpy as np
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def write_dataset(shape: Shape, folder: Path, groups: int) -> Path:
    """A dataset of `groups` groups of N images each; the first group's images are its calibration samples."""
    from redaes.data.manifest import write_records
    from redaes.records import SCHEMA_VERSION, Edit, Fused, GroupMember, GroupRecord, Instruction, ScoreRecord, Source

    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for group in range(groups):
        names = [f"images/{group:03}-{image:03}.png" for image in range(shape.images)]
        for image, name in enumerate(names):
            photograph(group * shape.images + image, shape.image_size).save(folder / name)
        source = Source(id=f"{group:03}", image=names[0], photograph=f"{group:03}", split="train")
        instruction = Instruction(text="Lighten it.", category="exposure", orientation="quality")
        edits = [Edit(id=n, source_id=source.id, editor="none", instruction=instruction, image=n) for n in names[1:]]
        members = [
            GroupMember(image=source.image, g=0.0),
            *(GroupMember(image=edit.image, g=0.1 * (i + 1), edit=edit) for i, edit in enumerate(edits)),
        ]
        records.append(GroupRecord(id=source.id, source=source, score=5.0, members=tuple(members)))
    fused = Fused(value=5.0, level="high", outliers=(), method="weighted_average")
    samples = [
        ScoreRecord(
            source=records[0].source.model_copy(update={"id": member.image, "image": member.image}),
            verdicts=(),
            fused=fused,
            reasoning=words(1000 + image, shape.new_tokens // 2),
        )
        for image, member in enumerate(records[0].members)
    ]
    write_records(folder / "groups.jsonl", records)
    write_records(folder / "calibration.jsonl", samples)
    write_records(folder / "pairs.jsonl", [])
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}), encoding="utf-8")
    return folder
