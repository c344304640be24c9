"""`redaes compare` and `redaes advise` as a person uses them, with a scorer that measures brightness."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from tests.evaluation.pages import Page

from redaes.sources.skimage_photos import SkimagePhotos

SCORER = """
import numpy as np
from redaes.inference import Difference, Score

def bright(image):
    return float(np.asarray(image).mean()) / 25.5

class Brightness:
    def __init__(self, model="", batch_size=16, device=None):
        self.apart = float(model) if model[:1].isdigit() else 0.0

    def score(self, images):
        return [Score(bright(image), "", "") for image in images]

    def compare_pairs(self, pairs):
        found = [bright(after) - bright(before) for before, after in pairs]
        return [Difference(value, "<b>Light</b> counts.", "", disagreement=self.apart) for value in found]

    def predict_edits(self, edits):
        known = {"Brighten": 2.0, "Darken": -2.0, "Lift": 1.0}
        return [Difference(known.get(text.split()[0]), "", text) for _, text in edits]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("photographs")
    (made / "brightness.py").write_text(SCORER)
    photograph = SkimagePhotos(["coffee"]).open("coffee").resize((150, 100))
    photograph.save(made / "light.png")
    photograph.point(lambda value: value // 2).save(made / "dark.png")
    return made


def redaes(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, (str(cwd), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "redaes", *map(str, arguments), "--scorer", "brightness.Brightness"]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def brightness(path: Path) -> float:
    return float(np.asarray(Image.open(path)).mean()) / 25.5


def test_the_better_of_two_is_named_with_the_difference(folder: Path) -> None:
    result = redaes("compare", "dark.png", "light.png", "--html", "pair.html", cwd=folder)
    assert result.returncode == 0, result.stderr
    apart = brightness(folder / "light.png") - brightness(folder / "dark.png")
    assert result.stdout.splitlines()[0] == f"light.png is better by {apart:.1f} points"
    page = (folder / "pair.html").read_text()
    Page(page)
    assert f"better by {apart:.1f}</span>" in page
    assert "&lt;b&gt;Light&lt;/b&gt; counts." in page
    found = json.loads(redaes("compare", "light.png", "dark.png", "--format", "json", cwd=folder).stdout)
    assert found["difference"] == pytest.approx(-apart, abs=0.01)


def test_where_both_orders_contradict_each_other_nobody_wins(folder: Path) -> None:
    result = redaes("compare", "dark.png", "light.png", "--model", "9", "--html", "unsure.html", cwd=folder)
    assert result.stdout.startswith("no clear winner\nasked in both orders: each names another winner (+")
    page = (folder / "unsure.html").read_text()
    assert "<h1>no clear winner</h1>" in page
    assert 'class="badge"' not in page


def test_advice_lists_what_could_be_read_best_first(folder: Path) -> None:
    result = redaes("advise", "dark.png", "--html", "advice.html", cwd=folder)
    assert result.returncode == 0, result.stderr
    gains = [line.split()[0] for line in result.stdout.splitlines()[1:]]
    assert gains == ["+2.0", "+1.0", "−2.0"]
    assert "edits the model's prediction could not be read" in result.stderr
    page = (folder / "advice.html").read_text()
    assert page.count('<li class="gain">') == 3
    told = json.loads(redaes("advise", "dark.png", "--format", "json", cwd=folder).stdout)
    assert [one["predicted"] for one in told["advice"][:4]] == [2.0, 1.0, -2.0, None]


def test_an_edit_is_kept_only_if_it_is_seen_to_be_better(folder: Path) -> None:
    words = ["--apply", "procedural", "--rounds", 2, "--output", "made", "--html", "made.html", "--format", "json"]
    result = redaes("advise", "dark.png", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    attempts = json.loads(result.stdout)["attempts"]
    assert [attempt["kept"] for attempt in attempts] == [attempt["verified"] > 0 for attempt in attempts]
    assert "round 1: Brighten" in result.stderr
    improved = folder / "made" / "dark-improved.jpg"
    gained = sum(attempt["verified"] for attempt in attempts if attempt["kept"])
    assert gained > 0
    assert brightness(improved) - brightness(folder / "dark.png") == pytest.approx(gained, abs=0.1)
    strip = Image.open(folder / "made" / "dark-strip.jpg")
    assert strip.width > 3 * strip.height
    before, after = Page((folder / "made.html").read_text()).having("img")[:2]
    assert (before["alt"], after["class"]) == ("Before: dark.png", "after")


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_made(folder: Path) -> None:
    refused = redaes("advise", "dark.png", "--apply", "procedural", "--html", "no/where.html", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr.strip() == "error: cannot write --html no/where.html: the folder no does not exist"


def test_what_the_camera_wrote_stays_with_the_improved_photograph(folder: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "A camera", 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber] = 2.8
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    with Image.open(folder / "dark.png") as dark:
        dark.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=95)
    result = redaes("advise", "turned.jpg", "--apply", "procedural", "--output", "made", cwd=folder)
    assert result.returncode == 0, result.stderr
    with Image.open(folder / "made" / "turned-improved.jpg") as improved, Image.open(folder / "dark.png") as dark:
        assert improved.size == dark.size
        found = improved.getexif()
    assert (found[ExifTags.Base.Make], found[ExifTags.Base.Orientation]) == ("A camera", 1)
    assert found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber] == pytest.approx(2.8)
    assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_a_name_that_is_not_utf8_is_written_with_escapes(folder: Path) -> None:
    name = os.fsdecode(b"d\xff.png")
    (folder / name).write_bytes((folder / "dark.png").read_bytes())
    words = ["--apply", "procedural", "--format", "json", "--html", "advice.html"]
    result = redaes("advise", name, *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["image"] == r"d\xff.png"
    assert told["improved"] == r"advice/d\xff-improved.jpg"
    assert r"d\xff.png" in (folder / "advice.html").read_text()


def test_what_does_not_help_is_not_kept(folder: Path) -> None:
    words = ["--apply", "procedural", "--min_gain", 9, "--tries", 2, "--output", "none"]
    result = redaes("advise", "light.png", *words, cwd=folder)
    assert result.returncode == 0
    assert result.stderr.count("not kept") == 2
    assert "the photograph stays as it is" in result.stderr
    assert not (folder / "none").exists()
