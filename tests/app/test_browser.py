"""The page in Chromium, with real clicks: good files and bad, wide and narrow, light and dark."""

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.app.conftest import Served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

FAULTS = re.sub(r"^//.*\n", "", (Path(__file__).parent / "accessibility.js").read_text(encoding="utf-8"))
WIDE, NARROW = 1280, 390


class Window(NamedTuple):
    """The page in a browser, and what it did that nobody sees.

    Attributes:
        page: Playwright's.
        requests: every address it asked for.
        errors: of its console and its scripts.
    """

    page: Any
    requests: list[str]
    errors: list[str]

    def tab(self, name: str) -> Any:
        """Go to a tab by a click; its panel."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        return self.panel()

    def panel(self) -> Any:
        return self.page.locator("[role=tabpanel]:visible")

    def faults(self) -> list[str]:
        """What is missing for people who do not see the page, or use no mouse."""
        found: list[str] = self.page.evaluate(FAULTS)
        return found

    def press(self, name: str) -> None:
        self.panel().get_by_role("button", name=name, exact=True).click()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def window_of(chromium: Any, served: Served, width: int = WIDE, scheme: str = "light") -> Window:
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(30_000)
    window = Window(page, [], [])
    page.on("request", lambda request: window.requests.append(request.url))
    page.on("console", lambda said: window.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: window.errors.append(str(error)))
    page.goto(served.address)
    page.get_by_role("tab", name="Score").wait_for()
    return window


@pytest.fixture
def window(chromium: Any, served: Served) -> Iterator[Window]:
    """A wide, light window; whatever was done in it, it asked nobody else and its console holds no error."""
    opened = window_of(chromium, served)
    yield opened
    opened.page.close()
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith((served.address + "/", "data:", "blob:"))] == []


def drop(window: Window, *files: Path, place: int = 0) -> None:
    """Choose files for the panel's field number `place`, and wait until the page shows that it has them."""
    with window.page.expect_response(re.compile("/gradio_api/upload")):
        window.panel().locator("input[type=file]").nth(place).set_input_files(files)


def test_photographs_are_scored_ranked_and_downloaded_and_bad_files_named(
    window: Window, good: list[Path], bad: dict[str, Path], tmp_path: Path
) -> None:
    drop(window, bad["text"], *good, bad["truncated"], bad["bomb"], bad["drawing"], bad["empty"])
    window.page.wait_for_function(
        "n => document.querySelectorAll('#photographs tr.file').length === n", arg=len(good) + 5
    )
    window.press("Score")
    cards = window.panel().locator(".ranking li")
    cards.first.wait_for()
    assert cards.count() == len(good)
    scores = [float(text) for text in cards.locator(".head b").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    names = cards.locator(".name").all_inner_texts()
    assert {path.name for path in good} == set(names), "names are text, whatever they hold"
    refused = window.panel().locator(".refused li").all_inner_texts()
    assert sorted(line.split()[0] for line in refused) == [
        "bomb.png", "cut.jpg", "drawing.svg", "notes.jpg", "nothing.png"
    ]  # fmt: skip
    assert not any("/" in line or "Traceback" in line for line in refused)
    window.panel().get_by_text("As a table").click()
    assert window.panel().locator(".redaes tbody tr").count() == len(good)
    assert window.faults() == []
    with window.page.expect_download() as download:
        window.press("Download CSV")
    download.value.save_as(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows[: len(good)]] == names
    assert len(rows) == len(good) + len(refused)


def test_a_file_that_is_far_too_large_is_named_and_the_others_are_scored(
    window: Window, good: list[Path], bad: dict[str, Path]
) -> None:
    drop(window, bad["huge"], good[0])
    window.page.wait_for_function("() => document.querySelectorAll('#photographs tr.file').length === 2")
    window.press("Score")
    window.panel().locator(".ranking li").first.wait_for()
    assert window.panel().locator(".refused li").all_inner_texts() == ["huge.jpg is larger than 50 MB"]


def test_files_are_dropped_as_well_as_chosen(window: Window) -> None:
    window.page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(TOO_MANY_BYTES + 9)], "large.jpg", { type: "image/jpeg" }));
            dataTransfer.items.add(new File(["dear diary"], "notes.txt", { type: "text/plain" }));
            const place = document.querySelector("#photographs button");
            place.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }"""
    )
    window.page.wait_for_function("() => document.querySelectorAll('#photographs tr.file').length === 2")
    window.press("Score")
    window.panel().locator(".refused").wait_for()
    assert [line.split(" is ")[0] for line in window.panel().locator(".refused li").all_inner_texts()] == [
        "large.jpg", "notes.txt"
    ]  # fmt: skip


def test_two_photographs_are_compared_and_a_bad_file_is_refused_at_once(
    window: Window, good: list[Path], bad: dict[str, Path]
) -> None:
    window.tab("Compare")
    assert window.faults() == []
    window.press("Compare")
    window.page.get_by_text("Choose two photographs first.").wait_for()
    drop(window, bad["text"])
    window.panel().locator(".refused").wait_for()
    assert "notes.jpg" in window.panel().locator(".refused").inner_text()
    drop(window, good[0])
    window.panel().locator(".refused").wait_for(state="detached")
    drop(window, good[1], place=-1)
    window.panel().get_by_alt_text("Second photograph").wait_for()
    window.press("Compare")
    answer = window.panel().locator(".answer")
    answer.wait_for()
    assert re.search(r"The (first|second) photograph is .* the (first|second)\.", answer.inner_text())
    assert re.search(r"Difference [+−]?\d+\.\d", answer.inner_text())
    assert window.faults() == []


def test_advice_is_listed_and_the_edit_is_shown_under_a_slider_that_keys_move(
    window: Window, good: list[Path], bad: dict[str, Path]
) -> None:
    window.tab("Advice")
    drop(window, good[0])
    window.press("Advise")
    trial = window.panel().locator(".trial")
    trial.wait_for()
    first = trial.locator(".said").inner_text()
    best = window.panel().locator(".proposals li")
    assert best.count() == 0 or first in best.first.inner_text()
    slider = trial.get_by_label("Slide between before and after")
    slider.focus()
    slider.press("ArrowRight")
    assert trial.locator(".two").evaluate("e => e.style.getPropertyValue('--cut')") == "51%"
    assert window.faults() == []
    window.panel().get_by_label("Make this edit and look at it").click()
    window.page.get_by_role("option").nth(1).click()
    window.page.wait_for_function("words => document.querySelector('.trial .said').innerText !== words", arg=first)
    chosen = window.panel().get_by_label("Make this edit and look at it").input_value()
    assert chosen.startswith(trial.locator(".said").inner_text().rstrip("."))
    drop(window, good[1])
    trial.wait_for(state="hidden")
    drop(window, bad["truncated"])
    window.panel().get_by_text("is truncated").wait_for()
    window.press("Advise")
    window.page.get_by_text("Choose a photograph first.").wait_for()


def test_a_dataset_is_browsed_and_filtered(window: Window) -> None:
    panel = window.tab("Data")
    panel.locator("#cards > li").first.wait_for()
    first = panel.locator("#cards h3").first.inner_text()
    assert "<script>alert" in panel.locator("#cards").text_content(), "the judges' words are text"
    window.press("Next")
    panel.get_by_text("page 2 of").wait_for()
    assert panel.locator("#cards h3").first.inner_text() != first
    panel.get_by_label("Show").click()
    window.page.get_by_role("option", name="groups").click()
    panel.get_by_role("heading", name="Group").first.wait_for()
    panel.get_by_label("Words in the instruction").fill("no such words")
    panel.get_by_label("Words in the instruction").press("Enter")
    panel.get_by_text("No record is like this.").wait_for()
    assert window.faults() == []


def test_a_run_is_shown_with_its_curves_and_what_the_model_wrote(window: Window) -> None:
    panel = window.tab("Run")
    panel.locator("svg.chart").first.wait_for()
    assert panel.locator("svg.chart").count() > 6
    assert "at step" in panel.get_by_label("Completions at step").get_attribute("aria-label")
    rows = panel.locator(".completions tbody tr")
    before = rows.first.inner_text()
    panel.get_by_label("Completions at step").click()
    window.page.get_by_role("option").first.click()
    window.page.wait_for_function(
        "words => document.querySelector('.completions tbody tr').innerText !== words", arg=before
    )
    assert window.faults() == []


def test_keys_alone_reach_every_tab_and_score_a_photograph(window: Window, good: list[Path]) -> None:
    looks = "e => [e.tagName, e.innerText.trim(), getComputedStyle(e).outlineStyle + getComputedStyle(e).boxShadow]"
    reached = set()
    for _ in range(20):
        window.page.keyboard.press("Tab")
        tag, text, outline = window.page.evaluate(f"({looks})(document.activeElement)")
        if tag == "BODY":
            break
        reached.add(text)
        assert outline != "nonenone", f"nothing shows that {tag} {text!r} has the focus"
    assert {"Score", "Compare", "Advice", "Data", "Run", "Dark or light"} <= reached
    drop(window, good[0])
    button = window.panel().get_by_role("button", name="Score", exact=True)
    button.focus()
    button.press("Enter")
    window.panel().locator(".ranking li").first.wait_for()


def test_the_theme_follows_the_system_and_a_button_changes_it(chromium: Any, served: Served) -> None:
    paper = {}
    for scheme in ("light", "dark"):
        window = window_of(chromium, served, scheme=scheme)
        colours = """() => [document.body, document.querySelector(".intro h1")].map(getComputedStyle)
            .map((style) => [style.backgroundColor, style.color])"""
        paper[scheme] = window.page.evaluate(colours)
        window.page.get_by_role("button", name="Dark or light").click()
        changed = window.page.evaluate(colours)
        assert changed != paper[scheme]
        assert window.errors == []
        window.page.close()
        paper[scheme + " changed"] = changed
    assert paper["light changed"] == paper["dark"]
    assert paper["dark changed"] == paper["light"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_or_too_faint_on_a_phone(
    chromium: Any, served: Served, good: list[Path], scheme: str
) -> None:
    window = window_of(chromium, served, NARROW, scheme)
    drop(window, *good)
    window.press("Score")
    window.panel().locator(".ranking li").first.wait_for()
    for name in ("Score", "Compare", "Advice", "Data", "Run"):
        panel = window.tab(name)
        panel.wait_for()
        if name == "Advice":
            drop(window, good[0])
            window.press("Advise")
            panel.locator(".trial").wait_for()
            assert beside_its_arrow(panel.get_by_label("Make this edit and look at it"))
        if name == "Data":
            panel.locator("#cards > li").first.wait_for()
        if name == "Run":
            panel.locator("svg.chart").first.wait_for()
        assert window.page.evaluate("document.documentElement.scrollWidth") <= NARROW, name
        assert faint(window.page) == [], name
    assert window.errors == []
    window.page.close()


def beside_its_arrow(choice: Any) -> bool:
    """Whether the words of a menu end before its arrow."""
    ends = choice.evaluate("e => e.getBoundingClientRect().right - parseFloat(getComputedStyle(e).paddingRight)")
    arrow = choice.evaluate("e => e.parentElement.querySelector('svg').getBoundingClientRect().left")
    return bool(ends <= arrow)


def faint(page: Any) -> list[str]:
    """Words of ours whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    found: list[str] = page.evaluate((Path(__file__).parent / "contrast.js").read_text(encoding="utf-8"))
    return found
