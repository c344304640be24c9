"""The audit of a dataset: one page to see what came through, what it cost, and why every judgement is what it is.

In: a dataset folder, and the totals of its ledger where there is one. Out: a page (`page_of`), or the same numbers for
programs (`numbers_of`). The funnel and Tab. 8 and 9 are those the engine recorded; distributions, licences and the
samples come from one pass over the records (`dataset_survey`). What is shown is a uniform sample, never a choice.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from redaes.data.manifest import Manifest
from redaes.engine.database import Total
from redaes.errors import UserError
from redaes.evaluation import charts
from redaes.evaluation.dataset_cards import Gallery
from redaes.evaluation.dataset_survey import Histogram, Survey, survey
from redaes.evaluation.html import Album, render, script
from redaes.evaluation.paper_tables import paper_tables
from redaes.evaluation.words import FUNNEL, LEVEL_WORDS, OUTCOMES, flattened
from redaes.fusion import STRATEGY
from redaes.records import Split

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE_LIMIT = 40_000_000
"""Bytes of a page."""
PICTURES_LIMIT = 24_000_000
"""Bytes of the pictures among them; what does not fit is left out and counted."""
FILES = ("sources", "edits", "pairs", "groups", "calibration")
ROWS_SHOWN = 60
"""Rows of a table at most."""
_RATES = {row.name: float(row.paper["success_rate"]) for row in paper_tables()[8].rows}
_AGREEMENTS = [float(row.paper["agreement"]) for row in paper_tables()[9].rows]
PAPER_SUCCESS = (min(_RATES.values()), _RATES["Average"], max(_RATES.values()))
PAPER_AGREEMENT = (min(_AGREEMENTS), max(_AGREEMENTS))
PAIR_STEPS = ("pair_edits", "pair_edits_verified", "pair_edits_judged", "pair_edits_unanimously_better", "pairs")
GROUP_STEPS = ("group_edits", "group_edits_unanimous", "groups")
SHOWN = (
    "funnel",
    "verification",
    "judge_agreement",
    "fusion_methods",
    "consensus_levels",
    "categories",
    "group_sizes",
    "calls",
    "biased",
)
"""Keys of the manifest's statistics that have a place of their own; others are listed."""
STEP_NAMES = {
    "pair_edits": "edits made for pairs",
    "pair_edits_verified": "verified: done, and no more than asked",
    "pair_edits_judged": "judged: their source has enough of them",
    "pair_edits_unanimously_better": "better in the eyes of every judge",
    "pairs": "pairs: one for each source",
    "group_edits": "edits made for groups",
    "group_edits_unanimous": "all judges agree on the direction",
    "groups": "groups with enough of them",
}
ROLES = ("score", "instruct", "edit", "verify", "diversify", "compare")
ROLE_WORDS = {
    "score": "scores of sources",
    "edit": "edits",
    "verify": "verifications",
    "compare": "comparisons",
}


@dataclass(frozen=True)
class Audit:
    """A dataset with everything that a report of it says.

    Attributes:
        dataset: the folder.
        survey: what the records hold.
        totals: of the ledger; None without one.
        seed: of the samples.
    """

    dataset: Manifest
    survey: Survey
    totals: Sequence[Total] | None
    seed: int

    @property
    def statistics(self) -> Mapping[str, Any]:
        """What the engine recorded."""
        recorded: Mapping[str, Any] = self.dataset.info.get("statistics", {})
        return recorded

    @property
    def config(self) -> Mapping[str, Any]:
        """What the dataset was made of, as far as the manifest says so."""
        config: Mapping[str, Any] = self.dataset.info.get("config", {})
        return config

    @property
    def lazy(self) -> bool:
        """The engine skipped what could not change the dataset."""
        return self.config.get("mode") == "lazy"

    @property
    def threshold(self) -> float:
        """The verifiers' mean at which an edit passes."""
        return float(self.config.get("verification", {}).get("threshold", 7.5))

    def warnings(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        found: list[str] = []
        recorded = self.dataset.info.get("counts", {})
        for name in FILES:
            if name in recorded and self.survey.counts[name] != recorded[name]:
                held = self.survey.counts[name]
                found.append(f"{name}.jsonl holds {held:,} records, the manifest says {recorded[name]:,}.")
        if self.lazy:
            found.append(
                "This dataset was built lazily: the engine asked only what could change the dataset. The samples are "
                "those of an eager build, but the shares of Tab. 8 and 9 are biased, because judging stopped at the "
                "first dissent. Build with mode=eager to measure them."
            )
        if recorded.get("incomplete"):
            n = recorded["incomplete"]
            found.append(f"{n:,} sources are left out because a call was given up; `redaes data retry` asks again.")
        return found


def audit(
    root: str | Path,
    totals: Sequence[Total] | None = None,
    pairs: int = 60,
    groups: int = 20,
    rejected: int = 40,
    seed: int = 0,
) -> Audit:
    """Read a dataset.

    Args:
        root: the dataset's folder.
        totals: of its ledger, where there is one.
        pairs: pairs sampled to be shown.
        groups: groups sampled to be shown.
        rejected: edits sampled to be shown of those that are not valid.
        seed: of the samples.

    Raises:
        UserError: no dataset, or a damaged manifest or record, by file and line.
    """
    try:
        dataset = Manifest(root)
    except ValueError as error:
        raise UserError(f"{Path(root) / 'manifest.json'} is damaged: {error}") from error
    return Audit(dataset, survey(dataset, pairs, groups, rejected, seed), totals, seed)


def numbers_of(found: Audit) -> dict[str, Any]:
    """Everything the page says in numbers, for programs; null where a part is missing."""
    info, held = found.dataset.info, found.survey
    return {
        "dataset": str(found.dataset.root),
        "seed": info.get("seed"),
        "mode": found.config.get("mode"),
        "warnings": found.warnings(),
        "counts": {name: held.counts[name] for name in FILES},
        "splits": {split: dict(counts) for split, counts in held.splits.items()},
        "statistics": dict(found.statistics),
        "distributions": {
            "score": held.scores.as_json(),
            "delta": held.deltas.as_json(),
            "pair_delta": held.pair_deltas.as_json(),
            "group_delta": held.group_deltas.as_json(),
        },
        "consensus": [{"level": k[0], "outliers": k[1], "n": n} for k, n in sorted(held.matrix.items())],
        "orientations": {name: dict(row) for name, row in sorted(held.orientations.items())},
        "outcomes": dict(held.outcomes),
        "answers": dict(held.answers),
        "licences": dict(held.licences.most_common()),
        "cost": None if found.totals is None else _cost_rows(found.totals),
        "sampled": {
            "pairs": [p.id for p in held.pairs],
            "groups": [g.id for g in held.groups],
            "rejected": [e.id for e in held.rejected],
        },
    }


def page_of(found: Audit, pictures_limit: int = PICTURES_LIMIT, page_limit: int = PAGE_LIMIT) -> str:
    """The page, as one file.

    Args:
        found: the dataset.
        pictures_limit: bytes of pictures at most; those that do not fit are left out.
        page_limit: bytes of the whole page at most.

    Raises:
        UserError: a picture's path leaves the dataset, or there is so much text that the page exceeds its limit.
    """
    page = _rendered(found, Album(pictures_limit, found.dataset.path))
    size = len(page.encode())
    if size > page_limit:
        most = f"{page_limit / 1e6:.3g} MB"
        raise UserError(
            f"the page would have {size / 1e6:.3g} MB, more than {most}; lower --pairs, --groups or --rejected"
        )
    return page


def _rendered(found: Audit, album: Album) -> str:
    held, recorded = found.survey, found.statistics
    gallery = Gallery(held, album, found.threshold, found.lazy)
    cards = gallery.cards()
    code, allowed = script("gallery.js")
    funnel = recorded.get("funnel", {})
    return render(
        "dataset.html",
        name=found.dataset.root.resolve().name,
        found=found,
        held=held,
        script=code,
        script_source=allowed,
        splits=_split_rows(held),
        funnel=_funnel_rows(funnel),
        funnel_charts=_funnel_charts(funnel),
        editors=list(recorded.get("verification", {}).items())[:ROWS_SHOWN],
        editors_chart=_editors_chart(recorded.get("verification", {})),
        agreement=[(k.split(" | "), v) for k, v in recorded.get("judge_agreement", {}).items()][:ROWS_SHOWN],
        paper_success=PAPER_SUCCESS,
        paper_agreement=PAPER_AGREEMENT,
        histograms=_histograms(held),
        matrix=_matrix(held, recorded.get("fusion_methods", {})),
        methods=recorded.get("fusion_methods", {}),
        levels={k: v for k, v in recorded.get("consensus_levels", {}).items() if k in LEVEL_WORDS},
        level_words=LEVEL_WORDS,
        categories=_categories(recorded.get("categories", {})),
        categories_left_out=max(0, len(recorded.get("categories", {})) - ROWS_SHOWN),
        group_sizes=_group_sizes(recorded.get("group_sizes", {})),
        licences=held.licences.most_common(ROWS_SHOWN),
        licences_left_out=max(0, len(held.licences) - ROWS_SHOWN),
        outcomes=[(OUTCOMES[k], held.outcomes[k]) for k in OUTCOMES if held.outcomes[k]],
        answers=[(role, ROLE_WORDS[role], held.answers[role]) for role in ROLE_WORDS if held.answers[role]],
        saved=_saved(recorded),
        cost=None if found.totals is None else _cost_rows(found.totals),
        recorded=list(flattened({k: v for k, v in recorded.items() if k not in SHOWN})),
        config=json.dumps(found.config, indent=1, ensure_ascii=False) if found.config else "",
        cards=cards,
        lively=True,
        threshold=found.threshold,
        facets=gallery.facets(),
        left_out=album.left_out,
    )


def _split_rows(held: Survey) -> list[tuple[str, list[int]]]:
    words = {
        "sources": "source images",
        "pairs": "pairs for stage 1 (source, better edit)",
        "groups": "groups for stage 3",
        "images": "images in these groups",
    }
    return [(text, [held.splits[split][key] for split in get_args(Split)]) for key, text in words.items()]


def _funnel_rows(funnel: Mapping[str, int]) -> list[tuple[str, int, float | None]]:
    """Words, count, and share of the step before (None where a new way begins)."""
    before = {b: a for steps in (PAIR_STEPS, GROUP_STEPS) for a, b in pairwise(steps)}
    rows = []
    for key, words in FUNNEL:
        if key in funnel:
            whole = funnel.get(before.get(key, ""), 0)
            rows.append((words, funnel[key], funnel[key] / whole if whole and key not in ("pairs", "groups") else None))
    return rows


def _funnel_charts(funnel: Mapping[str, int]) -> "list[tuple[str, Markup]]":
    shown = []
    for title, steps, colour in (("Pairs", PAIR_STEPS, "after"), ("Groups", GROUP_STEPS, "third")):
        rows = [(STEP_NAMES[step], funnel[step]) for step in steps if step in funnel]
        if any(n for _, n in rows):
            shown.append((title, charts.funnel_chart(title, rows, colour=colour)))
    return shown


def _editors_chart(verification: Mapping[str, Mapping[str, float]]) -> "Markup | None":
    """Success rates with 95 % Wilson intervals, the paper's range beneath."""
    from scipy.stats import binomtest

    rows = []
    for editor, row in list(verification.items())[:ROWS_SHOWN]:
        n = max(1, int(row["n"]))
        interval = binomtest(round(row["success_rate"] * n), n).proportion_ci(method="wilson")
        rows.append(charts.Whisker(editor, row["success_rate"], interval.low, interval.high, "after"))
    if not rows:
        return None
    low, mean, high = PAPER_SUCCESS
    rows.append(charts.Whisker("the paper's five", mean, low, high, "third"))
    return charts.interval_chart("Success rate of the editors", rows, zero="share of edits that pass the verifiers")


def _histograms(held: Survey) -> "list[tuple[str, str, Histogram, Markup]]":
    shown = (
        ("Scores of sources", "S(x), the judges' consensus on one image.", held.scores, "score", "third", ""),
        ("Differences, all judged edits", "Consensus on edit against source, kept or not.", held.deltas,
         "difference", "good", "bad"),
        ("Differences of the pairs", "What stage 1 learns; all above zero by rule.", held.pair_deltas,
         "difference", "good", ""),
        ("Differences in groups", "Variants against their source; what stage 3 ranks.", held.group_deltas,
         "difference", "good", "bad"),
    )  # fmt: skip
    return [
        (title, words, h, charts.histogram_chart(title, h.low, h.high, h.counts, x_label=x, colour=c, below=b))
        for title, words, h, x, c, b in shown
    ]


def _matrix(held: Survey, methods: Iterable[str]) -> list[tuple[str, list[tuple[str, int]]]]:
    """The strategy matrix with how often each cell was reached; empty if verdicts were fused otherwise."""
    if not set(methods) <= {method for row in STRATEGY.values() for method in row}:
        return []
    return [
        (level, [(method.replace("_", " "), held.matrix[level, column]) for column, method in enumerate(row)])
        for level, row in STRATEGY.items()
    ]


def _categories(table: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(table.items(), key=lambda item: (-item[1]["judged"], item[0]))[:ROWS_SHOWN]


def _group_sizes(sizes: Mapping[str, int]) -> "Markup | None":
    rows = sorted(((int(size), n) for size, n in sizes.items()))[:ROWS_SHOWN]
    if not rows:
        return None
    return charts.bar_chart("Group sizes", [(f"{size} images", n) for size, n in rows], colour="third")


def _saved(recorded: Mapping[str, Any]) -> dict[str, int]:
    """Calls that a lazy build did not make, by role; empty where none were saved or nothing was recorded."""
    saved = {role: int(row.get("saved", 0)) for role, row in recorded.get("calls", {}).items()}
    return saved if any(saved.values()) else {}


def _cost_rows(totals: Sequence[Total]) -> list[dict[str, Any]]:
    """One row for each role, plug-in and model: calls by how they ended, tokens, cost."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for total in totals:
        key = (total.role, total.plugin, total.model)
        empty = {"ok": 0, "retried": 0, "failed": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0.0}
        row = rows.setdefault(key, {"role": key[0], "plugin": key[1], "model": key[2], **empty})
        row[total.status] = row.get(total.status, 0) + total.calls
        row["input_tokens"] += total.input_tokens
        row["output_tokens"] += total.output_tokens
        row["cost"] += total.cost
    order = {role: index for index, role in enumerate(ROLES)}
    return sorted(rows.values(), key=lambda r: (order.get(r["role"], len(order)), r["plugin"], r["model"]))
