"""The report of a run: results.json for programs, results.md for a README, report.html for a person.

In: a run folder (`run_folder`). The page explains the method as it goes and shows what a number cannot: which order
the model gave to which pictures. What is shown is chosen by rule, never by taste: the median pair, the groups at even
steps from best to worst.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from redaes.data.manifest import Manifest, write_atomically
from redaes.errors import UserError
from redaes.evaluation import charts
from redaes.evaluation.correlations import srcc
from redaes.evaluation.html import render, thumbnail
from redaes.evaluation.run_folder import STAGES, TRAINING_STEPS, Evaluation, Run, open_run
from redaes.evaluation.runner import MEASURES, Prediction, measure_difference
from redaes.evaluation.words import FUNNEL, consensus_words, flattened, outlier_names
from redaes.records import GroupRecord, PairRecord, Split

if TYPE_CHECKING:
    from markupsafe import Markup

T = TypeVar("T")

STAGE_NAMES = {
    "initial": "untrained",
    "sft": "1 · fine-tuned",
    "calibration": "2 · calibrated",
    "grpo": "3 · after GRPO",
}
STAGE_COLOURS = {"initial": "before", "sft": "third", "calibration": "fourth", "grpo": "after"}
MEASURE_NAMES = {
    "srcc_within": "order within groups (SRCC)",
    "pairwise_accuracy": "pairs in the right order",
    "srcc": "SRCC, all images",
    "plcc": "PLCC, all images",
    "krcc": "KRCC, all images",
    "mae": "mean error, points",
}
CURVES = (
    ("sft", "train/loss", "Stage 1: loss", "Falls as the model learns to write the judges' words and numbers."),
    ("calibration", "train/loss", "Stage 2: loss", "The same loss on absolute scores of single images."),
    (
        "grpo",
        "train/reward",
        "Stage 3: reward",
        "Share of the true differences that sampled scores get right, from 0 to 1.",
    ),
    ("grpo", "val/srcc_within", "Stage 3: held-out order", "SRCC within validation groups while training."),
    ("grpo", "train/parse_failure_rate", "Stage 3: unreadable answers", "Share of sampled answers without a score."),
    ("grpo", "train/frac_zero_std", "Stage 3: images without a signal", "All sampled answers got the same reward."),
    ("grpo", "train/kl", "Stage 3: distance from the start", "KL divergence from the calibrated model."),
    ("grpo", "train/entropy", "Stage 3: entropy", "How varied the sampled answers still are."),
)
GROUPS_SHOWN = 5
REASONINGS_SHOWN = 6


@dataclass(frozen=True)
class Spread:
    """A photograph with its best edit as the judges see it, ready for the page."""

    pair: PairRecord
    before: str
    after: str
    outliers: tuple[str, ...]
    why: str


def write_report(root: str | Path) -> Path:
    """Write results.json, results.md and report.html into a run folder.

    Args:
        root: the run folder.

    Returns:
        The page.

    Raises:
        UserError: not a run folder, or it cannot be written to.
    """
    run = open_run(root)
    page = run.root / "report.html"
    results = results_of(run)
    try:
        write_atomically(run.root / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
        write_atomically(run.root / "results.md", results_table(run))
        write_atomically(page, page_of(run, results))
    except OSError as error:
        raise UserError(f"cannot write the report into {run.root}: {error.strerror or error}") from error
    return page


def results_of(run: Run) -> dict[str, Any]:
    """The numbers of a run, for programs; null where a part of the run is missing.

    Correlations in the summary treat failed parses as the mean prediction; `stages` holds both treatments.
    """
    before, after = run.evaluations.get("calibration"), run.evaluations.get("grpo")
    training = [run.seconds[step] for step in TRAINING_STEPS if step in run.seconds]
    gain = measure_difference(before.predictions, after.predictions, "srcc_within") if before and after else None
    return {
        "summary": {
            "srcc_within_calibrated": _value(before, "srcc_within"),
            "srcc_within_grpo": _value(after, "srcc_within"),
            "srcc_within_gain": None if gain is None else gain.as_json(),
            "srcc_calibrated": _value(before, "srcc"),
            "srcc_grpo": _value(after, "srcc"),
            **{f"parse_failure_rate_{s}": _failures(run.evaluations.get(s)) for s in STAGES},
            "seconds_training": round(sum(training), 1) if training else None,
            "seconds_total": round(sum(run.seconds.values()), 1) if run.seconds else None,
            "report": "report.html",
        },
        "stages": {stage: dict(e.document["metrics"]) for stage, e in run.evaluations.items()},
    }


def results_table(run: Run) -> str:
    """The measures of every stage as a markdown table, intervals in brackets."""
    stages = list(run.evaluations)
    if not stages:
        return "No model of this run was evaluated.\n"
    lines = ["| | " + " | ".join(STAGE_NAMES[s] for s in stages) + " |", "|---|" + "---:|" * len(stages)]
    for name in MEASURES:
        cells = [_interval_text(run.evaluations[s].measure(name)) for s in stages]
        lines.append(f"| {MEASURE_NAMES[name]} | " + " | ".join(cells) + " |")
    rates = [run.evaluations[s].document["metrics"] for s in stages]
    lines.append("| unreadable answers | " + " | ".join(f"{r['n'] - r['parsed']} of {r['n']}" for r in rates) + " |")
    note = "95 % bootstrap intervals over whole groups in brackets; unreadable answers count as the mean prediction."
    return "\n".join([*lines, "", note, ""])


def page_of(run: Run, results: Mapping[str, Any]) -> str:
    """The page, as one file."""
    last = next((run.evaluations[s] for s in reversed(STAGES) if s in run.evaluations), None)
    return render(
        "report.html",
        run=run,
        summary=results["summary"],
        stage_names=STAGE_NAMES,
        measures=MEASURE_NAMES,
        last_stage=next((s for s in reversed(STAGES) if s in run.evaluations), None),
        before_after=[s for s in ("calibration", "grpo") if s in run.evaluations],
        headline_charts=[interval_chart(run, name) for name in ("srcc_within", "srcc")] if run.evaluations else [],
        data=None if run.dataset is None else _data_section(run.dataset),
        curves=curve_charts(run),
        scatters=_scatters(run),
        completions=_last_completions(run),
        sheets=[] if run.dataset is None or last is None else _sheets(run, last),
        reasonings=[] if run.dataset is None or last is None else _reasonings(run, last),
    )


# --- 1 headline ------------------------------------------------------------------------------------------------------


def interval_chart(run: Run, name: str) -> "tuple[str, Markup]":
    """One measure of every evaluated stage with its interval: the title, and the chart."""
    found = {stage: evaluation.measure(name) for stage, evaluation in run.evaluations.items()}
    rows = [
        charts.Whisker(STAGE_NAMES[stage], m["value"], m["low"], m["high"], STAGE_COLOURS[stage])
        for stage, m in found.items()
    ]
    title = MEASURE_NAMES[name][:1].upper() + MEASURE_NAMES[name][1:]
    return title, charts.interval_chart(title, rows, zero="0 is chance, 1 is the judges' order")


def _value(evaluation: Evaluation | None, name: str) -> float | None:
    return None if evaluation is None else evaluation.measure(name)["value"]


def _failures(evaluation: Evaluation | None) -> float | None:
    return None if evaluation is None else evaluation.document["metrics"]["parse_failure_rate"]


def _interval_text(measure: Mapping[str, float | None]) -> str:
    value, low, high = measure["value"], measure["low"], measure["high"]
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


# --- 2 data ----------------------------------------------------------------------------------------------------------


def _data_section(dataset: Manifest) -> dict[str, Any]:
    splits = get_args(Split)
    pairs = {split: dataset.pairs(split) for split in splits}
    groups = {split: dataset.groups(split) for split in splits}
    sources = {split: dataset.sources(split) for split in splits}
    recorded = dataset.info.get("statistics", {})
    return {
        "splits": [
            ("photographs", *(len({r.source.photograph for r in sources[s]}) for s in splits)),
            ("source images cut from them", *(len(sources[s]) for s in splits)),
            ("pairs for stage 1 (source, better edit)", *(len(pairs[s]) for s in splits)),
            ("groups for stage 3", *(len(groups[s]) for s in splits)),
            ("images in these groups", *(sum(len(g.members) for g in groups[s]) for s in splits)),
        ],
        "funnel": [(words, recorded["funnel"][key]) for key, words in FUNNEL if key in recorded.get("funnel", {})],
        "editors": recorded.get("verification", {}),
        "agreement": [(key.split(" | "), share) for key, share in recorded.get("judge_agreement", {}).items()],
        "example": _example(dataset, [p for s in splits for p in pairs[s]]),
        "photographs": _photographs(dataset, [r.source.image for s in splits for r in sources[s]]),
        "recorded": list(flattened(recorded)),
    }


def _example(dataset: Manifest, pairs: Sequence[PairRecord]) -> Spread | None:
    """The pair of median difference: chosen by rule, neither the best nor the worst."""
    if not pairs:
        return None
    pair = sorted(pairs, key=lambda p: (p.delta, p.id))[len(pairs) // 2]
    fused = pair.edit.fused
    return Spread(
        pair=pair,
        before=thumbnail(dataset.path(pair.source.image)),
        after=thumbnail(dataset.path(pair.edit.image)),
        outliers=outlier_names(pair.edit.verdicts, fused),
        why="" if fused is None else consensus_words(pair.edit.verdicts, fused),
    )


def _photographs(dataset: Manifest, images: Sequence[str], shown: int = 8) -> list[tuple[str, str]]:
    """Source images at even steps through the dataset."""
    return [(image, thumbnail(dataset.path(image), 200)) for image in _evenly(images, shown)]


# --- 3 curves, 4 scatter --------------------------------------------------------------------------------------------


def curve_charts(run: Run) -> "list[tuple[str, str, Markup]]":
    """The curves that say how the training went, as far as they were logged: title, what it means, chart."""
    shown = []
    for stage, name, title, words in CURVES:
        curve = run.curves[stage].get(name)
        if curve is not None:
            shown.append((title, words, charts.line_chart(title, curve.x, curve.y, colour=STAGE_COLOURS[stage])))
    return shown


def _scatters(run: Run) -> "list[tuple[str, Markup, int]]":
    shown = []
    for stage in ("calibration", "grpo"):
        if stage in run.evaluations:
            parsed = [(p.truth, p.score) for p in run.evaluations[stage].predictions if p.score is not None]
            name = STAGE_NAMES[stage]
            chart = charts.scatter_chart(name, *_columns(parsed), colour=STAGE_COLOURS[stage])
            shown.append((name, chart, len(parsed)))
    return shown


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def _last_completions(run: Run) -> list[dict[str, Any]]:
    """The rows of one group at the last recorded step: what the reward saw."""
    if not run.completions:
        return []
    last = max(run.completions, key=lambda row: row["step"])
    rows = [r for r in run.completions if r["step"] == last["step"] and r["group"] == last["group"]]
    pictures = {} if run.dataset is None else {r["image"]: thumbnail(run.dataset.path(r["image"]), 120) for r in rows}
    return [{**row, "picture": pictures.get(row["image"], "")} for row in sorted(rows, key=lambda r: -r["g"])]


# --- 5 sheets, 6 reasonings -----------------------------------------------------------------------------------------


def _sheets(run: Run, last: Evaluation) -> list[dict[str, Any]]:
    """Groups at even steps from the best ordered to the worst, each ordered by the last model's prediction."""
    assert run.dataset is not None
    groups: dict[str, list[Prediction]] = {}
    for prediction in last.predictions:
        groups.setdefault(prediction.group, []).append(prediction)
    quality = {name: _order(members) for name, members in groups.items()}
    measured = sorted((name for name in groups if quality[name] is not None), key=lambda n: (-(quality[n] or 0.0), n))
    earlier = run.evaluations.get("calibration")
    records = {record.id: record for record in run.dataset.groups(last.document["split"])}
    return [
        {
            "name": name,
            "place": measured.index(name) + 1,
            "of": len(measured),
            "order": quality[name],
            "earlier": None if earlier is None or earlier is last else _order(_of_group(earlier, name)),
            "members": _sheet_members(run.dataset, groups[name], records.get(name)),
        }
        for name in _evenly(measured, GROUPS_SHOWN)
    ]


def _order(members: Sequence[Prediction]) -> float | None:
    """SRCC of the parsed members, 0 if all predictions are equal, None where there is nothing to order."""
    parsed = [(p.score, p.g) for p in members if p.score is not None]
    if len(parsed) < 3 or len({g for _, g in parsed}) < 2:
        return None
    return 0.0 if len({s for s, _ in parsed}) < 2 else srcc(*_columns(parsed))


def _of_group(evaluation: Evaluation, group: str) -> list[Prediction]:
    return [p for p in evaluation.predictions if p.group == group]


def _sheet_members(
    dataset: Manifest, members: Sequence[Prediction], record: GroupRecord | None
) -> list[dict[str, Any]]:
    truth = sorted((p.g for p in members), reverse=True)
    ordered = sorted(members, key=lambda p: (p.score is None, -(p.score or 0.0), p.image))
    known = () if record is None else record.members
    edits = {m.image: m.edit.instruction.text if m.edit else "the source" for m in known}
    return [
        {
            "prediction": p,
            "picture": thumbnail(dataset.path(p.image), 240),
            "true_place": truth.index(p.g) + 1,
            "right": truth[place - 1] == p.g,
            "place": place,
            "edit": edits.get(p.image, ""),
        }
        for place, p in enumerate(ordered, 1)
    ]


def _reasonings(run: Run, last: Evaluation) -> list[dict[str, Any]]:
    """Images at even steps from the smallest error to the largest, with the words before and after."""
    assert run.dataset is not None
    parsed = [p for p in last.predictions if p.score is not None]
    by_error = sorted(parsed, key=lambda p: (abs((p.score or 0.0) - p.truth), p.image))
    earlier = run.evaluations.get("calibration")
    before = {} if earlier is None or earlier is last else {(p.group, p.image): p for p in earlier.predictions}
    return [
        {"after": p, "before": before.get((p.group, p.image)), "picture": thumbnail(run.dataset.path(p.image), 240)}
        for p in _evenly(by_error, REASONINGS_SHOWN)
    ]


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items at even steps, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
