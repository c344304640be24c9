"""`redaes compare` as a person uses it: words, JSON and a page, for the shipped model and for a third party's."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageFilter
from tests.evaluation.pages import Page

from redaes.cli import main

THIRD_PARTY = """
from redaes.inference import Difference

class Brightness:
    def __init__(self, model="", batch_size=16, device=None):
        self.mute = model == "mute"

    def score(self, images):
        raise AssertionError("a comparison asks for no score")

    def compare_pairs(self, pairs):
        if self.mute:
            return [Difference(None, "", "who \\x1b[31mknows?") for _ in pairs]
        values = [[image.convert("L").getpixel((0, 0)) / 25.5 for image in pair] for pair in pairs]
        return [Difference(b - a, "<i>Brighter</i> is better.", "", disagreement=0.5) for a, b in values]
"""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "outside.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path)
    sharp = Image.effect_noise((120, 90), 60).convert("RGB")
    sharp.save(tmp_path / "sharp.png")
    sharp.filter(ImageFilter.GaussianBlur(5)).save(tmp_path / "soft.png")
    for name, level in (("dark", 51), ("<b>light", 153)):
        Image.new("RGB", (40, 30), (level, level, level)).save(tmp_path / f"{name}.png")
    (tmp_path / "note.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shipped_model_compares_and_the_order_changes_the_sign_alone(photos: Path, capsys) -> None:
    shown = []
    for names in (("sharp.png", "soft.png"), ("soft.png", "sharp.png")):
        assert main(["compare", *names, "--format", "json", "--device", "cpu"]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0]["difference"] == -shown[1]["difference"]
    assert shown[0]["disagreement"] == shown[1]["disagreement"] >= 0
    assert (shown[0]["first"], shown[0]["second"]) == ("sharp.png", "soft.png")
    assert shown[0]["model"].startswith("nano@")


def test_the_verdict_in_words_and_on_a_page_of_its_own(photos: Path, capsys) -> None:
    words = ["compare", "dark.png", "<b>light.png", "--scorer", "outside.Brightness", "--html", "page.html"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "<b>light.png is better by 4.0 points",
        "asked in both orders: each within 0.5 points of that",
        "<i>Brighter</i> is better.",
    ]
    html = Path("page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open
    pictures = page.having("img")
    assert [picture["alt"] for picture in pictures] == [
        "The first photograph: dark.png",
        "The second photograph: <b>light.png",
    ]
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") for picture in pictures)
    assert "<b>light.png is better by 4.0 points" in page.words
    assert not page.having("b") + page.having("script")
    assert not re.search(r"<i>Brighter|https?://", html)


def test_no_difference_is_said_and_is_a_failure(photos: Path, capsys) -> None:
    words = ["compare", "dark.png", "<b>light.png", "--scorer", "outside.Brightness", "--model", "mute"]
    assert main([*words, "--html", "page.html"]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["no difference could be read"]
    assert "the model's answer holds no difference: who [31mknows?" in shown.err
    assert not Page(Path("page.html").read_text(encoding="utf-8")).open


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dark.png", "gone.png"], "error: gone.png: no such file"),
        (["note.txt", "dark.png"], "error: note.txt: is not an image"),
        (["dark.png"], "error: the following arguments are required: second"),
        (["dark.png", "dark.png", "--html", "no/page.html"], "error: cannot write --html no/page.html: the folder no"),
        (["dark.png", "dark.png", "--model", "/nowhere/m"], "error: no checkpoint directory at /nowhere/m"),
        (["dark.png", "dark.png", "--scorer", "logit_expectation"], "does not compare images"),
    ],
)
def test_bad_input_is_one_line(photos: Path, capsys, words: list[str], expected: str) -> None:
    assert main(["compare", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
