"""What to change when memory runs out: one line, with the knobs in the order in which they cost least.

First what changes no number (smaller parts, recomputed activations), then what is trained and how its optimiser keeps
its state, then what is sampled and seen, and last more cards. docs/scaling.md has the arithmetic.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from redaes.errors import UserError

WORDS = re.compile(r"out of memory|not enough memory|can(?:'t|not) allocate memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a card or in the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(WORDS.search(str(error)))


def out_of_memory_advice(error: BaseException, settings: Mapping[str, Any]) -> str:
    """One line: what could not be allocated, and which settings to change, in order, with their present values.

    Args:
        error: of the allocator.
        settings: present values by the option's name, as `training_settings` collects them; settings that are missing
            or cannot be turned further are left out.

    Example:
        >>> out_of_memory_advice(MemoryError(), {"model.k": 6, "model.backbone.gradient_checkpointing": True})
        'out of memory; in this order try model.k=4 (now 6); docs/scaling.md says what each costs'
    """
    tried = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    turns = [
        f"{name}={better} (now {_shown(settings[name])})"
        for name, turn in TURNS.items()
        if name in settings and (better := turn(settings[name])) is not None
    ]
    lead = "out of memory" + (f" (tried to allocate {tried[1]})" if tried else "")
    what = f"in this order try {', '.join(turns)}" if turns else "nothing is left to turn but the model"
    return f"{lead}; {what}; docs/scaling.md says what each costs"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _half(value: Any, least: int, multiple: int = 1) -> int | None:
    smaller = int(value) * 2 // 3 // multiple * multiple if multiple > 1 else int(value) // 2
    return smaller if smaller >= least else None


TURNS: dict[str, Any] = {
    "model.accumulate": lambda value: 8 if value < 8 else None,
    "data.batch_size": lambda value: (
        f"{value // 2} with trainer.accumulate_grad_batches twice as large" if value > 1 else None
    ),
    "model.backbone.gradient_checkpointing": lambda value: None if value else "true",
    "model.backbone.lora": lambda value: "{r: 16}" if value is None else None,
    "model.backbone.quantization": lambda value: "4bit" if value == "none" else None,
    "model.optimisation.optimizer": lambda value: None if value == "paged_adamw_8bit" else "paged_adamw_8bit",
    "model.max_new_tokens": lambda value: _half(value, 32),
    "model.k": lambda value: _half(value + 2, 2),
    "model.backbone.image_size": lambda value: _half(value, 112, 56) if value else None,
    "trainer.strategy": lambda value: None if value in ("fsdp2", "deepspeed") else "fsdp2 on more cards",
}


def training_settings(trainer: Any) -> dict[str, Any]:
    """The present values of the settings that memory depends on."""
    module, data = trainer.lightning_module, trainer.datamodule
    backbone, optimisation = getattr(module, "backbone", None), getattr(module, "optimisation", None)
    sampling = getattr(module, "sampling", None)
    found = {
        "model.accumulate": getattr(module, "accumulate", None),
        "data.batch_size": getattr(data, "batch_size", None),
        "model.max_new_tokens": getattr(module, "max_new_tokens", None),
        "model.k": getattr(sampling, "k", None),
    }
    found = {name: value for name, value in found.items() if value is not None}
    for name in ("gradient_checkpointing", "lora", "quantization", "image_size"):
        if backbone is not None:
            found[f"model.backbone.{name}"] = getattr(backbone, name)
    if found.get("model.backbone.lora", 0) is None:
        found.pop("model.backbone.quantization")  # which needs an adapter first
    if optimisation is not None:
        found["model.optimisation.optimizer"] = optimisation.optimizer
    strategy = type(trainer.strategy).__name__
    names = {"FullySharded": "fsdp2", "Zero": "deepspeed", "DeepSpeedStrategy": "deepspeed", "DDPStrategy": "ddp"}
    return {**found, "trainer.strategy": names.get(strategy, "auto")}


@contextmanager
def explained_out_of_memory(trainer: Any) -> Iterator[None]:
    """Turn an allocation that failed inside the `with` into advice.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(out_of_memory_advice(error, training_settings(trainer))) from error
