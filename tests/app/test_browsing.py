"""A dataset page by page, and a run: what is on the page is what the records hold."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
from tests.evaluation.a_finished_run import HOSTILE
from tests.evaluation.pages import Page

from redaes.app import pages
from redaes.app.browsing import CARDS_SHOWN, Browser, Wanted
from redaes.data.manifest import Manifest, read_records, write_records
from redaes.errors import UserError
from redaes.evaluation.run_folder import open_run
from redaes.evaluation.words import outcome
from redaes.records import Edit, PairRecord, Split


@pytest.fixture(scope="module")
def browser(run: Path) -> Browser:
    return Browser(run / "data")


def every(browser: Browser, wanted: Wanted) -> list[str]:
    """The records on all pages."""
    return [card.id for n in range(1, browser.leaf(wanted).pages + 1) for card in browser.leaf(wanted, n).cards]


def pairs_of(run: Path) -> list[PairRecord]:
    dataset = Manifest(run / "data")
    return [pair for split in get_args(Split) for pair in dataset.pairs(split)]


def test_every_record_is_on_one_page(run: Path, browser: Browser) -> None:
    assert every(browser, Wanted("pairs")) == [pair.id for pair in pairs_of(run)]
    groups = [g.id for split in get_args(Split) for g in browser.dataset.groups(split)]
    assert every(browser, Wanted("groups")) == groups
    edits = read_records(run / "data" / "edits.jsonl", Edit)
    assert every(browser, Wanted("rejected")) == [edit.id for edit in edits if outcome(edit) != "valid"]


def test_pages_are_full_but_the_last_and_a_number_beyond_gives_the_last(browser: Browser) -> None:
    first = browser.leaf(Wanted())
    assert (len(first.cards), first.number) == (CARDS_SHOWN, 1)
    assert first.pages == -(-first.found // CARDS_SHOWN)
    assert browser.leaf(Wanted(), 0).number == 1
    last = browser.leaf(Wanted(), 10_000)
    assert last.number == first.pages
    assert len(last.cards) == first.found - (first.pages - 1) * CARDS_SHOWN


def test_filters_hold_together(run: Path, browser: Browser) -> None:
    pairs = pairs_of(run)
    (editor, *_), (category, *_) = browser.editors(), browser.categories()
    wanted = Wanted("pairs", split="test", editor=editor, category=category)
    expected = [
        pair.id for pair in pairs
        if pair.source.split == "test" and pair.edit.editor == editor and pair.edit.instruction.category == category
    ]  # fmt: skip
    assert every(browser, wanted) == expected != []
    word = pairs[0].edit.instruction.text.split()[0].upper()
    found = every(browser, Wanted("pairs", words=word))
    assert found == [pair.id for pair in pairs if word.lower() in pair.edit.instruction.text.lower()]
    nothing = browser.leaf(Wanted("pairs", words="no such words"))
    assert (nothing.found, nothing.pages, list(nothing.cards)) == (0, 1, [])
    assert "No record is like this." in Page(pages.cards(nothing, 7.5)).words


def test_a_card_shows_both_pictures_and_what_every_judge_said(run: Path, browser: Browser) -> None:
    leaf = browser.leaf(Wanted("pairs"))
    page = Page(pages.cards(leaf, browser.threshold))
    assert page.open == []
    assert not page.having("script")
    assert not page.having("button"), "nothing to press that does nothing"
    assert len(page.having("img")) == 2 * len(leaf.cards)
    assert all(image["alt"] and str(image["src"]).startswith("data:") for image in page.having("img"))
    shown = " ".join(" ".join(page.words).split())
    (pair, *_) = pairs_of(run)
    assert pair.edit.instruction.text in shown
    assert all(verdict.reasoning in shown for verdict in pair.edit.verdicts)
    assert HOSTILE in shown, "how the source was scored, as text"
    groups = Page(pages.cards(browser.leaf(Wanted("groups")), browser.threshold))
    assert groups.open == []
    assert not groups.having("button")
    assert all(image["alt"] for image in groups.having("img"))


def test_a_picture_outside_the_dataset_is_not_shown(run: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(run / "data", tmp_path / "data"))
    secret = tmp_path / "secret.png"
    shutil.copy(next((dataset / "images").iterdir()), secret)
    stray = [
        pair.model_copy(update={"source": pair.source.model_copy(update={"image": "../secret.png"})})
        for pair in pairs_of(run)
    ]
    write_records(dataset / "pairs.jsonl", stray)
    with pytest.raises(UserError, match="leaves the dataset folder"):
        Browser(dataset).leaf(Wanted("pairs"))


def test_a_damaged_record_is_named_without_the_computer_s_folders(run: Path, tmp_path: Path) -> None:
    dataset = Path(shutil.copytree(run / "data", tmp_path / "data"))
    with (dataset / "groups.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"^groups.jsonl:\d+ is not a GroupRecord$"):
        Browser(dataset).leaf(Wanted("groups"))
    with pytest.raises(UserError, match="no dataset at"):
        Browser(tmp_path)


def test_a_run_is_shown_with_its_curves_and_what_the_model_wrote(run: Path) -> None:
    opened = open_run(run)
    overview = Page(pages.run_overview(opened))
    assert overview.open == []
    charts = overview.having("svg")
    assert len(charts) > 6
    assert all(chart["aria-label"] for chart in charts)
    steps = sorted({row["step"] for row in opened.completions})
    page = Page(pages.completions(opened, steps[-1]))
    assert page.open == []
    rows = [row for row in opened.completions if row["step"] == steps[-1]]
    assert len(page.having("tr")) == 1 + len(rows)
    assert sum("<script>alert" in words for words in page.words) == len(rows)
    assert all(image["alt"] for image in page.having("img"))


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("no pairs.jsonl in /home/me/my-data; is this a dataset?", "no pairs.jsonl in my-data; is this a dataset?"),
        ("image path '../x' leaves the dataset folder /srv/a/b", "image path '../x' leaves the dataset folder b"),
        (r"cannot read C:\Users\me\photo.jpg", "cannot read photo.jpg"),
        ("3 / 4 of it, either/or", "3 / 4 of it, either/or"),
    ],
)
def test_messages_lose_the_folders_of_this_computer(message: str, shown: str) -> None:
    assert pages.without_folders(message) == shown
