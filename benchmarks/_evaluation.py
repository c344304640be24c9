"""What `evaluation_speed.py` measures, each part in a process of its own, on the shipped nano model."""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from _machine import Clock, hide_torchvision, memory, serve
from _sides import chat, open_plainly
from _workload import Shape, photograph

SIDE = 224
"""Photographs are twice the model's square, so that both sides of a comparison resize the same pixels."""


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (SIDE, SIDE), suffix: str = "png") -> None:
    """Photographs of their own, in `folder/photos`."""
    place = folder / "photos"
    place.mkdir()
    for number in range(count):
        photograph(number, max(size)).resize(size).save(place / f"{number:05}.{suffix}", quality=90)


def write_nano(folder: Path) -> None:
    """The shipped checkpoint as a folder that anybody can open."""
    from redaes.models.vlm import shipped_nano

    shutil.copytree(shipped_nano(), folder / "model")


def photos(folder: Path) -> list[Path]:
    return sorted((folder / "photos").iterdir())


def seconds_of(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# --- batching ---------------------------------------------------------------------------------------------------------


def ours(shape: Shape, folder: Path, passes: int) -> dict[str, Any]:
    """The scorer with its defaults; a step is all photographs."""
    from redaes.inference.scorer import Scorer

    scorer, clock, texts = Scorer(str(folder / "model"), device=shape.device), Clock(shape.device), []
    for _ in range(1 + passes):
        texts = [score.text for score in scorer.score(photos(folder))]
        clock.end_step()
    return clock.report() | {"texts": texts}


def plain(shape: Shape, folder: Path, passes: int) -> dict[str, Any]:
    """transformers' `generate` on one photograph after another, of the same pixels and words."""
    hide_torchvision()
    import torch
    from PIL import Image

    from redaes.prompts import render

    model, processor = open_plainly(shape, folder, shape.device)
    side = (model.config.redaes_image_size,) * 2
    config, clock, texts = model.config, Clock(shape.device), []
    never = [config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id]
    model.eval()
    for _ in range(1 + passes):
        texts = []
        for path in photos(folder):
            image = Image.open(path).convert("RGB").resize(side, Image.Resampling.BICUBIC, reducing_gap=3.0)
            inputs = processor(images=[[image]], text=[chat(processor, render("score"))], return_tensors="pt")
            with torch.inference_mode():
                made = model.generate(
                    **inputs.to(model.device), max_new_tokens=256, do_sample=False, suppress_tokens=never
                )
            answer = made[0, inputs["input_ids"].shape[1] :]
            texts.append(processor.tokenizer.decode(answer, skip_special_tokens=True))
        clock.end_step()
    return clock.report() | {"texts": texts}


# --- one pass against a generation ------------------------------------------------------------------------------------


def expectation(shape: Shape, folder: Path, passes: int, batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Images a second of `logit_expectation` and of generation on the same opened photographs, in turn.

    Generation is `redaes.Scorer`, and `hf_vlm`, transformers' `generate` in batches; greedy, the same question.
    """
    hide_torchvision()
    from redaes.data.images import open_image
    from redaes.registry import create

    images = [open_image(path) for path in photos(folder)]
    model, words = str(folder / "model"), {"prompt": "score.v1", "low": 0.0, "max_new_tokens": 256, "dtype": "float32"}
    found: dict[str, dict[str, list[float]]] = {"expectation": {}, "redaes": {}, "generate": {}}
    for size in batch_sizes:
        scorers = {
            "expectation": create("scorers", "logit_expectation", model=model, batch_size=size, device=shape.device),
            "redaes": create("scorers", "redaes", model=model, batch_size=size, device=shape.device),
            "generate": create("scorers", "hf_vlm", model=model, batch_size=size, device=shape.device, **words),
        }
        for scorer in scorers.values():
            scorer.score(images[:size])
        for _ in range(passes):
            for name, scorer in scorers.items():
                taken = seconds_of(lambda scorer=scorer: scorer.score(images))
                found[name].setdefault(str(size), []).append(len(images) / taken)
    return found | memory(shape.device)


# --- the runner -------------------------------------------------------------------------------------------------------

SPENT = [0.0]


class Timed:
    """A scorer that notes how long it was asked for: nano, or one that takes so many milliseconds an image.

    Args:
        model: a checkpoint, or such as `10ms`.
        batch_size: images at once.
        device: of a checkpoint.
    """

    def __init__(self, model: str, batch_size: int = 16, device: str | None = None) -> None:
        from redaes.inference.scorer import Scorer

        self.batch_size = batch_size
        self.fingerprint = f"timed-{Path(model).name}"
        self.pace = float(model[:-2]) / 1000 if model.endswith("ms") else None
        self.inner: Any = Scorer(model, batch_size=batch_size, device=device) if self.pace is None else None
        self.view_side = getattr(self.inner, "view_side", SIDE)

    def score(self, images: Sequence[Any]) -> list[Any]:
        from redaes.inference import Score

        start = time.perf_counter()
        if self.inner is None:
            time.sleep((self.pace or 0.0) * len(images))
            scores = [Score(5.0 + image.getpixel((0, 0))[0] / 100, "", "5") for image in images]
        else:
            scores = self.inner.score(images)
        SPENT[0] += time.perf_counter() - start
        return scores


def runner(shape: Shape, folder: Path, scorer: str) -> dict[str, Any]:
    """`redaes evaluate` on all photographs, then again, when every answer is there.

    Returns:
        seconds of the first command, of those the scorer was asked for, of the second command, and of the scorer on the
        same files without a runner.
    """
    import os

    sys.path.insert(0, os.fspath(Path(__file__).parent))
    import _evaluation  # the module that the command imports, not `__main__`

    model = str(folder / "model") if scorer == "nano" else scorer
    # Only so that what is imported once is imported.
    command(_table(folder, photos(folder)[:32], "few"), model, folder / "warm")
    table, kept = _table(folder, photos(folder), "all"), folder / f"kept-{scorer}"
    _evaluation.SPENT[0] = 0.0
    first = seconds_of(lambda: command(table, model, kept))
    spent = _evaluation.SPENT[0]
    again = seconds_of(lambda: command(table, model, kept))
    if _evaluation.SPENT[0] != spent:
        raise SystemExit("the second command scored images again")
    found = {"first_s": first, "scorer_s": spent, "again_s": again, **memory(shape.device)}
    if scorer == "nano":
        alone = _evaluation.Timed(model, device=shape.device)
        alone.inner.score(photos(folder)[:32])
        found["alone_s"] = seconds_of(lambda: alone.inner.score(photos(folder)))
    return found


def _table(folder: Path, files: Sequence[Path], name: str) -> Path:
    table = folder / f"{name}.csv"
    rows = [f"{path},{1 + 9 * number / len(files):.4f}" for number, path in enumerate(files)]
    table.write_text("\n".join(["path,score", *rows]) + "\n", encoding="utf-8")
    return table


def command(table: Path, model: str, kept: Path) -> None:
    """One call of the command line, as it is typed.

    Raises:
        SystemExit: an image could not be scored.
    """
    from redaes.cli import main

    words = ["--benchmark", "csv", "--root", str(table), "--scorer", "_evaluation.Timed", "--model", model]
    with redirect_stdout(StringIO()) as printed:
        code = main(["evaluate", *words, "--predictions", str(kept), "--format", "json"])
    found = json.loads(printed.getvalue())
    if code or found["n_scored"] + found["n_unparsed"] != found["n_listed"]:
        raise SystemExit(f"redaes evaluate ended with {code}: {printed.getvalue()}")


# --- the bootstrap ----------------------------------------------------------------------------------------------------


def bootstrap(shape: Shape, folder: Path, passes: int, pairs: int, resamples: int) -> dict[str, Any]:
    """Seconds of the intervals of three correlations, of scores as a model gives them: with a decimal, and ties."""
    import numpy as np

    from redaes.evaluation.correlations import STATISTICS, estimate

    rng = np.random.default_rng(0)
    truth = rng.normal(5, 1.5, pairs)
    prediction = np.round(truth + rng.normal(0, 1.5, pairs), 1)
    before, processor = memory(shape.device)["peak_gb"], time.process_time()
    taken: dict[str, list[float]] = {"plcc": [], "srcc": [], "krcc": [], "krcc_without_ties": []}
    for _ in range(passes):
        for name in STATISTICS.keys() & taken.keys():
            ask = STATISTICS[name]
            taken[name].append(seconds_of(lambda ask=ask: estimate(ask, prediction, truth, resamples=resamples)))
        untied = prediction + rng.normal(0, 1e-6, pairs)
        ask = STATISTICS["krcc"]
        taken["krcc_without_ties"].append(
            seconds_of(lambda ask=ask, x=untied: estimate(ask, x, truth, resamples=resamples))
        )
    used = {"cpu_s": (time.process_time() - processor) / passes, "added_gb": memory(shape.device)["peak_gb"] - before}
    return {name: statistics.median(times) for name, times in taken.items()} | used


TASKS = {
    "batching/ours": ours,
    "batching/plain": plain,
    "expectation": expectation,
    "runner": runner,
    "bootstrap": bootstrap,
}

if __name__ == "__main__":
    serve(TASKS)
