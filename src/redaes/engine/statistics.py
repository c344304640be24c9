"""The statistics the paper reports of its data (App. C), gathered record by record, so that any number fits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from redaes.engine.stages import all_better, mean_verification, same_direction
from redaes.records import Edit, Fused, GroupRecord, PairRecord, ScoreRecord

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

# What a lazy build sees a biased part of: it asks no further where an answer cannot change the dataset.
BIASED_IF_LAZY = ("categories", "judge_agreement", "verification")


def funnel(edits: Iterable[Edit], pairs: int | bool = 0, groups: int | bool = 0, sources: int = 1) -> Counter[str]:
    """How many of each came through each stage; funnels of several sources add up.

    Args:
        edits: of the sources.
        pairs: made of them.
        groups: likewise.
        sources: how many.
    """
    count = Counter(dict.fromkeys(FUNNEL, 0))
    judged_sources = set()
    for edit in edits:
        if edit.passed is None:
            count["group_edits"] += 1
            count["group_edits_unanimous"] += same_direction(edit)
            continue
        count["pair_edits"] += 1
        count["pair_edits_verified"] += edit.passed
        if edit.verdicts:
            judged_sources.add(edit.source_id)
            count["pair_edits_judged"] += 1
            count["pair_edits_unanimously_better"] += all_better(edit)
    count.update(sources=sources, pairs=int(pairs), groups=int(groups))
    count["sources_with_enough_verified"] = len(judged_sources)
    return count


class Statistics:
    """Funnel, verification per editor (Tab. 8), agreement of the judges (Tab. 9), and what the consensus did."""

    def __init__(self) -> None:
        self._funnel: Counter[str] = Counter()
        self._fused: dict[str, Counter[str]] = {"fusion_methods": Counter(), "consensus_levels": Counter()}
        self._verified: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._values: defaultdict[str, float] = defaultdict(float)
        self._agree: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._categories: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._group_sizes: Counter[int] = Counter()
        self._calls: dict[str, Counter[str]] = {role: Counter() for role in ("edit", "verify", "compare")}

    def add(
        self,
        score: ScoreRecord,
        edits: Sequence[Edit],
        pair: PairRecord | None,
        group: GroupRecord | None,
        saved: Mapping[str, int] | None = None,
    ) -> None:
        """Take in one source with all that was made of it, and the calls that were not made, by role."""
        self._funnel += funnel(edits, pair is not None, group is not None)
        self._fuse(score.fused)
        for edit in edits:
            self._add_edit(edit)
        if group is not None:
            self._group_sizes[len(group.members)] += 1
        self._calls["edit"]["made"] += len(edits)
        self._calls["verify"]["made"] += sum(len(e.verifications) for e in edits)
        self._calls["compare"]["made"] += sum(len(e.verdicts) for e in edits)
        for role, count in (saved or {}).items():
            self._calls[role]["saved"] += count

    def as_dict(self, lazy: bool = False) -> dict[str, Any]:
        """The figures, rounded to four digits, as a manifest holds them.

        Args:
            lazy: name the tables that are biased because of it.
        """
        return {
            "biased": list(BIASED_IF_LAZY) if lazy else [],
            "calls": {role: {k: count[k] for k in ("made", "saved")} for role, count in self._calls.items()},
            "funnel": {name: self._funnel[name] for name in FUNNEL},
            "verification": {name: self._verification(name) for name in sorted(self._verified)},
            "judge_agreement": {k: round(c["agree"] / c["seen"], 4) for k, c in sorted(self._agree.items())},
            **{name: dict(sorted(count.items())) for name, count in self._fused.items()},
            "categories": {
                k: {c: self._categories[k][c] for c in ("judged", "better", "worse")} for k in sorted(self._categories)
            },
            "group_sizes": {str(k): v for k, v in sorted(self._group_sizes.items())},
        }

    def _fuse(self, fused: Fused) -> None:
        self._fused["fusion_methods"][fused.method] += 1
        self._fused["consensus_levels"][fused.level] += 1

    def _add_edit(self, edit: Edit) -> None:
        if edit.fused:
            self._fuse(edit.fused)
        if edit.verifications:
            self._verified[edit.editor].update(n=1, passed=int(bool(edit.passed)))
            self._values[edit.editor] += mean_verification(edit.verifications)
        for a, b in combinations(edit.verdicts, 2):
            self._agree[f"{a.judge} | {b.judge}"].update(seen=1, agree=int(_sign(a.value) == _sign(b.value)))
        if edit.verdicts:
            better, same = all_better(edit), same_direction(edit)
            self._categories[edit.instruction.category].update(judged=1, better=better, worse=same and not better)

    def _verification(self, editor: str) -> dict[str, float]:
        """Mean VIEScore and success rate of an editor."""
        n = self._verified[editor]["n"]
        mean, rate = self._values[editor] / n, self._verified[editor]["passed"] / n
        return {"mean": round(mean, 4), "success_rate": round(rate, 4), "n": n}


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
