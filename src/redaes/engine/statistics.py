"""The statistics the paper reports of its data (App. C), computed from the records that were written."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from redaes.engine.stages import all_better, mean_verification, same_direction
from redaes.records import Edit, GroupRecord, PairRecord, ScoreRecord

# The funnel from its wide end: first the pairs' way, then the groups'. A manifest's keys are sorted and cannot say it.
FUNNEL = (
    "sources",
    "pair_edits",
    "pair_edits_verified",
    "sources_with_enough_verified",
    "pair_edits_judged",
    "pair_edits_unanimously_better",
    "pairs",
    "group_edits",
    "group_edits_unanimous",
    "groups",
)


def dataset_statistics(
    scores: Sequence[ScoreRecord], edits: Sequence[Edit], pairs: Sequence[PairRecord], groups: Sequence[GroupRecord]
) -> dict[str, Any]:
    """Funnel, verification per editor (Tab. 8), agreement of the judges (Tab. 9), and what the consensus did."""
    fused = [r.fused for r in scores] + [e.fused for e in edits if e.fused]
    return {
        "funnel": funnel(scores, edits, pairs, groups),
        "verification": verification_table(edits),
        "judge_agreement": judge_agreement(edits),
        "fusion_methods": dict(sorted(Counter(f.method for f in fused).items())),
        "consensus_levels": dict(sorted(Counter(f.level for f in fused).items())),
        "categories": categories(edits),
        "group_sizes": {str(k): v for k, v in sorted(Counter(len(g.members) for g in groups).items())},
    }


def funnel(
    scores: Sequence[ScoreRecord], edits: Sequence[Edit], pairs: Sequence[PairRecord], groups: Sequence[GroupRecord]
) -> dict[str, int]:
    """How many of each came through each stage."""
    for_pairs = [e for e in edits if e.passed is not None]
    for_groups = [e for e in edits if e.passed is None]
    judged = [e for e in for_pairs if e.verdicts]
    return {
        "sources": len(scores),
        "pair_edits": len(for_pairs),
        "pair_edits_verified": sum(bool(e.passed) for e in for_pairs),
        "sources_with_enough_verified": len({e.source_id for e in judged}),
        "pair_edits_judged": len(judged),
        "pair_edits_unanimously_better": sum(all_better(e) for e in judged),
        "pairs": len(pairs),
        "group_edits": len(for_groups),
        "group_edits_unanimous": sum(same_direction(e) for e in for_groups),
        "groups": len(groups),
    }


def verification_table(edits: Iterable[Edit]) -> dict[str, dict[str, float]]:
    """Tab. 8: mean VIEScore and success rate of every editor."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    passed: Counter[str] = Counter()
    for edit in edits:
        if edit.verifications:
            values[edit.editor].append(mean_verification(edit.verifications))
            passed[edit.editor] += bool(edit.passed)
    return {
        editor: {"mean": round(sum(v) / len(v), 4), "success_rate": round(passed[editor] / len(v), 4), "n": len(v)}
        for editor, v in sorted(values.items())
    }


def judge_agreement(edits: Iterable[Edit]) -> dict[str, float]:
    """Tab. 9: share of judged edits, before filtering, on whose direction two judges agree."""
    agree: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for edit in edits:
        for a, b in combinations(edit.verdicts, 2):
            key = f"{a.judge} | {b.judge}"
            seen[key] += 1
            agree[key] += _sign(a.value) == _sign(b.value)
    return {key: round(agree[key] / seen[key], 4) for key in sorted(seen)}


def categories(edits: Iterable[Edit]) -> dict[str, dict[str, int]]:
    """Per edit category: how often it was judged, and unanimously better or worse."""
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for edit in edits:
        if edit.verdicts:
            row = table[edit.instruction.category]
            row["judged"] += 1
            row["better"] += all_better(edit)
            row["worse"] += same_direction(edit) and not all_better(edit)
    return {k: {c: table[k][c] for c in ("judged", "better", "worse")} for k in sorted(table)}


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
