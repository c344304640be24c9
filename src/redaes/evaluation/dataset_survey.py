"""One pass over a dataset's files: what no manifest holds, and the samples that are shown.

In: a dataset folder (`redaes.data.manifest`). Out: a `Survey`. Records stream through; what stays is counts, histograms
and the sampled records, so that memory does not grow with the dataset.

Samples are uniform: the records with the lowest numbers derived from (seed, id), whatever their order.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redaes.data.manifest import Manifest, read_records
from redaes.engine.stages import all_better, derive, same_direction
from redaes.evaluation.words import outcome
from redaes.records import Edit, Fused, GroupRecord, PairRecord, ScoreRecord

R = TypeVar("R", PairRecord, GroupRecord, Edit)

MOST_KINDS = 500
"""Distinct licences that are counted by name; a dataset may carry one per image."""

OTHER = "(others)"


class Histogram:
    """Counts of values in bins of equal width, with their number, mean and extremes.

    Args:
        low: lower end of the first bin; what lies below counts there.
        high: upper end of the last bin; what lies above counts there.
        bins: how many.

    Example:
        >>> scores = Histogram(0, 10, 5)
        >>> for score in (1.0, 1.5, 10.0):
        ...     scores.add(score)
        >>> scores.counts, scores.mean
        ([2, 0, 0, 0, 1], 4.166666666666667)
    """

    def __init__(self, low: float, high: float, bins: int) -> None:
        self.low, self.high = low, high
        self.counts = [0] * bins
        self.n = 0
        self.total = 0.0
        self.least = self.most = 0.0

    def add(self, value: float) -> None:
        """Count one finite value."""
        index = int((value - self.low) / (self.high - self.low) * len(self.counts))
        self.counts[max(0, min(len(self.counts) - 1, index))] += 1
        self.least, self.most = (min(self.least, value), max(self.most, value)) if self.n else (value, value)
        self.n += 1
        self.total += value

    @property
    def mean(self) -> float | None:
        """Of all values; None without any."""
        return self.total / self.n if self.n else None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        least, most = (self.least, self.most) if self.n else (None, None)
        facts = {"n": self.n, "mean": self.mean, "min": least, "max": most}
        return {**facts, "low": self.low, "high": self.high, "counts": self.counts}


def _table() -> defaultdict[str, Counter[str]]:
    return defaultdict(Counter)


@dataclass
class Survey:
    """What a pass over the files found.

    Attributes:
        counts: records per file.
        splits: records per split and file, and images in groups.
        scores: S(x) of every source.
        deltas: consensus differences of every judged edit, kept or not.
        pair_deltas: those of the pairs.
        group_deltas: those of the groups' variants.
        matrix: fused scores and differences by (level, no / one / multiple outliers), the cells of Tab. 7.
        orientations: per orientation, edits judged, and unanimously better or worse.
        outcomes: edits by what became of them (`words.OUTCOMES`).
        answers: answers in the records, by role.
        licences: sources per licence.
        pairs: sampled pairs.
        groups: sampled groups.
        rejected: sampled edits that are not valid.
        siblings: all edits of the sampled pairs' and groups' sources, by source.
        sources: the scores of the samples' sources, by the source's id.
    """

    counts: Counter[str] = field(default_factory=Counter)
    splits: defaultdict[str, Counter[str]] = field(default_factory=_table)
    scores: Histogram = field(default_factory=lambda: Histogram(0, 10, 20))
    deltas: Histogram = field(default_factory=lambda: Histogram(-10, 10, 40))
    pair_deltas: Histogram = field(default_factory=lambda: Histogram(0, 10, 20))
    group_deltas: Histogram = field(default_factory=lambda: Histogram(-10, 10, 40))
    matrix: Counter[tuple[str, int]] = field(default_factory=Counter)
    orientations: defaultdict[str, Counter[str]] = field(default_factory=_table)
    outcomes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    pairs: list[PairRecord] = field(default_factory=list)
    groups: list[GroupRecord] = field(default_factory=list)
    rejected: list[Edit] = field(default_factory=list)
    siblings: defaultdict[str, list[Edit]] = field(default_factory=lambda: defaultdict(list))
    sources: dict[str, ScoreRecord] = field(default_factory=dict)


def survey(dataset: Manifest, pairs: int, groups: int, rejected: int, seed: int = 0) -> Survey:
    """Read every record of a dataset once.

    Args:
        dataset: the dataset.
        pairs: how many pairs to sample.
        groups: how many groups to sample.
        rejected: how many edits to sample of those that are not valid.
        seed: of the samples.

    Raises:
        UserError: a file that is missing, or a record that is damaged, by file and line.
    """
    found = Survey()
    found.pairs = _sample(_pairs(dataset, found), pairs, seed)
    found.groups = _sample(_groups(dataset, found), groups, seed)
    shown = {pair.source.id for pair in found.pairs} | {group.source.id for group in found.groups}
    found.rejected = _sample(_rejected(dataset, found, shown), rejected, seed)
    _read_sources(dataset, found, shown | {edit.source_id for edit in found.rejected})
    found.counts["calibration"] = sum(1 for _ in read_records(dataset.root / "calibration.jsonl", ScoreRecord))
    return found


def _sample(records: Iterable[R], size: int, seed: int) -> list[R]:
    return heapq.nsmallest(size, records, key=lambda record: derive(seed, "report", record.id))


def _pairs(dataset: Manifest, found: Survey) -> Iterator[PairRecord]:
    for pair in read_records(dataset.root / "pairs.jsonl", PairRecord):
        found.counts["pairs"] += 1
        found.splits[pair.source.split]["pairs"] += 1
        found.pair_deltas.add(pair.delta)
        yield pair


def _groups(dataset: Manifest, found: Survey) -> Iterator[GroupRecord]:
    for group in read_records(dataset.root / "groups.jsonl", GroupRecord):
        found.counts["groups"] += 1
        found.splits[group.source.split].update(groups=1, images=len(group.members))
        for member in group.members[1:]:
            found.group_deltas.add(member.g)
        yield group


def _rejected(dataset: Manifest, found: Survey, shown: set[str]) -> Iterator[Edit]:
    for edit in read_records(dataset.root / "edits.jsonl", Edit):
        became = outcome(edit)
        found.counts["edits"] += 1
        found.outcomes[became] += 1
        found.answers.update(edit=1, verify=len(edit.verifications), compare=len(edit.verdicts))
        if edit.fused:
            found.deltas.add(edit.fused.value)
            _count_consensus(found, edit.fused)
        if edit.verdicts:
            better = all_better(edit)
            worse = same_direction(edit) and not better
            found.orientations[edit.instruction.orientation].update(judged=1, better=better, worse=worse)
        if edit.source_id in shown:
            found.siblings[edit.source_id].append(edit)
        if became != "valid":
            yield edit


def _read_sources(dataset: Manifest, found: Survey, shown: set[str]) -> None:
    for record in read_records(dataset.root / "sources.jsonl", ScoreRecord):
        source = record.source
        found.counts["sources"] += 1
        found.splits[source.split]["sources"] += 1
        found.answers["score"] += len(record.verdicts)
        found.scores.add(record.fused.value)
        _count_consensus(found, record.fused)
        known = source.license in found.licences or len(found.licences) < MOST_KINDS
        found.licences[source.license if known else OTHER] += 1
        if source.id in shown:
            found.sources[source.id] = record


def _count_consensus(found: Survey, fused: Fused) -> None:
    found.matrix[fused.level, min(len(fused.outliers), 2)] += 1
