"""`redaes score` and `redaes rank` as a person uses them: real files of every kind, the real command line."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from redaes.inference.listing import read_rows
from redaes.models.vlm import shipped_nano

THIRD_PARTY = """
import time
import numpy as np
from redaes.inference import Score

class Brightness:
    def __init__(self, model="", batch_size=16, device=None):
        self.pause = float(model) if model[:1].isdigit() else 0.0

    def score(self, images):
        time.sleep(self.pause)
        values = [float(np.asarray(image).mean()) / 25.5 for image in images]
        return [Score(v, "Bright <b>&</b> \\x1b[31mclear.", "") for v in values]
"""


def beside(folder: Path) -> dict[str, str]:
    """Modules of a folder can be imported, beside what could be before."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


def redaes(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **beside(cwd or Path())}
    command = [sys.executable, "-m", "redaes", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def rows_of(result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {Path(row["path"]).name: row for row in rows}


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    return lines[0]


def _claim_to_be_huge(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[0:96, 0:128]
    picture = Image.fromarray(np.stack([x * 2, y * 2, x + y], axis=-1).astype(np.uint8))
    picture.save(folder / "plain.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(np.linspace(0, 65535, 96 * 128).reshape(96, 128).astype(np.uint16)).save(folder / "deep.png")
    picture.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (128, 96))])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    Image.new("RGB", (1, 1), "gray").save(folder / "one_pixel.png")
    (folder / "sub").mkdir()
    picture.convert("RGBA").save(folder / "sub" / "clear.webp", lossless=True)
    (folder / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    whole = (folder / "plain.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    _claim_to_be_huge(folder / "huge.png")
    (folder / "notes.txt").write_text("not listed")
    return folder


GOOD = {"plain.png", "cmyk.jpg", "deep.png", "moving.gif", "turned.png", "one_pixel.png", "clear.webp"}
BAD = {"corrupt.jpg", "cut.png", "empty.png", "gone.jpg", "huge.png"}


@pytest.fixture(scope="module")
def scored(photos: Path) -> subprocess.CompletedProcess[str]:
    return redaes("score", photos, "--format", "jsonl")


def test_every_kind_of_photograph_gets_a_score_and_words(scored: subprocess.CompletedProcess[str]) -> None:
    rows = rows_of(scored)
    assert set(rows) == GOOD | BAD
    for name in GOOD:
        assert rows[name]["error"] == ""
        assert 0 <= float(str(rows[name]["score"])) <= 10
        assert rows[name]["reasoning"]


def test_bad_files_are_reported_and_the_rest_is_scored(scored: subprocess.CompletedProcess[str]) -> None:
    rows = rows_of(scored)
    for name in BAD:
        assert rows[name]["score"] is None
        assert rows[name]["error"]
        assert sum(f"{name}: {rows[name]['error']}" in line for line in scored.stderr.splitlines()) == 1
    assert "megapixels" in str(rows["huge.png"]["error"])
    assert "truncated" in str(rows["cut.png"]["error"])
    assert scored.returncode == 1
    assert "Traceback" not in scored.stderr


def test_a_turned_picture_scores_as_the_upright_one(scored: subprocess.CompletedProcess[str]) -> None:
    rows = rows_of(scored)
    assert rows["turned.png"]["score"] == rows["plain.png"]["score"] == rows["clear.webp"]["score"]
    assert rows["turned.png"]["reasoning"] == rows["plain.png"]["reasoning"]


def test_the_score_of_an_image_does_not_depend_on_its_company(
    photos: Path, scored: subprocess.CompletedProcess[str]
) -> None:
    alone = redaes("score", photos / "deep.png", "--format", "jsonl", "--batch_size", "1")
    assert alone.returncode == 0
    assert rows_of(alone)["deep.png"] == rows_of(scored)["deep.png"]


def test_the_table_shows_names_scores_and_bars(photos: Path) -> None:
    result = redaes("score", photos / "plain.png", photos / "sub")
    assert result.returncode == 0
    assert "plain.png" in result.stdout
    assert "█" in result.stdout or "░" in result.stdout


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_of_scores_is_continued_not_repeated(photos: Path, tmp_path: Path, form: str) -> None:
    output = tmp_path / f"scores.{form}"
    first = redaes("score", photos / "plain.png", "--output", output)
    assert first.returncode == 0, first.stderr
    before = output.read_text()
    second = redaes("score", photos / "plain.png", photos / "deep.png", "--output", output)
    assert "already holds 1 of 2 images" in second.stderr
    assert "scored 1/1" in second.stderr
    assert output.read_text().startswith(before)
    lines = output.read_text().splitlines()
    rows = [json.loads(line) for line in lines] if form == "jsonl" else list(csv.DictReader(lines))
    assert [Path(row["path"]).name for row in rows] == ["plain.png", "deep.png"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_work_that_was_killed_is_continued_where_it_stopped(photos: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "third_party.py").write_text(THIRD_PARTY)
    output = tmp_path / f"scores.{form}"
    lines = tmp_path / ".scores.parquet.jsonl" if form == "parquet" else output
    arguments = ["score", str(photos / "sub"), str(photos / "plain.png"), str(photos / "deep.png"), "--batch_size", "1"]
    arguments += ["--scorer", "third_party.Brightness", "--output", str(output)]
    environment = {**os.environ, **beside(tmp_path)}
    slow = [sys.executable, "-m", "redaes", *arguments, "--model", "1.5"]
    process = subprocess.Popen(slow, env=environment, stderr=subprocess.DEVNULL)
    while not lines.exists() or len(lines.read_text().splitlines()) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = read_rows(output, form)
    result = redaes(*arguments, "--model", "1.5", cwd=tmp_path)
    assert "already holds 2 of 3 images" in result.stderr
    assert read_rows(output, form)[:2] == kept
    assert len(read_rows(output, form)) == 3


def test_two_models_never_share_a_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "third_party.py").write_text(THIRD_PARTY)
    output = tmp_path / "scores.jsonl"
    arguments = ["score", photos / "plain.png", "--scorer", "third_party.Brightness", "--output", output]
    assert redaes(*arguments, "--model", "a", cwd=tmp_path).returncode == 0
    before = output.read_text()
    assert "holds scores of another model" in one_line(redaes(*arguments, "--model", "b", cwd=tmp_path))
    assert output.read_text() == before


def test_bad_arguments_are_one_line_that_says_what_would_be_right(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    plain = photos / "plain.png"
    for words, arguments in [
        ("no such file or folder", [tmp_path / "missing"]),
        ("no images in the folder", [tmp_path / "nothing"]),
        ("no file matches", [tmp_path / "*.jpg"]),
        ("cannot write", [plain, "--output", tmp_path / "no" / "a.jsonl"]),
        ("cannot tell the format", [plain, "--output", tmp_path / "a.xlsx"]),
        ("needs a file", [plain, "--format", "parquet"]),
        ("holds a 'bert' model", [plain, "--model", tmp_path / "bert"]),
        ("is not a model checkpoint", [plain, "--model", tmp_path / "nothing"]),
        ("no checkpoint directory", [plain, "--model", tmp_path / "missing"]),
        ("did you mean 'redaes'", [plain, "--scorer", "redae"]),
        ("must be at least 1", [plain, "--batch_size", "0"]),
    ]:
        assert words in one_line(redaes("score", *arguments))


def test_a_ranking_is_best_first_and_a_page_of_its_own(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "third_party.py").write_text(THIRD_PARTY)
    page = tmp_path / "ranking.html"
    arguments = ["rank", photos, "--scorer", "third_party.Brightness"]
    result = redaes(*arguments, "--format", "jsonl", "--html", page, cwd=tmp_path)
    rows = list(rows_of(result).values())
    scores = [float(str(row["score"])) for row in rows]
    assert len(rows) == len(GOOD)
    assert scores == sorted(scores, reverse=True)
    assert result.returncode == 1
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == len(GOOD)
    assert html.count("alt=") == len(GOOD)
    assert "<script" not in html
    assert "Bright &lt;b&gt;&amp;&lt;/b&gt;" in html
    assert "huge.png" in html

    two = redaes("rank", photos / "plain.png", photos / "deep.png", *arguments[2:], "--html", page, cwd=tmp_path)
    assert "2 images, best first" in page.read_text(encoding="utf-8")
    assert f"{photos / 'plain.png'} and 1 more" in page.read_text(encoding="utf-8")
    assert two.returncode == 0

    best = redaes(*arguments, "--top", "2", cwd=tmp_path)
    assert sum("█" in line or "░" in line for line in best.stdout.splitlines()) == 2
    assert "\x1b[31mclear" not in best.stdout


def test_a_burst_is_ranked_by_its_best_and_stars_lie_beside_the_photographs(tmp_path: Path) -> None:
    (tmp_path / "third_party.py").write_text(THIRD_PARTY)
    pattern = np.random.default_rng(0).integers(0, 120, (8, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for name, level in (("a1", 20), ("a2", 120), ("a3", 60)):
        Image.fromarray(pattern + np.uint8(level)).save(tmp_path / f"{name}.png")
    Image.fromarray(pattern.T[::-1] + np.uint8(135)).save(tmp_path / "b.png")
    (tmp_path / "b.xmp").write_text("no xmp")
    (tmp_path / "a3.xmp").write_text(
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF>'
    )
    arguments = ["rank", tmp_path, "--scorer", "third_party.Brightness", "--bursts", "--xmp", "--stars", "relative"]
    result = redaes(*arguments, "--format", "jsonl", "--html", tmp_path / "page.html", cwd=tmp_path)
    assert result.returncode == 1, "a sidecar is no XMP file"
    rows = rows_of(result)
    assert list(rows) == ["b.png", "a2.png"]
    assert [(row["rank"], row["burst"], row["best"], row["stars"]) for row in rows.values()] == [
        (1, 2, True, 5),
        (2, 1, True, 3),
    ]
    assert "4 images, 1 bursts of two and more" in result.stderr
    assert "b.xmp is no XMP file" in result.stderr
    assert "rated 3 images in 5 sidecars; 1 that a person had rated are left alone" in result.stderr
    stars = {path.name: path.read_text().partition('xmp:Rating="')[2][:1] for path in tmp_path.glob("*.png.xmp")}
    assert stars == {"a1.png.xmp": "1", "a2.png.xmp": "3", "b.png.xmp": "5"}
    page = (tmp_path / "page.html").read_text()
    assert "The best of a burst of 3" in page
    assert page.count("</span>\n<span><img") == 1, "two small pictures, each with its score"
    table = redaes(*arguments, cwd=tmp_path).stdout.splitlines()
    assert [("★★★★★" in line, "best of 3" in line) for line in table[1:]] == [(True, False), (False, True)]


def test_shards_of_images_give_shards_of_rows(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "third_party.py").write_text(THIRD_PARTY)
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        tar.add(photos / "plain.png", "0001.png")
        tar.add(photos / "deep.png", "0002.png")
    arguments = ["score", tmp_path / "00000.tar", "--scorer", "third_party.Brightness"]
    result = redaes(*arguments, "--output", tmp_path / "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "out" / "00000.scores.parquet", "parquet")
    assert [row.path for row in rows] == ["00000.tar/0001", "00000.tar/0002"]
    assert "name a folder with --output" in one_line(redaes(*arguments, cwd=tmp_path))


def test_the_shipped_model_ranks_a_folder(photos: Path) -> None:
    result = redaes("rank", photos / "sub", "--format", "csv")
    assert result.returncode == 0, result.stderr
    (row,) = csv.DictReader(result.stdout.splitlines())
    assert str(row["model"]).startswith(f"{shipped_nano().name}@")


def test_asking_for_help_does_not_load_a_model_library() -> None:
    for command in ("score", "rank", "evaluate", "report"):
        code = (
            f"import sys\nfrom redaes.cli import main\n"
            f"try:\n    main(['{command}', '--help'])\nexcept SystemExit:\n    pass\n"
            "sys.exit(bool({'torch', 'transformers', 'scipy', 'numpy'} & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, (command, result.stderr)
