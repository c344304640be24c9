"""Score every image of a split's groups and measure the agreement with the consensus of the judges.

In: a dataset (`redaes.data.manifest`) and a scorer. Out: one JSON file with every prediction and every measure, enough
to draw the report without the model. METHOD section 4, with these choices [O, not from the paper]:

- The truth of an image is S(x) + g of its group, clipped to [0, 10]; within a group it is g itself, unclipped.
- Failed parses are treated in both ways that METHOD asks for: left out, and set to the mean prediction.
- Intervals come from resampling whole groups (see `redaes.evaluation.correlations`).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from redaes.data.groups import Member
from redaes.data.manifest import Manifest, write_atomically
from redaes.errors import UserError
from redaes.evaluation.correlations import (
    STATISTICS,
    Estimate,
    FailureTreatment,
    Statistic,
    estimate,
    estimate_difference,
    pairwise_statistic,
    treat_failures,
    within_srcc_statistic,
)
from redaes.inference import ScorerProtocol
from redaes.records import GroupRecord, Split

SCHEMA_VERSION = 1
MEASURES = ("srcc_within", "pairwise_accuracy", "srcc", "plcc", "krcc", "mae")
_WITHIN = {"srcc_within": within_srcc_statistic, "pairwise_accuracy": pairwise_statistic}


@dataclass(frozen=True)
class Prediction:
    """One image of one group, what is true of it and what the model said.

    Attributes:
        image: path inside the dataset.
        group: id of its group.
        photograph: the photograph the group was cut from.
        g: consensus difference from the group's source, in [-10, 10].
        truth: S(x) + g, clipped to [0, 10].
        score: predicted, in [0, 10]; None where the answer could not be parsed.
        reasoning: the model's words.
        text: the raw completion.
    """

    image: str
    group: str
    photograph: str
    g: float
    truth: float
    score: float | None
    reasoning: str
    text: str


def choose_groups(groups: Sequence[GroupRecord], samples: int | None, seed: int = 0) -> list[GroupRecord]:
    """All groups, or whole groups drawn at random until they hold at least `samples` images; in the given order.

    Args:
        groups: of one split.
        samples: how many images are wanted; None takes all.
        seed: of the draw.
    """
    if samples is None:
        return list(groups)
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    images = 0
    for index in order:
        if images >= samples:
            break
        chosen.add(index)
        images += len(groups[index].members)
    return [group for index, group in enumerate(groups) if index in chosen]


def predict(
    dataset: Manifest, groups: Sequence[GroupRecord], scorer: ScorerProtocol, batch_size: int = 16
) -> Iterator[list[Prediction]]:
    """Score every member of every group, in order, in batches.

    Args:
        dataset: where the images are.
        groups: what to score.
        scorer: sees each image alone.
        batch_size: images per batch.
    """
    images = [(group, Member(group.id, m.image, m.g, group.score)) for group in groups for m in group.members]
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        scores = scorer.score([dataset.open(member.image) for _, member in batch])
        yield [
            Prediction(
                image=member.image,
                group=group.id,
                photograph=group.source.photograph,
                g=member.g,
                truth=member.truth,
                score=score.value,
                reasoning=score.reasoning,
                text=score.text,
            )
            for (group, member), score in zip(batch, scores, strict=True)
        ]


def measure(predictions: Sequence[Prediction], seed: int = 0) -> dict[str, Any]:
    """Every measure with its interval, under both treatments of failed parses.

    Args:
        predictions: of one model on one split.
        seed: of the bootstrap.

    Returns:
        `n`, `groups`, `parsed`, `parse_failure_rate`, and under `parsed_only` and `failures_as_mean` one
        `{value, low, high}` per name in `MEASURES`, null where a measure is not defined.
    """
    n, parsed = len(predictions), sum(p.score is not None for p in predictions)
    return {
        "n": n,
        "groups": len({p.group for p in predictions}),
        "photographs": len({p.photograph for p in predictions}),
        "parsed": parsed,
        "parse_failure_rate": (n - parsed) / n if n else None,
        **{treatment: _measure_one(predictions, treatment, seed) for treatment in get_args(FailureTreatment)},
    }


def measure_difference(
    before: Sequence[Prediction], after: Sequence[Prediction], name: str, seed: int = 0
) -> Estimate | None:
    """By how much a measure rose from one model to another on the same images, with a paired interval.

    Failed parses count as the model's mean prediction, so that both models are measured on every image.

    Args:
        before: predictions of one model.
        after: predictions of the other; their order does not matter.
        name: one of `MEASURES`.
        seed: of the bootstrap.

    Returns:
        The difference; None if the two were not measured on the same images or one has no parsed answer.
    """
    of_image = {(p.group, p.image): p for p in after}
    if {(p.group, p.image) for p in before} != set(of_image):
        return None
    paired = [of_image[p.group, p.image] for p in before]
    (first, kept), (second, also_kept) = (treat_failures(_scores(ps), "failures_as_mean") for ps in (before, paired))
    if not before or not kept.all() or not also_kept.all():
        return None
    groups = [p.group for p in before]
    return estimate_difference(_statistic(name, groups), first, second, _truths(before, name), groups, seed=seed)


def evaluation_document(
    predictions: Sequence[Prediction], *, model: str, split: Split, dataset: Manifest, seconds: float
) -> dict[str, Any]:
    """What `redaes evaluate` writes.

    Args:
        predictions: of the whole split, or of the groups drawn from it.
        model: fingerprint of the model.
        split: which split.
        dataset: where the groups came from.
        seconds: how long scoring took.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "split": split,
        "dataset_seed": dataset.info.get("seed"),
        "seconds": round(seconds, 3),
        "metrics": measure(predictions),
        "predictions": [asdict(p) for p in predictions],
    }


def write_evaluation(path: Path, document: Mapping[str, Any]) -> None:
    """Write an evaluation, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    import json

    try:
        write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def read_evaluation(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """An evaluation written by `write_evaluation`: the document, and its predictions.

    Raises:
        UserError: the file is something else.
    """
    import json

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        predictions = [Prediction(**row) for row in document["predictions"]]
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {document['schema_version']}, not {SCHEMA_VERSION}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no evaluation written by `redaes evaluate`: {error}") from error
    return document, predictions


def _measure_one(predictions: Sequence[Prediction], treatment: FailureTreatment, seed: int) -> dict[str, Any]:
    scores, kept = treat_failures(_scores(predictions), treatment)
    remaining = [p for p, keep in zip(predictions, kept, strict=True) if keep]
    groups = [p.group for p in remaining]
    return {
        name: estimate(
            _statistic(name, groups), scores[kept], _truths(remaining, name), groups or None, seed=seed
        ).as_json()
        for name in MEASURES
    }


def _statistic(name: str, groups: Sequence[str]) -> Statistic:
    return _WITHIN[name](groups) if name in _WITHIN else STATISTICS[name]


def _scores(predictions: Sequence[Prediction]) -> list[float]:
    return [float("nan") if p.score is None else p.score for p in predictions]


def _truths(predictions: Sequence[Prediction], name: str) -> list[float]:
    return [p.g if name in _WITHIN else p.truth for p in predictions]
