"""The questions behind the buttons, as plain functions: no browser, no Gradio."""

import csv
import io
import re
from pathlib import Path

import pytest
from tests.app.conftest import uploads
from tests.evaluation.pages import Page

from redaes.app import pages
from redaes.app.judging import (
    Proposals,
    advise_on,
    as_csv,
    compare_uploads,
    difference_words,
    score_uploads,
    try_out,
)
from redaes.app.pages import ADVICE_SHOWN
from redaes.app.uploads import Refused, opened
from redaes.editors.operations import OPERATIONS
from redaes.inference import Difference
from redaes.inference.scorer import Scorer


def test_what_can_be_scored_is_ranked_and_the_rest_said_to_be_refused(
    scorer: Scorer, good: list[Path], bad: dict[str, Path]
) -> None:
    told: list[tuple[int, int]] = []
    files = [bad["text"], *good, *(path for kind, path in bad.items() if kind != "text")]
    scored = score_uploads(uploads(*files), scorer, "nano@1", lambda done, of: told.append((done, of)))
    assert told[-1] == (len(files), len(files))
    assert {s.row.path for s in scored} == {path.name for path in files}
    values = [s.row.score for s in scored if s.row.score is not None]
    assert len(values) == len(good)
    assert values == sorted(values, reverse=True)
    assert [s.row.score for s in scored[: len(good)]] == values, "files without a score come last"
    alone = scorer.score([good[0]])[0]
    (same,) = [s.row for s in scored if s.row.path == good[0].name]
    assert (same.score, same.reasoning) == (alone.value, alone.reasoning)
    assert all(s.row.error and not s.picture for s in scored[len(good) :])


def test_nothing_but_bad_files_gives_rows_too(scorer: Scorer, bad: dict[str, Path]) -> None:
    scored = score_uploads(uploads(*bad.values()), scorer, "nano@1")
    assert all(s.row.score is None and s.row.error for s in scored)
    page = Page(pages.ranking(scored, "nano@1"))
    assert not page.having("img")


def test_the_table_to_download_is_the_one_of_the_command_line(scorer: Scorer, good: list[Path]) -> None:
    scored = score_uploads(uploads(*good), scorer, "nano@1")
    rows = list(csv.DictReader(io.StringIO(as_csv(scored))))
    assert list(rows[0]) == ["path", "score", "reasoning", "error", "model"]
    assert [float(row["score"]) for row in rows] == [s.row.score for s in scored]


def test_names_and_words_are_shown_as_text(scorer: Scorer, good: list[Path]) -> None:
    page = Page(pages.ranking(score_uploads(uploads(*good), scorer, "nano@1"), "<b>model</b>"))
    assert page.open == []
    assert len(page.having("img")) == len(good)
    assert all(str(image["src"]).startswith("data:image/jpeg") for image in page.having("img"))
    assert all(re.match(r"Number \d, score \d", str(image["alt"])) for image in page.having("img"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert any("<img src=x" in words for words in page.words)
    assert any("<b>model</b>" in words for words in page.words)


def test_two_photographs_are_compared_as_the_scorer_does(scorer: Scorer, good: list[Path]) -> None:
    found = compare_uploads(*uploads(*good[:2]), scorer)
    assert found == scorer.compare(*(opened(upload).image for upload in uploads(*good[:2])))
    words = " ".join(Page(pages.comparison(found)).words)
    assert difference_words(found.value) in words
    assert found.reasoning in words


def test_a_comparison_names_each_file_that_is_none(scorer: Scorer, good: list[Path], bad: dict[str, Path]) -> None:
    found = compare_uploads(*uploads(bad["text"], bad["truncated"]), scorer)
    assert isinstance(found, list)
    assert [refused.name for refused in found] == ["notes.jpg", "cut.jpg"]
    found = compare_uploads(*uploads(good[0], bad["bomb"]), scorer)
    assert isinstance(found, list)
    assert [refused.name for refused in found] == ["bomb.png"]
    assert "bomb.png" in " ".join(Page(pages.refusals(found)).words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "The second photograph is about as good as the first."),
        (0.9, "The second photograph is slightly better than the first."),
        (-2.0, "The first photograph is better than the second."),
        (4.0, "The second photograph is clearly better than the first."),
        (-10.0, "The first photograph is far better than the second."),
        (None, "The model's answer holds no number."),
    ],
)
def test_a_difference_is_said_in_words(value: float | None, words: str) -> None:
    assert difference_words(value) == words
    assert words in Page(pages.comparison(Difference(value, "", ""))).words


def test_advice_is_what_the_model_expects_and_the_edit_is_looked_at_once_made(scorer: Scorer, good: list[Path]) -> None:
    proposals = advise_on(*uploads(good[0]), scorer)
    assert isinstance(proposals, Proposals)
    assert {one.instruction.category for one in proposals.advice} == {n for n, op in OPERATIONS.items() if op.improving}
    gains = [one.predicted.value for one in proposals.advice if one.predicted.value is not None]
    assert gains == sorted(gains, reverse=True)
    shown = " ".join(Page(pages.proposals(proposals)).words)
    assert all(one.instruction.text in shown for one in proposals.advice[: min(len(gains), ADVICE_SHOWN)])
    if len(gains) < len(proposals.advice):
        assert f"For {len(proposals.advice) - len(gains)} other edits the model’s answer holds no number" in shown
    tried = try_out(proposals.photograph, proposals.advice[0], scorer)
    assert tried.edited.size == proposals.photograph.image.size
    assert tried.seen.value == scorer.compare(proposals.photograph.image, tried.edited).value
    assert tried.advice.instruction.text in Page(pages.tried(tried)).words


def test_advice_on_what_is_no_photograph_is_refused(scorer: Scorer, bad: dict[str, Path]) -> None:
    refused = advise_on(*uploads(bad["truncated"]), scorer)
    assert isinstance(refused, Refused)
