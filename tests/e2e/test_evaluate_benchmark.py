"""`redaes evaluate --benchmark` on official layouts: counts add up, nothing is scored twice."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from scipy.stats import spearmanr
from tests.data.benchmarks.layouts import write_ava, write_para

from redaes.cli import main
from redaes.data.images import open_image
from redaes.evaluation.predictions import Predictions
from redaes.inference import Score

ASKED: list[str] = []


class Brightness:
    """Scores by mean brightness; breaks on one shade, and has no words for another."""

    fingerprint = "brightness-1"

    def __init__(self, model: str = "", batch_size: int = 1, device: str | None = None, breaks: int = -1) -> None:
        self.breaks = breaks

    def score(self, images):
        grey = [image.convert("L").resize((1, 1)).getpixel((0, 0)) for image in images]
        if self.breaks in grey:
            raise RuntimeError(f"shade {self.breaks}")
        ASKED.extend(map(str, grey))
        return [Score(None if value % 7 == 0 else value / 25.5, "", str(value)) for value in grey]


@pytest.fixture
def ava(tmp_path: Path) -> Path:
    ASKED.clear()
    write_ava(tmp_path / "ava", n=20, listed_only=["11714"])
    return tmp_path / "ava"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict], str]:
    code = main(["evaluate", "--scorer", f"{__name__}.Brightness", "--format", "json", *words])
    printed = capsys.readouterr()
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err


def test_every_listed_image_is_accounted_for(ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = sorted((ava / "image").iterdir())[0]
    broken.write_bytes(b"no image")
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    code, (found,), errors = run(capsys, *words)
    assert code == 1  # one image cannot be opened
    assert f"ava: {broken.stem}: unreadable" in errors
    assert found["n_found"] == found["n_unreadable"] + found["n_failed"] + found["n_unparsed"] + found["n_scored"]
    assert found["n_listed"] == found["n_found"] + sum(
        count for reason, count in found["left_out"].items() if reason != "image without a row"
    )
    assert found["n_unreadable"] == 1
    assert found["n_listed"] == 21


def test_the_correlation_is_scipys_on_the_answers_that_were_kept(
    ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    code, (found,), _ = run(capsys, *words)
    assert code == 0
    truths = write_ava(tmp_path / "again", n=20)
    answers = Predictions(tmp_path / "kept").answers("ava", "brightness-1")
    pairs = [(answer.value, truths[name]) for name, answer in answers.items() if answer.value is not None]
    assert len(pairs) == found["n_scored"] == 20 - found["n_unparsed"]
    assert found["srcc"]["value"] == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic, abs=1e-12)
    assert found["srcc"]["low"] <= found["srcc"]["value"] <= found["srcc"]["high"]


def test_a_repeated_command_scores_only_what_is_new(
    ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    _, first, _ = run(capsys, *words, "--images", "8")
    assert first[0]["n_drawn"] == len(ASKED) == 8
    _, (whole,), errors = run(capsys, *words)
    assert len(ASKED) == whole["n_found"] == 20
    assert "8 images are scored already" in errors
    _, (again,), _ = run(capsys, *words)
    assert len(ASKED) == 20
    assert again["srcc"] == whole["srcc"]


def test_a_scorer_that_breaks_on_one_image_scores_the_others(
    ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shade = open_image(sorted((ava / "image").iterdir())[3]).convert("L").resize((1, 1)).getpixel((0, 0))
    ready = tmp_path / "breaks.yaml"
    ready.write_text(f"name: b\nscorer: {{class_path: {__name__}.Brightness, init_args: {{breaks: {shade}}}}}\n")
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    code = main(["evaluate", "--scorer", str(ready), "--format", "json", *words])
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert code == 1
    assert 1 <= found["n_failed"] < 20
    assert found["n_failed"] + found["n_unparsed"] + found["n_scored"] == 20
    assert f"RuntimeError: shade {shade}" in printed.err


class Careless:
    """Gives one score too few where it is asked for many, and numbers that are no scores."""

    fingerprint = "careless-1"

    def __init__(self, model: str = "", batch_size: int = 1, device: str | None = None) -> None:
        self.given = [99.0, float("nan"), -0.5]

    def score(self, images):
        if len(images) > 1:
            return [Score(5.0, "", "5")] * (len(images) - 1)
        return [Score(self.given.pop() if self.given else 5.0, "", "said")]


def test_scores_that_are_none_are_failures_and_stay_in_the_measures_as_such(
    ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"), "--format", "json")
    assert main(["evaluate", "--scorer", f"{__name__}.Careless", *words]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["n_failed"], found["n_scored"]) == (3, 17)
    assert (found["measures"]["n"], found["measures"]["parsed"]) == (20, 17)
    for value in ("99.0", "nan", "-0.5"):
        assert f"the score {value} is not in [0, 10]" in printed.err


def test_a_scorer_whose_settings_are_at_fault_stops_with_one_line(
    ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    assert main(["evaluate", "--scorer", "benchmarks/scorers/gpt-5.yaml", *words]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "kept").exists()


def test_the_table_says_what_each_number_counts(ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"), "--images", "8")
    assert main(["evaluate", "--scorer", f"{__name__}.Brightness", *words]) == 0
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in capsys.readouterr().out.splitlines()]
    head, row = lines[1], next(line for line in lines if line and line[0] == "ava")
    found = dict(zip(head, row, strict=True))
    assert (found["drawn"], found["listed"], found["missing"], found["failed"]) == ("8", "21", "1", "0")
    assert int(found["scored"]) + int(found["unparsed"]) == 8


def test_several_benchmarks_each_have_a_root(ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_para(tmp_path / "para", n=12)
    roots = ("--root+", f"ava={ava}", "--root+", f"para={tmp_path / 'para'}")
    words = ("--benchmark+", "ava", "--benchmark+", "para", *roots, "--predictions", str(tmp_path / "kept"))
    code, results, _ = run(capsys, *words)
    assert code == 0
    assert [found["benchmark"] for found in results] == ["ava", "para"]
    assert main(["evaluate", "--benchmark", "ava"]) == 2
    assert "where is ava? give --root ava=FOLDER" in capsys.readouterr().err
    assert main(["evaluate", "--benchmark", "ava", "--root", str(ava), "--root", "elsewhere"]) == 2
    assert f"--root is {ava} and elsewhere; give one folder, or ava=FOLDER" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_named_in_a_line(ava: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "kept").write_text("")
    code, found, errors = run(capsys, "--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    assert (code, found) == (2, [])
    assert re.search(r"^error: .*cannot write .*kept/ava/.*: Not a directory$", errors.splitlines()[-1])


def test_a_page_that_cannot_be_written_is_refused_before_an_image_is_scored(ava: Path, tmp_path: Path, capsys) -> None:
    kept, page = tmp_path / "kept", tmp_path / "page.html"
    page.mkdir()
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(kept))
    code, found, errors = run(capsys, *words, "--html", str(page))
    assert (code, found, kept.exists()) == (2, [], False)
    assert errors.splitlines() == [f"error: cannot write --html {page}: is a folder"]
    (tmp_path / "file").write_text("")
    code, _, errors = run(capsys, *words, "--html", str(tmp_path / "file" / "page.html"))
    assert (code, kept.exists()) == (2, False)
    assert re.fullmatch(r"error: cannot write --html .*: (Not a directory|File exists)", errors.strip())


def test_the_logistic_curve_is_fitted_when_it_is_asked_for(ava: Path, tmp_path: Path, capsys) -> None:
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    _, (plain,), _ = run(capsys, *words)
    _, (fitted,), errors = run(capsys, *words, "--logistic")
    assert " 0 images to score" in errors
    assert "plcc_logistic" not in plain
    assert fitted["plcc_logistic"]["value"] >= plain["plcc"]["value"]
    assert fitted["plcc"] == plain["plcc"]


def test_the_table_shows_the_order_within_groups_where_there_are_any(ava: Path, tmp_path: Path, capsys) -> None:
    images = sorted((ava / "image").iterdir())
    rows = [f"{path},{place % 5},g{place // 4}\n" for place, path in enumerate(images)]
    (tmp_path / "own.csv").write_text("path,score,set\n" + "".join(rows))
    (tmp_path / "own.yaml").write_text("{class_path: csv, init_args: {group: set}}")
    words = ("--benchmark", str(tmp_path / "own.yaml"), "--root", str(tmp_path / "own.csv"))
    kept = ("--predictions", str(tmp_path / "kept"))
    _, (found,), _ = run(capsys, *words, *kept)
    assert main(["evaluate", "--scorer", f"{__name__}.Brightness", *words, *kept]) == 0
    printed = capsys.readouterr().out
    assert "in groups" in printed
    assert f"{found['srcc_within']['value']:.4f}" in printed


@pytest.fixture
def namesakes(tmp_path: Path) -> list[Path]:
    """Two tables of one file name, whose images have the same names and sizes and other pixels."""
    for shade, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("L", (16, 16), 9 + 20 * number + 5 * shade).save(tmp_path / name / f"{number}.bmp")
        rows = "".join(f"{number}.bmp,{number}\n" for number in range(8))
        (tmp_path / name / "labels.csv").write_text(f"path,score\n{rows}")
        settings = f"{{root: {tmp_path / name / 'labels.csv'}}}"
        (tmp_path / f"{name}.yaml").write_text(f"{{class_path: csv, init_args: {settings}}}")
    return [tmp_path / "first", tmp_path / "second"]


def test_images_of_the_same_name_and_size_are_told_apart(namesakes: list[Path], tmp_path: Path, capsys) -> None:
    for folder in namesakes:
        words = ("--benchmark", "csv", "--root", str(folder / "labels.csv"), "--predictions", str(tmp_path / "kept"))
        code, (found,), errors = run(capsys, *words)
        assert (code, found["n_drawn"]) == (0, 8)
        assert ": 8 images to score" in errors
        assert " 0 images to score" in run(capsys, *words)[2]


def test_a_part_waits_for_answers_about_its_own_images(namesakes: list[Path], tmp_path: Path, capsys) -> None:
    first, second = (("--benchmark", "csv", "--root", str(folder / "labels.csv")) for folder in namesakes)
    kept = ("--predictions", str(tmp_path / "kept"), "--batch_size", "2")
    assert run(capsys, *first, *kept)[1]
    _, found, errors = run(capsys, *second, *kept, "--shard", "1/2")
    assert found == []
    assert "4 images of other parts are awaited" in errors
    assert run(capsys, *second, *kept, "--shard", "2/2")[1]


def test_tables_of_ones_own_are_called_as_their_files(namesakes: list[Path], tmp_path: Path, capsys) -> None:
    files = [word for folder in namesakes for word in ("--benchmark", f"{folder}.yaml")]
    _, results, _ = run(capsys, *files, "--predictions", str(tmp_path / "kept"))
    assert [found["benchmark"] for found in results] == ["first", "second"]
    assert len(list((tmp_path / "kept/results").iterdir())) == 2


def test_the_real_nano_model_is_measured(ava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--benchmark", "ava", "--root", str(ava), "--predictions", str(tmp_path / "kept"))
    assert main(["evaluate", *words, "--model", "nano", "--images", "4", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_scored"] + found["n_unparsed"] == found["n_drawn"] == 4
    assert found["fingerprint"].startswith("nano@")


def test_the_list_says_where_to_get_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"ava", "tad66k", "flickr_aes", "para", "aadb"} <= set(listed)
    assert all(said["source"] and said["licence"] and said["layout"] for said in listed.values())
