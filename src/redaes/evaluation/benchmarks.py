"""One scorer on one benchmark: score what is missing, then measure all of it.

In: a benchmark (`redaes.data.benchmarks`) and a scorer. Out: answers, kept by `redaes.evaluation.predictions`, and one
JSON document with every count and every measure. Nothing is dropped without a count: images that are listed and not
there, that cannot be opened, that the scorer broke on, and answers without a score (METHOD 4).
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from redaes.data.benchmarks import Benchmark, Item
from redaes.evaluation.intervals import image_intervals, summary
from redaes.evaluation.measures import measure_benchmark
from redaes.evaluation.predictions import Answer, Predictions
from redaes.evaluation.scoring import answers as asked
from redaes.inference import ScorerProtocol
from redaes.inference.asking import Status

T = TypeVar("T")
COUNTED: Mapping[str, Status] = {
    "n_unreadable": "unreadable",
    "n_failed": "failed",
    "n_unparsed": "unparsed",
    "n_scored": "ok",
}
"""How a result calls the number of answers of each status."""


def drawn(items: Sequence[Item], images: int | None, seed: int = 0) -> list[Item]:
    """At most so many images, at random but always the same, in the given order.

    Args:
        items: all of them.
        images: how many are wanted; None takes all.
        seed: of the draw.
    """
    if images is None or images >= len(items):
        return list(items)
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), images))]


def sharded(items: Sequence[T], part: int, parts: int, batch_size: int) -> list[T]:
    """One of several parts, of whole batches, so that a scorer whose answers depend on the batch gives the same ones.

    Args:
        items: all of them.
        part: from 1 to `parts`.
        parts: how many there are.
        batch_size: items that stay together.

    Example:
        >>> sharded("aabbccd", 2, 2, 2), sharded("aabbccd", 1, 2, 2)
        (['b', 'b', 'd'], ['a', 'a', 'c', 'c'])
    """
    return [item for place, item in enumerate(items) if place // batch_size % parts == part - 1]


def score_missing(
    benchmark: Benchmark,
    items: Sequence[Item],
    scorer: ScorerProtocol,
    fingerprint: str,
    predictions: Predictions,
    batch_size: int = 16,
) -> Iterator[list[Answer]]:
    """Score images in this process and keep what is said of each.

    Args:
        benchmark: that the images are of.
        items: to score; `Predictions.missing` says which.
        scorer: sees each image alone.
        fingerprint: of the scorer.
        predictions: where answers are kept.
        batch_size: images that the scorer works on at once.

    Yields:
        Answers as they come, in the order of the items.

    Raises:
        ScorerGivenUp: the scorer's settings are at fault, or it breaks on image after image.
    """
    return keep(asked(benchmark.name, items, scorer, fingerprint, batch_size), predictions)


def keep(answers: Iterable[list[Answer]], predictions: Predictions) -> Iterator[list[Answer]]:
    """Pass answers on, and keep them; also where what they come from breaks."""
    with predictions.writer() as writer:
        for batch in answers:
            writer.add(batch)
            yield batch


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
    logistic: bool = False,
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
        logistic: measure `plcc_logistic` too.

    Returns:
        What `redaes evaluate --format json` prints for one line of the table, and in `left_out_ids` the names behind
        the counts of `left_out`. `uncertainty` is null for a scorer that says nothing of its own spread.
    """
    items = [item for item in items if item.id in answers]
    statuses = Counter(answers[item.id].status for item in items)
    measured = [item for item in items if answers[item.id].status != "unreadable"]
    predicted = [predicted_share(answers[item.id]) for item in measured]
    truths = [benchmark.normalised(item.mos) for item in measured]
    measures = measure_benchmark(predicted, truths, groups_of(measured), seed, logistic=logistic)
    return {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "scorer": scorer,
        "fingerprint": fingerprint,
        "n_listed": benchmark.n_listed,
        "n_found": len(benchmark.items),
        "n_drawn": len(items),
        **{name: statuses[status] for name, status in COUNTED.items()},
        "left_out": {reason: len(ids) for reason, ids in benchmark.left_out.items()},
        "left_out_ids": {reason: list(ids) for reason, ids in benchmark.left_out.items()},
        "notes": list(benchmark.notes),
        **measures["parsed_only"],
        "measures": measures,
        "uncertainty": summary(image_intervals(benchmark, items, answers)),
        "seconds": round(sum(answers[item.id].seconds for item in items), 3),
    }
