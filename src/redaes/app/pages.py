"""Answers as HTML for the page: everything escaped, pictures inside as `data:` addresses, each with words.

In: what the plain functions of this package return. Out: HTML that goes into the page as it is; how it looks is in
`templates/app.css` and in the style sheets of the reports, which the page shares.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from redaes.app.browsing import Leaf
from redaes.app.judging import Proposals, Scored, Tried, difference_words
from redaes.app.uploads import KNOWN_FORMATS, MOST_BYTES, MOST_PHOTOGRAPHS, Refused
from redaes.data.images import VIEW_SIDE
from redaes.evaluation.html import render, thumbnail
from redaes.evaluation.report import curve_charts, interval_chart
from redaes.evaluation.run_folder import Run
from redaes.inference import Difference

PACKAGE = "redaes.app"
ADVICE_SHOWN = 8
COMPLETIONS_SHOWN = 60
_FOLDERS = re.compile(r"(?:\b[A-Za-z]:)?(?<![\w.])[\\/](?:[^\s\\/:'\"]+[\\/])+")


def head() -> str:
    """What the document's head is given: how the page looks, and its script."""
    script = (files(PACKAGE) / "templates" / "app.js").read_text(encoding="utf-8")
    return f"<style>\n{_style()}</style>\n<script>\nconst TOO_MANY_BYTES = {MOST_BYTES + 1};\n{script}</script>"


def _style() -> str:
    """The reports' style sheets, made to hold inside `.redaes` alone and to follow the page's theme, and the page's.

    The reports follow the reader's system; here a class of the document does, which a button can change.
    """
    reports = files("redaes.evaluation") / "templates"
    shared = "".join((reports / name).read_text(encoding="utf-8") for name in ("base.css", "dataset.css"))
    shared = shared.replace("@media (prefers-color-scheme: dark)", ".dark &").replace(":root", "&")
    own = (files(PACKAGE) / "templates" / "app.css").read_text(encoding="utf-8")
    return f".redaes {{\n{shared}}}\n{own}"


def hint() -> str:
    """What may be dropped."""
    return render(
        "hint.html", package=PACKAGE, formats=KNOWN_FORMATS, most=MOST_PHOTOGRAPHS, megabytes=MOST_BYTES >> 20
    )


def ranking(scored: Sequence[Scored], model: str) -> str:
    """Photographs, best first, with their scores and reasons; what has none below, and why."""
    ranked = [s for s in scored if s.row.score is not None]
    failed = [s.row for s in scored if s.row.score is None]
    return render("ranking.html", package=PACKAGE, ranked=ranked, failed=failed, model=model)


def comparison(found: Difference) -> str:
    """A difference in words, as a number and on a scale."""
    return render("difference.html", package=PACKAGE, found=found, words=difference_words(found.value))


def refusals(refused: Sequence[Refused]) -> str:
    """Files that are no photographs, one line each."""
    return render("refusals.html", package=PACKAGE, refused=refused)


def proposals(found: Proposals) -> str:
    """The edits that the model expects most of."""
    told = [one for one in found.advice if one.predicted.value is not None]
    most = max((abs(one.predicted.value or 0.0) for one in told), default=0.0) or 1.0
    unread = len(found.advice) - len(told)
    return render("proposals.html", package=PACKAGE, advice=told[:ADVICE_SHOWN], most=most, unread=unread)


def tried(found: Tried) -> str:
    """An edit beside the photograph: what the model expected, and what it says now that it sees it."""
    before, after = (thumbnail(image, VIEW_SIDE) for image in (found.photograph.image, found.edited))
    name = found.photograph.name
    return render("tried.html", package=PACKAGE, found=found, name=name, before=before, after=after)


def cards(leaf: Leaf, threshold: float) -> str:
    """One page of a dataset."""
    return render("cards.html", package=PACKAGE, cards=leaf.cards, threshold=threshold, lively=False)


def run_overview(run: Run) -> str:
    """The curves of a run and the measures of its models."""
    measures = [interval_chart(run, name) for name in ("srcc_within", "srcc")] if run.evaluations else []
    return render("run.html", package=PACKAGE, run=run, measures=measures, curves=curve_charts(run))


def completions(run: Run, step: int | None) -> str:
    """What the model answered at one step of GRPO, group by group, the better version first."""
    rows = [row for row in run.completions if row["step"] == step]
    rows = sorted(rows, key=lambda row: (row["group"], -row["g"]))
    return render(
        "completions.html",
        package=PACKAGE,
        rows=[{**row, "picture": _picture(run, row)} for row in rows[:COMPLETIONS_SHOWN]],
        left_out=max(0, len(rows) - COMPLETIONS_SHOWN),
    )


def _picture(run: Run, row: Mapping[str, Any]) -> str:
    return "" if run.dataset is None else thumbnail(run.dataset.path(row["image"]), 160)


def intro(model: str) -> str:
    """What the page is."""
    return render("intro.html", package=PACKAGE, model=model)


def where(leaf: Leaf) -> str:
    """Which page of how many."""
    return render("where.html", package=PACKAGE, leaf=leaf)


def missing(words: str) -> str:
    """A line in place of what is not there."""
    return render("missing.html", package=PACKAGE, words=words)


def without_folders(message: str) -> str:
    """A message without the folders of this computer: of a path only the name is left.

    Example:
        >>> without_folders("no pairs.jsonl in /home/me/photos/data; is this a dataset?")
        'no pairs.jsonl in data; is this a dataset?'
    """
    return _FOLDERS.sub("", message)
