"""`redaes init`: make a nano model from nothing, knowing the words of a dataset and able to see its pictures."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redaes.data.manifest import Manifest


def init(
    data: str,
    output: str,
    family: str = "qwen2_5_vl",
    seed: int = 0,
    hidden: int = 128,
    layers: int = 4,
    tower_steps: int = 400,
    description_steps: int = 400,
) -> None:
    """Make a nano model as an ordinary checkpoint directory: a tokenizer, and weights that can see and describe.

    From random weights it learns, without any label, to tell low-level statistics of pictures: first its tower alone,
    then its language part, in words (redaes.models.pretraining). Larger models need no such step: their configs name a
    pre-trained checkpoint to start from.

    Args:
        data: dataset folder; the tokenizer is trained on its reasonings and instructions.
        output: checkpoint directory to write.
        family: real model class, qwen2_5_vl or qwen3_vl.
        seed: of the initial weights.
        hidden: width of the language part, a multiple of 32.
        layers: depth of the language part.
        tower_steps: optimiser steps of the tower's pre-training; 0 leaves it random.
        description_steps: optimiser steps of describing photographs in numbers; 0 leaves it out.
    """
    from redaes.data.manifest import Manifest
    from redaes.errors import UserError, nearest

    manifest = Manifest(data)
    if family not in ("qwen2_5_vl", "qwen3_vl"):
        raise UserError(f"unknown model family {family!r} ({nearest(family, ['qwen2_5_vl', 'qwen3_vl'])})")

    from redaes.models.nano import build_nano
    from redaes.models.pretraining import DESCRIBE, NAMES
    from redaes.models.vlm import export

    pairs = manifest.pairs("train")
    texts = [p.reasoning for p in pairs] + [p.edit.instruction.text for p in pairs]
    texts += [r.reasoning for r in manifest.sources("train")] + [DESCRIBE, ", ".join(NAMES)] * 50
    model, processor = build_nano(texts, family, seed=seed, hidden=hidden, layers=layers)  # type: ignore[arg-type]
    _pretrain(model, processor, manifest, tower_steps, description_steps, seed)
    path = export(model, processor, output)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{type(model).__name__} with {millions:.2f} M parameters, {len(processor.tokenizer)} tokens -> {path}")


def _pretrain(model: Any, processor: Any, manifest: "Manifest", tower: int, description: int, seed: int) -> None:
    """Show the model every training image that was kept: sources, and their edits."""
    from redaes.models.pretraining import pretrain_description, pretrain_tower

    names = {r.source.image for r in manifest.sources("train")}
    names |= {p.edit.image for p in manifest.pairs("train")}
    names |= {m.image for g in manifest.groups("train") for m in g.members}
    images = [manifest.open(name) for name in sorted(names)]
    for lesson, steps, train in (("tower", tower, pretrain_tower), ("description", description, pretrain_description)):
        if steps > 0:
            train(model, processor, images, steps, seed=seed, progress=_reporter(lesson, steps))


def _reporter(lesson: str, steps: int) -> Callable[[int, float], None]:
    def report(step: int, loss: float) -> None:
        if step % max(1, steps // 5) == 0:
            print(f"{lesson}: step {step}/{steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

    return report
