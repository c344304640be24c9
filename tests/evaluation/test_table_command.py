"""`redaes table`: from results on disk to every format, with errors of one line."""

import csv
import json
from pathlib import Path

import pytest
from tests.evaluation.results_of_benchmarks import made_result

from redaes.cli import main
from redaes.data.manifest import write_atomically
from redaes.evaluation.results import write_result
from redaes.sweeps.results import write


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["table", *words]) == 0
    return capsys.readouterr().out


def test_json_has_ours_and_the_papers_per_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = made_result("ava", "qwen3-vl-8b", unparsed=4)
    write_result(tmp_path, found)
    document = json.loads(out(capsys, "1", "--results", str(tmp_path), "--format", "json"))
    row = next(row for row in document["rows"] if row["name"] == "Qwen3-VL-8B")
    cell = next(cell for cell in row["cells"] if cell["column"] == "ava.srcc")
    assert cell["paper"] == 0.4599
    assert {key: cell[key] for key in ("ours", "low", "high")} == {
        "ours": found["srcc"]["value"],
        "low": found["srcc"]["low"],
        "high": found["srcc"]["high"],
    }
    assert cell["n"] == 26
    assert cell["difference"] == pytest.approx(found["srcc"]["value"] - 0.4599)
    words = ("1", "--results", str(tmp_path), "--format", "json", "--failures", "failures_as_mean")
    assert out(capsys, *words) != json.dumps(document, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("number", range(1, 10))
def test_without_results_every_table_shows_the_papers_numbers_and_how_to_fill_ours_in(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = json.loads(out(capsys, str(number), "--format", "json"))
    assert all(cell["paper"] is not None for row in document["rows"] for cell in row["cells"])
    assert document["how"].count("redaes ") >= (0 if number == 7 else 1)
    text = out(capsys, str(number))
    assert text.startswith(f"Tab. {number}: ")
    for name in ("markdown", "latex", "csv"):
        assert document["rows"][-1]["name"] in out(capsys, str(number), "--format", name).replace("\\", "")


def test_a_file_is_written_in_any_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "4", "-o", str(tmp_path / "4.txt")) == ""
    assert "M = 5, J = 3" in (tmp_path / "4.txt").read_text()
    out(capsys, "4", "--format", "csv", "-o", str(tmp_path / "4.csv"))
    assert len(list(csv.DictReader((tmp_path / "4.csv").open()))) == 6 * 8


def test_a_sweep_and_the_results_of_its_models_come_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"table": "table6", "preset": "nano", "run": "n8", "seed": 0, "model": "steps/grpo-a/model"}
    write(tmp_path / ".", [{**facts, "srcc_within": 0.5}], quick=False)
    write_result(tmp_path / "kept", made_result("ava", str(tmp_path / "steps/grpo-a/model")))
    words = ("6", "--sweep", str(tmp_path), "--results", str(tmp_path / "kept"), "--format", "json")
    document = json.loads(out(capsys, *words))
    cells = {cell["column"]: cell for row in document["rows"] for cell in row["cells"] if row["name"] == "8 (1+7)"}
    assert cells["srcc_within"]["ours"] == 0.5
    assert cells["srcc_within"]["difference"] is None
    assert cells["ava.srcc"]["difference"] is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["10"], "no table 10; the paper has tables 1 to 9"),
        (["1", "--results", "nowhere"], "no folder nowhere"),
        (["2", "--sweep", "nowhere"], "no results.parquet in nowhere"),
        (["8", "--data", "nowhere"], "no dataset at nowhere"),
        (["9", "--data", "bare"], "records no biased"),
        (["1", "--format", "word"], "it must be"),
        (["1", "-o", "nowhere/x.md"], "cannot write nowhere/x.md"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    write_atomically(tmp_path / "bare" / "manifest.json", '{"schema_version": 1}')
    assert main(["table", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
