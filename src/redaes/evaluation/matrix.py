"""Several scorers on several benchmarks: score what is missing, measure what is complete, say what cannot be done.

In: scorers and benchmarks (`redaes.evaluation.rivals`). Out: one result for each of both, kept on disk. One scorer is
open at a time. What fails is named in a line, and the rest goes on.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redaes.data.benchmarks import Benchmark, Item
from redaes.errors import UserError
from redaes.evaluation.benchmarks import drawn, keep, result, sharded
from redaes.evaluation.comparison import keep_compared
from redaes.evaluation.intervals import image_intervals, write_intervals
from redaes.evaluation.predictions import Answer, Predictions, is_about
from redaes.evaluation.processes import InThisProcess, OnDevices, OnRunner
from redaes.evaluation.rivals import Rival
from redaes.inference.asking import ScorerGivenUp
from redaes.inference.pools import scoring_runner
from redaes.registry import PluginSpec

Progress = Callable[[Iterator[list[Answer]], int], Iterator[list[Answer]]]


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        images: of each benchmark, at most; None: all.
        samples: answers about each image; None: what the scorer's settings say.
        batch_size: images at once; None: the scorer's own choice.
        device: where models run; None: their own choice.
        devices: one process on each; empty: this process alone.
        shard: (part, of how many), from 1: only this part of every benchmark is scored here.
        logistic: measure PLCC also after a logistic curve.
        runner: where the scorers work; None: here, or on `devices`.
    """

    images: int | None = None
    samples: int | None = None
    batch_size: int | None = None
    device: str | None = None
    devices: tuple[str, ...] = ()
    shard: tuple[int, int] = (1, 1)
    logistic: bool = False
    runner: PluginSpec | None = None


def evaluate_all(
    benchmarks: Sequence[Benchmark],
    rivals: Sequence[Rival],
    predictions: Predictions,
    settings: Settings,
    say: Callable[[str], None],
    progress: Progress,
) -> Iterator[dict[str, Any] | UserError]:
    """Every scorer on every benchmark.

    Args:
        benchmarks: read.
        rivals: not yet made.
        predictions: where answers are kept, and results beside them.
        settings: how.
        say: is called with a line for people.
        progress: passes answers on and shows them.

    Yields:
        A result (`redaes.evaluation.benchmarks.result`) for each scorer and benchmark whose images have all been
        answered about, or why there is none.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them is kept as an image's error
    for rival in rivals:
        try:
            with _opened(rival, settings) as scorer:
                for benchmark in benchmarks:
                    try:
                        found = _evaluate(benchmark, rival.name, scorer, predictions, settings, say, progress)
                    except ScorerGivenUp:
                        raise
                    except UserError as error:
                        yield _fault(f"{rival.name} on {benchmark.name}", error)
                    else:
                        if found:
                            yield found
        except UserError as error:
            yield _fault(rival.name, error)


def _fault(where: str, error: UserError) -> UserError:
    fault = UserError(f"{where}: {error}")
    fault.__cause__ = error
    return fault


def _opened(rival: Rival, settings: Settings) -> InThisProcess | OnDevices | OnRunner:
    how = {"batch_size": settings.batch_size, "samples": settings.samples}
    if settings.runner is not None:
        return OnRunner(rival, scoring_runner(settings.runner), device=settings.device, **how)
    if settings.devices:
        return OnDevices(rival, settings.devices, **how)
    return InThisProcess(rival, device=settings.device, **how)


def _evaluate(
    benchmark: Benchmark,
    name: str,
    scorer: InThisProcess | OnDevices | OnRunner,
    predictions: Predictions,
    settings: Settings,
    say: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any] | None:
    """Score this process's part of one benchmark; the result, if every image has been answered about."""
    chosen, mark = drawn(benchmark.items, settings.images), scorer.fingerprint
    mine: list[Item] = sharded(chosen, *settings.shard, scorer.batch_size)
    missing = predictions.missing(benchmark.name, mark, mine)
    done = len(mine) - len(missing)
    say(f"{name} on {benchmark.name}: {len(missing)} images to score, {done} images are scored already")
    try:
        for batch in progress(keep(scorer.answers(benchmark.name, missing), predictions), len(missing)):
            for answer in batch:
                if answer.status in ("unreadable", "failed"):
                    say(f"{benchmark.name}: {answer.id}: {answer.status}: {answer.error}")
    except UserError as error:  # such as a full disk: processes are in the middle of their work
        raise ScorerGivenUp(str(error)) from error
    answers = predictions.answers(benchmark.name, mark)
    ours = {item.id for item in mine}
    awaited = sum(item.id not in ours and not is_about(answers.get(item.id), item) for item in chosen)
    if awaited:
        part, parts = settings.shard
        say(f"{benchmark.name}: part {part} of {parts} is done; {awaited} images of other parts are awaited")
        return None
    found = result(benchmark, chosen, answers, scorer=name, fingerprint=mark, logistic=settings.logistic)
    found = keep_compared(predictions.folder, benchmark, found)
    write_intervals(predictions.folder, found, image_intervals(benchmark, chosen, answers))
    return found


def shard_of(words: str) -> tuple[int, int]:
    """Part and number of parts.

    Raises:
        UserError: not two numbers, or a part that there is not.

    Example:
        >>> shard_of("2/8")
        (2, 8)
    """
    found = re.fullmatch(r"(\d+)/(\d+)", words)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard is {words!r}; give PART/PARTS, from 1/4 to 4/4 for four parts")
    return int(found[1]), int(found[2])
