"""The page of an evaluation: one file that loads nothing, says who is better, and shows by rule where each errs."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.an_evaluation import EVIL, a_benchmark, evaluated, some_answers
from tests.evaluation.pages import Page

from redaes.cli import main
from redaes.data.benchmarks import Benchmark
from redaes.errors import UserError
from redaes.evaluation.benchmark_report import Entry, page_of, write_report
from redaes.evaluation.html import Album
from redaes.evaluation.scored import read_scored

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def ava(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return a_benchmark(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def folder(ava: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scorers on one benchmark, one of them on another too; one image's file is gone since."""
    kept = tmp_path_factory.mktemp("kept")
    evaluated(kept, ava, some_answers(ava, "good@1", 0.4, unreadable=["007"], words=EVIL), "good")
    answers = some_answers(ava, "bad@1", 2.5, seed=1, unparsed=["003", "004"], failed=["005"], unreadable=["007"])
    evaluated(kept, ava, answers, "bad <b>")
    groups = a_benchmark(tmp_path_factory.mktemp("groups"), n=20, name="groups", grouped=True)
    evaluated(kept, groups, some_answers(groups, "good@1", 1.0), "good")
    groups.items[0].path.unlink()
    return kept


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return write_report(folder, folder / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def text_of(page: Page) -> str:
    return " ".join(" ".join(page.words).split())


def test_it_is_one_file_without_a_script_that_loads_nothing(page: Page, html: str) -> None:
    assert not page.open
    assert not page.having("script")
    assert not page.having("link")
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.having("img"))
    assert all(str(link["href"]).startswith("#") for link in page.having("a"))
    policy = next(m["content"] for m in page.having("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "onerror" not in {name for _, attrs in page.tags for name in attrs}
    assert len(html.encode()) < 5_000_000


def test_foreign_words_are_shown_and_do_nothing(page: Page, html: str) -> None:
    assert "<script>alert('x')</script>" in text_of(page)
    assert "{{ 7 * 7 }}" in text_of(page)
    assert "bad <b>" in text_of(page)
    assert "<b>bad" not in html
    assert "evil.example" not in "".join(str(attrs) for _, attrs in page.tags)


def test_links_lead_somewhere_and_pictures_charts_and_scrolling_regions_have_words(page: Page) -> None:
    there = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {str(link["href"])[1:] for link in page.having("a")} <= there
    assert all(image["alt"] for image in page.having("img"))
    assert all(chart["aria-label"] for chart in page.having("svg"))
    scrolling = [d for d in page.having("div") if d.get("class") == "scroll"]
    assert scrolling
    assert all(region.get("tabindex") == "0" and region["aria-label"] for region in scrolling)


def test_the_first_words_say_who_is_better_and_whether_that_may_be_chance(page: Page, folder: Path) -> None:
    words = text_of(page)
    ours = next(s for s in read_scored(folder, ["ava"]) if s.name == "good")
    value = ours.result["measures"]["failures_as_mean"]["srcc"]["value"]
    assert re.search(rf"AVA , best SRCC {value:.3f} good 95 % interval [\d.]+ to [\d.]+\. Ahead of", words)
    assert re.search(r"Ahead of bad <b> by 0\.\d+ \(0\.\d+ to 0\.\d+ on the same 39 images\): more than chance", words)
    assert words.index("Ahead of") < words.index("Below each number its 95 % interval")


def test_two_scorers_that_cannot_be_told_apart_are_said_to_be_so(ava: Benchmark, tmp_path: Path) -> None:
    for mark, seed in (("a@1", 1), ("b@1", 2)):
        evaluated(tmp_path, ava, some_answers(ava, mark, 1.0, seed=seed), mark[0])
    assert "may be chance" in text_of(Page(page_of(read_scored(tmp_path))))


def test_a_scorer_that_is_best_only_because_it_saw_other_images_is_not_said_to_be_ahead(
    ava: Benchmark, tmp_path: Path
) -> None:
    second_half = [item.id for item in ava.items[20:]]
    some = some_answers(ava, "some@1", 0.4, unreadable=second_half, seed=1)
    evaluated(tmp_path, ava, some, "some")
    whole = [replace(a, value=10 - a.value) if a.id in second_half else a for a in some_answers(ava, "all@1", 0.0)]
    evaluated(tmp_path, ava, whole, "all")
    words = text_of(Page(page_of(read_scored(tmp_path))))
    assert re.search(r"But all is ahead of it on the 20 images that both saw, by 0\.\d+\.", words)
    assert "Ahead of" not in words


def test_a_list_that_has_lost_its_groups_since_is_compared_by_the_other_measures(tmp_path: Path) -> None:
    grouped = a_benchmark(tmp_path / "images", n=20, grouped=True)
    evaluated(tmp_path / "kept", grouped, some_answers(grouped, "a@1", 1.0), "a")
    plain = replace(grouped, items=[replace(item, group="") for item in grouped.items])
    evaluated(tmp_path / "kept", plain, some_answers(plain, "b@1", 2.0), "b")
    words = text_of(Page(page_of(read_scored(tmp_path / "kept"))))
    assert "the same order inside each group?" in words
    assert "difference SRCC PLCC KRCC pairs MAE images" in words


def test_every_count_and_both_treatments_are_there(page: Page) -> None:
    words = text_of(page)
    assert "good 42 40 40 1 0 0 39" in words
    assert "bad <b> 42 40 40 1 1 2 36" in words
    assert "2 image file missing" in words
    assert "The same with 3 answers without a score left out" in words
    assert "With such answers left out the numbers would be the same" in words  # of the other benchmark
    assert "4 images without a score" in words
    assert "003 unparsed: <answer>Light is soft." in words
    assert "005 failed: why 005 has no score" in words


def test_measures_within_groups_are_shown_where_there_are_groups(page: Page) -> None:
    assert text_of(page).count("the same order inside each group?") == 1  # of one benchmark, where nothing failed


def test_the_images_shown_follow_the_rule(folder: Path) -> None:
    scored = next(s for s in read_scored(folder, ["ava"]) if s.name.startswith("bad"))
    entry = Entry(scored, "x", "after")
    closest, over, under = entry.sheets(Album(10**7), 4)
    slope, intercept = np.polyfit(entry.values, entry.mos, 1)
    left = {
        item.id: float(m - intercept - slope * v)
        for item, m, v in zip(entry.items, entry.mos, entry.values, strict=True)
    }
    assert [shot.item.id for shot in over.shots] == sorted(left, key=left.__getitem__)[:4]
    assert [shot.item.id for shot in under.shots] == sorted(left, key=left.__getitem__, reverse=True)[:4]
    ranked = sorted(entry.items, key=lambda item: -item.mos)
    parts = np.array_split(np.arange(len(ranked)), 4)
    expected = [min((ranked[k] for k in part), key=lambda item: abs(left[item.id])).id for part in parts]
    assert [shot.item.id for shot in closest.shots] == expected
    said = over.shots[0].said[0]
    assert said.fitted == pytest.approx(intercept + slope * said.value)
    assert all(shot.picture.startswith("data:") for shot in over.shots)


def test_an_image_whose_file_is_gone_has_a_placeholder(ava: Benchmark, tmp_path: Path) -> None:
    gone = Benchmark("ava", "test", (1, 10), a_benchmark(tmp_path / "gone").items, 40)
    evaluated(tmp_path / "kept", gone, some_answers(gone, "m@1", 1.0), "m")
    shutil.rmtree(tmp_path / "gone")
    page = Page(page_of(read_scored(tmp_path / "kept")))
    assert not page.having("img")
    assert text_of(page).count("the file is not there or damaged") == 18


def test_a_full_page_leaves_pictures_out_and_says_so(folder: Path) -> None:
    words = text_of(Page(page_of(read_scored(folder), pictures_limit=20_000)))
    assert re.search(r"\d+ pictures are left out to keep this page small", words)
    assert "left out to keep this page small" in words


@pytest.mark.parametrize("how", ["unparsed", "unreadable", "failed"])
def test_a_scorer_without_a_single_score_is_shown_with_its_reasons(ava: Benchmark, tmp_path: Path, how: str) -> None:
    evaluated(tmp_path, ava, some_answers(ava, "good@1", 0.5), "good")
    evaluated(tmp_path, ava, some_answers(ava, "none@1", 0.5, **{how: [i.id for i in ava.items]}), "none")
    words = text_of(Page(page_of(read_scored(tmp_path))))
    assert "40 images without a score" in words
    assert "No answer of this scorer holds a score" in words
    assert "undefined" in words


def test_a_result_whose_images_are_not_known_is_still_shown_with_its_numbers(ava: Benchmark, tmp_path: Path) -> None:
    evaluated(tmp_path, ava, some_answers(ava, "good@1", 0.5), "good")
    shutil.rmtree(tmp_path / "benchmarks")
    words = text_of(Page(page_of(read_scored(tmp_path))))
    assert "best SRCC" in words
    assert "Evaluate once more" in words


def test_a_scorer_that_says_the_same_of_every_image_can_be_shown(ava: Benchmark, tmp_path: Path) -> None:
    evaluated(tmp_path, ava, [replace(a, value=5.0) for a in some_answers(ava, "flat@1", 0)], "flat")
    assert "undefined" in text_of(Page(page_of(read_scored(tmp_path))))


def test_only_the_benchmarks_named_are_shown(folder: Path, tmp_path: Path) -> None:
    page = Page(write_report(folder, tmp_path / "new" / "page.html", ["groups"]).read_text(encoding="utf-8"))
    assert "AVA" not in text_of(page)
    with pytest.raises(UserError, match="holds no result of para"):
        write_report(folder, tmp_path / "page.html", ["para"])
    with pytest.raises(UserError, match="holds no result; "):
        write_report(tmp_path / "nothing", tmp_path / "page.html")
    with pytest.raises(UserError, match="cannot write"):
        write_report(folder, tmp_path)


def test_the_command_shows_what_is_on_disk_and_scores_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "page.html"
    assert main(["evaluate", "--predictions", str(folder), "--html", str(target)]) == 0
    assert "<h1>How well scorers agree with people</h1>" in target.read_text(encoding="utf-8")
    assert capsys.readouterr().err.strip() == f"wrote {target}"


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_all_of_it_without_a_fault(browser, folder: Path, html: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, faults = context.new_page(), []
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    tab.goto(f"file://{folder / 'page.html'}")
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    tab.evaluate("document.querySelectorAll('img').forEach(each => each.loading = 'eager')")
    tab.wait_for_function("[...document.images].every(each => each.complete)")
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
    assert tab.evaluate("document.images.length") == html.count("<img ")
    outside = """[...document.querySelectorAll('main *')].filter(each => !each.closest('.scroll, svg') &&
        each.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(each => each.className)"""
    assert tab.evaluate(outside) == []
    ink, paper = tab.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (bright[0] > bright[1]) == (scheme == "dark")
    assert faults == []
    context.close()


def test_the_keyboard_reaches_links_tables_and_folded_parts(browser, folder: Path, html: str) -> None:
    tab = browser.new_page()
    tab.goto(f"file://{folder / 'page.html'}")
    reached = set()
    for _ in range(80):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert {"A.", "DIV.scroll", "SUMMARY."} <= reached
    tab.close()
