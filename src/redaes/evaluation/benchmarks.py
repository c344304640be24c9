"""One scorer on one benchmark: score what is missing, then measure all of it.

In: a benchmark (`redaes.data.benchmarks`) and a scorer. Out: answers, kept by `redaes.evaluation.predictions`, and one
JSON document with every count and every measure. Nothing is dropped without a count: images that are listed and not
there, that cannot be opened, that the scorer broke on, and answers without a score (METHOD 4).
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from redaes.data.benchmarks import Benchmark, Item
from redaes.data.images import VIEW_SIDE, ImageError, open_image
from redaes.errors import UserError
from redaes.evaluation.measures import measure_benchmark
from redaes.evaluation.predictions import Answer, Predictions, file_size
from redaes.inference import Score, ScorerProtocol

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


def drawn(items: Sequence[Item], samples: int | None, seed: int = 0) -> list[Item]:
    """At most so many images, at random but always the same, in the given order.

    Args:
        items: all of them.
        samples: images wanted; None takes all.
        seed: of the draw.
    """
    if samples is None or samples >= len(items):
        return list(items)
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), samples))]


def score_missing(
    benchmark: Benchmark,
    items: Sequence[Item],
    scorer: ScorerProtocol,
    fingerprint: str,
    predictions: Predictions,
    batch_size: int = 16,
) -> Iterator[list[Answer]]:
    """Score images in batches and keep what is said of each.

    Args:
        benchmark: that the images are of.
        items: to score; `Predictions.missing` says which.
        scorer: sees each image alone.
        fingerprint: of the scorer.
        predictions: where answers are kept.
        batch_size: images handed over at once.

    Yields:
        The answers of each batch, in the order of the items.
    """
    with predictions.writer() as writer:
        for start in range(0, len(items), batch_size):
            began = time.monotonic()
            batch = items[start : start + batch_size]
            said = _ask(batch, scorer)
            seconds = (time.monotonic() - began) / len(batch)
            answers = [
                Answer(
                    benchmark=benchmark.name,
                    id=item.id,
                    fingerprint=fingerprint,
                    seconds=seconds,
                    size=file_size(item.path),
                    at=time.time(),
                    **_fields(outcome),
                )
                for item, outcome in zip(batch, said, strict=True)
            ]
            writer.add(answers)
            yield answers


def _ask(items: Sequence[Item], scorer: ScorerProtocol) -> list[Score | Exception]:
    """What is said of each image, or why nothing is."""
    opened: list[Image | ImageError] = [_open(item) for item in items]
    images = [image for image in opened if not isinstance(image, ImageError)]
    scores = iter(_score(images, scorer))
    return [image if isinstance(image, ImageError) else next(scores) for image in opened]


def _open(item: Item) -> "Image | ImageError":
    try:
        return open_image(item.path, max_side=VIEW_SIDE)
    except ImageError as error:
        return error


def _score(images: "Sequence[Image]", scorer: ScorerProtocol) -> list[Score | Exception]:
    """A scorer that breaks on a batch is asked image by image: whichever it breaks on alone has no answer.

    Raises:
        UserError: of the scorer: its settings are at fault, so no image would fare better.
    """
    try:
        return _checked(scorer.score(images), len(images)) if images else []
    except UserError:
        raise
    except Exception as error:  # whatever a scorer of another package raises; it is kept with the image
        if len(images) == 1:
            return [error]
        log.warning("a batch of %d failed (%r) and is scored one by one", len(images), error)
        return [outcome for image in images for outcome in _score([image], scorer)]


def _checked(scores: Sequence[Score], images: int) -> list[Score | Exception]:
    """The scores, with an error in the place of one that is no number in [0, 10]."""
    if len(scores) != images:
        raise ValueError(f"{len(scores)} scores for {images} images")
    return [
        score
        if score.value is None or 0 <= score.value <= 10
        else ValueError(f"the score {score.value} is not in [0, 10]")
        for score in scores
    ]


def _fields(outcome: Score | Exception) -> dict[str, Any]:
    if isinstance(outcome, Score):
        status = "unparsed" if outcome.value is None else "ok"
        error = "no score can be read from the answer" if outcome.value is None else ""
        return {
            "value": outcome.value,
            "std": outcome.std,
            "reasoning": outcome.reasoning,
            "text": outcome.text,
            "status": status,
            "error": error,
        }
    unreadable = isinstance(outcome, ImageError)
    words = outcome.reason if isinstance(outcome, ImageError) else f"{type(outcome).__name__}: {outcome}"
    return {
        "value": None,
        "std": None,
        "reasoning": "",
        "text": "",
        "status": "unreadable" if unreadable else "failed",
        "error": " ".join(words.split()),
    }


def predicted_share(answer: Answer) -> float:
    """The score as a share of [0, 10]; NaN where there is none."""
    return float("nan") if answer.value is None else answer.value / 10


def groups_of(items: Sequence[Item]) -> list[str] | None:
    """The group of each image; None unless all are in one."""
    groups = [item.group for item in items]
    return groups if groups and all(groups) else None


def result(
    benchmark: Benchmark,
    items: Sequence[Item],
    answers: dict[str, Answer],
    *,
    scorer: str,
    fingerprint: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Counts and measures of one scorer on one benchmark.

    Truths are normalised to [0, 1] from the set's native range, predictions from [0, 10]. An answer without a score
    counts as a failed parse and is treated in both ways, and so does an image that the scorer broke on: it is no easier
    for that. Images that cannot be opened are left out of both.

    Args:
        benchmark: whole, for its counts.
        items: that were to be scored, all or drawn from it.
        answers: by image id; those of other images are ignored.
        scorer: its name, for people.
        fingerprint: of the scorer.
        seed: of the bootstrap.

    Returns:
        What `redaes evaluate --format json` prints for one line of the table.
    """
    items = [item for item in items if item.id in answers]
    statuses = Counter(answers[item.id].status for item in items)
    measured = [item for item in items if answers[item.id].status != "unreadable"]
    predicted = [predicted_share(answers[item.id]) for item in measured]
    truths = [benchmark.normalised(item.mos) for item in measured]
    measures = measure_benchmark(predicted, truths, groups_of(measured), seed)
    return {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "scorer": scorer,
        "fingerprint": fingerprint,
        "n_listed": benchmark.n_listed,
        "n_found": len(benchmark.items),
        "n_drawn": len(items),
        "n_unreadable": statuses["unreadable"],
        "n_failed": statuses["failed"],
        "n_unparsed": statuses["unparsed"],
        "n_scored": statuses["ok"],
        "left_out": {reason: len(ids) for reason, ids in benchmark.left_out.items()},
        "notes": list(benchmark.notes),
        **measures["parsed_only"],
        "measures": measures,
        "seconds": round(sum(answers[item.id].seconds for item in items), 3),
    }
