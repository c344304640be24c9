"""`redaes evaluate` with several scorers and benchmarks, in parts, on several devices, killed and asked to stop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from tests.data.benchmarks.layouts import write_ava, write_para, write_tad66k
from tests.e2e import plain_scorers

from redaes.cli import main
from redaes.evaluation.predictions import Predictions

PLUGIN = "tests.e2e.plain_scorers"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the five sets, side by side in one folder."""
    folder = tmp_path_factory.mktemp("downloads")
    write_ava(folder / "AVA", n=24)
    write_para(folder / "PARA", n=12)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[dict], str]:
    code = main(["evaluate", "--format", "json", *map(str, words)])
    printed = capsys.readouterr()
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err


def ready(path: Path, scorer: str, **settings: object) -> Path:
    path.write_text(yaml.safe_dump({"scorer": {"class_path": f"{PLUGIN}.{scorer}", "init_args": settings}}))
    return path


def ava(folder: Path) -> tuple[str, ...]:
    return ("--benchmark", "ava", "--root", str(folder / "AVA"))


def test_every_scorer_is_measured_on_every_benchmark(downloads, tmp_path, capsys):
    words = ("--benchmark", "ava", "--benchmark", "para", "--root", downloads, "--predictions", tmp_path / "kept")
    scorers = [f"--scorer={PLUGIN}.{name}" for name in ("Brightness", "Darkness")]
    code, results, _ = run(capsys, *words, *scorers)
    assert code == 0
    assert [(r["scorer"].rpartition(".")[2], r["benchmark"]) for r in results] == [
        (f"{scorer}:nano", benchmark) for scorer in ("Brightness", "Darkness") for benchmark in ("ava", "para")
    ]
    assert results[0]["srcc"]["value"] == pytest.approx(-results[2]["srcc"]["value"])
    assert len({result["fingerprint"] for result in results}) == 2
    assert main(["evaluate", *map(str, words), *scorers]) == 0
    assert capsys.readouterr().out.count("minus") == 2  # once for each benchmark, not again the other way round


def test_scorers_of_one_command_are_compared_on_the_same_images_and_shown_on_one_page(downloads, tmp_path, capsys):
    kept, page = tmp_path / "kept", tmp_path / "page.html"
    scorers = [f"--scorer={PLUGIN}.{name}" for name in ("Brightness", "Darkness")]
    words = (*ava(downloads), "--predictions", kept, *scorers)
    code, (first, second), errors = run(capsys, *words, "--html", page)
    assert code == 0
    assert first["differences"] == []
    found = {row["measure"]: row for row in second["differences"]}
    assert found["srcc"]["value"] == pytest.approx(second["srcc"]["value"] - first["srcc"]["value"])
    assert {(row["a"], row["b"], row["n"]) for row in found.values()} == {
        (f"{PLUGIN}.Darkness:nano", f"{PLUGIN}.Brightness:nano", 24)
    }
    assert f"wrote {page}" in errors
    once = page.read_text(encoding="utf-8")
    assert once.count("data:image/jpeg") > 20
    assert main(["evaluate", "--predictions", str(kept), "--html", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == once
    assert main(["evaluate", *map(str, words)]) == 0
    assert re.search(r"Darkness:nano +│ -?[\d.]+ +│ -?[\d.]+ +│ +24", capsys.readouterr().out)


def test_a_file_names_benchmarks_and_scorers_and_what_cannot_be_is_said_in_a_line(
    downloads, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ready(tmp_path / "dark.yaml", "Darkness")
    plan = {
        "benchmarks": {"ava": str(downloads / "AVA"), "tad66k": str(tmp_path), "para": None},
        "scorers": [
            "benchmarks/scorers/gpt-5.yaml",
            "benchmarks/scorers/nima.yaml",
            str(tmp_path / "dark.yaml"),
            {"name": "bright", "scorer": f"{PLUGIN}.Brightness"},
        ],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ("--config", tmp_path / "plan.yaml", "--root", downloads, "--predictions", tmp_path / "kept")
    code, results, errors = run(capsys, *words)
    assert code == 1
    assert [(r["scorer"], r["benchmark"]) for r in results] == [
        ("dark", "ava"), ("dark", "para"), ("bright", "ava"), ("bright", "para")
    ]  # fmt: skip
    for words in ("tad66k: no labels/merge/test.csv", "gpt-5: ", "OPENAI_API_KEY", "nima: "):
        assert sum(words in line for line in errors.splitlines()) == 1, words


def test_all_is_every_official_benchmark_that_is_found(downloads, tmp_path, capsys):
    words = ("--root", downloads, "--predictions", tmp_path / "kept", f"--scorer={PLUGIN}.Brightness")
    code, results, errors = run(capsys, "--all", *words)
    assert code == 0
    assert [(r["benchmark"], r["n_found"]) for r in results] == [("ava", 24), ("para", 12)]
    assert "tad66k: no labels/merge/test.csv" in errors
    assert main(["evaluate", "--all"]) == 2


def test_all_takes_table_1_where_no_scorer_is_named(downloads, tmp_path, capsys):
    from redaes.evaluation.rivals import TABLE_1, read_plan

    benchmarks, rivals = read_plan(TABLE_1)
    paper = yaml.safe_load((Path(__file__).parents[2] / "src/redaes/evaluation/paper_tables.yaml").read_text())[1]
    assert [each.name for each in benchmarks] == paper["benchmarks"]
    assert [rival.name for rival in rivals] == [row["scorer"] for row in paper["rows"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- ava", "is no mapping"),
        ("scores: []", "has the key 'scores'"),
        ("scorers: [3]", "scorer 3 is neither a file nor"),
        ("benchmarks: {ava: 3}", "benchmark ava is 3; give a folder"),
        ("scorers: [benchmarks/scorers/gpt5.yaml]", "did you mean 'benchmarks/scorers/gpt-5.yaml'"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_scored(text, words, tmp_path, capsys):
    (tmp_path / "plan.yaml").write_text(text)
    assert main(["evaluate", "--config", str(tmp_path / "plan.yaml")]) == 2
    assert words in capsys.readouterr().err


def test_the_list_says_what_a_folder_holds(downloads, capsys):
    assert main(["evaluate", "--list", "--root", str(downloads), "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["ava"]["found"] == {
        "images": str(downloads / "AVA/image"), "n_listed": 24, "n_found": 24, "left_out": {}
    }  # fmt: skip
    assert "no labels/merge/test.csv" in listed["tad66k"]["found"]["error"]
    assert main(["evaluate", "--list", "--root", str(downloads)]) == 0
    printed = capsys.readouterr().out
    assert f"24 of 24 listed images in {downloads / 'AVA/image'}" in printed
    assert main(["evaluate", "--list", "--format", "json"]) == 0
    assert "found" not in json.loads(capsys.readouterr().out)["ava"]


def test_parts_of_a_benchmark_add_up_to_the_whole(downloads, tmp_path, capsys):
    scorer = ready(tmp_path / "bright.yaml", "Brightness", log=str(tmp_path / "log"))
    _, (whole,), _ = run(capsys, *ava(downloads), "--scorer", scorer, "--predictions", tmp_path / "whole")
    (tmp_path / "log").unlink()
    words = (*ava(downloads), "--scorer", scorer, "--predictions", tmp_path / "kept")
    for part in ("3/3", "1/3"):
        code, results, errors = run(capsys, *words, "--shard", part)
        assert (code, results) == (0, [])
    assert "part 1 of 3 is done; 8 images of other parts are awaited" in errors
    _, (merged,), _ = run(capsys, *words, "--shard", "2/3")
    assert len((tmp_path / "log").read_text().splitlines()) == 24
    assert {**merged, "seconds": 0} == {**whole, "seconds": 0}
    assert values(tmp_path / "kept", merged) == values(tmp_path / "whole", whole)
    for wrong in ("0/3", "4/3", "x"):
        assert main(["evaluate", *ava(downloads), "--shard", wrong]) == 2


def values(folder: Path, result: dict) -> dict[str, float | None]:
    answers = Predictions(folder).answers(result["benchmark"], result["fingerprint"])
    return {name: answer.value for name, answer in answers.items()}


def test_several_processes_give_the_answers_of_one(downloads, tmp_path, capsys):
    scorer = ready(tmp_path / "bright.yaml", "Brightness", log=str(tmp_path / "log"))
    words = ("--benchmark", "ava", "--benchmark", "para", "--root", downloads, "--scorer", scorer)
    _, whole, _ = run(capsys, *words, "--predictions", tmp_path / "whole")
    (tmp_path / "log").unlink()
    code, results, errors = run(capsys, *words, "--predictions", tmp_path / "kept", "--devices", "cpu,cpu")
    assert code == 0
    assert [values(tmp_path / "kept", r) for r in results] == [values(tmp_path / "whole", r) for r in whole]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == 36
    assert sorted(Counter(pid for _, pid, _ in lines).values()) == [16, 20]
    assert {device for _, _, device in lines} == {"cpu"}
    assert "scored 24/24 images" in errors


def test_a_process_that_cannot_open_the_scorer_says_why(downloads, tmp_path, capsys):
    words = (*ava(downloads), "--scorer", f"{PLUGIN}.Brightnes", "--predictions", tmp_path / "kept")
    assert main(["evaluate", *map(str, words), "--devices", "cpu,cpu"]) == 2
    assert "Brightnes" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_real_model_answers_alike_in_two_processes(downloads, tmp_path, capsys):
    words = (*ava(downloads), "--images", 6, "--model", "nano", "--batch_size", 2)
    _, (one,), _ = run(capsys, *words, "--predictions", tmp_path / "one", "--device", "cpu")
    _, (two,), _ = run(capsys, *words, "--predictions", tmp_path / "two", "--devices", "cpu,cpu")
    assert one["fingerprint"] == two["fingerprint"]
    assert values(tmp_path / "one", one) == values(tmp_path / "two", two)


def test_samples_are_asked_for_where_a_scorer_draws_them(downloads, tmp_path, capsys):
    words = (*ava(downloads), "--predictions", tmp_path / "kept")
    _, (found,), _ = run(capsys, *words, "--scorer", f"{PLUGIN}.Drawing", "--samples", 3)
    assert found["fingerprint"] == "drawing-3"
    assert found["uncertainty"]["mean_std"] == 0.5
    assert found["uncertainty"]["n"] == 24
    (table,) = (tmp_path / "kept/intervals").iterdir()
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert len(rows) == 24
    assert all(0 <= row["low"] <= row["high"] <= 10 and row["std"] == 0.5 for row in rows)


def test_a_scorer_that_draws_one_answer_is_asked_several_times(downloads, tmp_path, capsys):
    plain_scorers.OneDraw.calls = 0
    words = (*ava(downloads), "--images", 4, "--predictions", tmp_path / "kept", "--scorer", f"{PLUGIN}.OneDraw")
    _, (found,), _ = run(capsys, *words, "--samples", 3)
    answers = Predictions(tmp_path / "kept").answers("ava", found["fingerprint"])
    assert {(answer.value, answer.std) for answer in answers.values()} == {(2.0, 1.0)}
    _, (single,), _ = run(capsys, *words)
    assert single["fingerprint"] != found["fingerprint"]
    assert single["uncertainty"] is None


def test_samples_of_a_scorer_that_answers_the_same_each_time_are_refused(downloads, tmp_path, capsys):
    words = (*ava(downloads), "--predictions", tmp_path / "kept", "--scorer", f"{PLUGIN}.Brightness", "--samples", 3)
    assert main(["evaluate", *map(str, words)]) == 2
    assert "answers the same each time" in capsys.readouterr().err.splitlines()[-1]


def test_a_scorer_that_breaks_on_everything_is_given_up_after_32_images(tmp_path, capsys):
    write_tad66k(tmp_path / "TAD", n=60)
    write_ava(tmp_path / "AVA", n=6)
    scorer = ready(tmp_path / "broken.yaml", "Broken", after=12, log=str(tmp_path / "log"))
    words = ("--benchmark", "tad66k", "--benchmark", "ava", "--root", tmp_path, "--predictions", tmp_path / "kept")
    code, results, errors = run(capsys, *words, "--scorer", scorer, "--scorer", f"{PLUGIN}.Brightness")
    assert code == 1
    assert [r["scorer"] for r in results] == [f"{PLUGIN}.Brightness:nano"] * 2
    line = "broken: the scorer broke on 32 images in a row, the last time with RuntimeError: no more"
    assert errors.splitlines().count(line) == 1
    (folder,) = (tmp_path / "kept/tad66k").glob("broken@*")
    statuses = Counter(a.status for a in Predictions(tmp_path / "kept").answers("tad66k", folder.name).values())
    assert statuses == {"ok": 12, "failed": 32}


def test_other_settings_and_weights_are_another_scorer(downloads, tmp_path, capsys):
    marks = []
    (tmp_path / "model").mkdir()
    for settings in ({}, {"seconds": 1e-9}, {"batch_size": 2}, {"model": str(tmp_path / "model")}):
        scorer = ready(tmp_path / "s.yaml", "Brightness", **settings)
        words = (*ava(downloads), "--images", 2, "--scorer", scorer, "--predictions", tmp_path / "kept")
        marks.append(run(capsys, *words)[1][0]["fingerprint"])
    (tmp_path / "model/weights.bin").write_bytes(b"trained")
    marks.append(run(capsys, *words)[1][0]["fingerprint"])
    assert marks[2] == marks[0]  # the size of batches changes no answer
    assert len(set(marks)) == 4


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_tad66k(folder, n=600, train=0)
    return folder


def started(many: Path, folder: Path, scorer: Path, *words: str) -> subprocess.Popen[str]:
    """`redaes evaluate` of 600 images in a process of its own."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    command = ["evaluate", "--benchmark", "tad66k", "--root", str(many), "--format", "json", "--scorer", str(scorer)]
    return subprocess.Popen(
        [sys.executable, "-m", "redaes", *command, "--predictions", str(folder / "kept"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def asked(log: Path, at_least: int = 0) -> int:
    """How many images the scorer was asked about; waits until they are so many."""
    deadline = time.monotonic() + 120
    while True:
        count = len(log.read_text().splitlines()) if log.is_file() else 0
        if count >= at_least:
            return count
        assert time.monotonic() < deadline
        time.sleep(0.01)


def already(errors: str) -> int:
    found = re.search(r"(\d+) images are scored already", errors)
    return int(found[1]) if found else 0


def test_a_killed_run_loses_one_part_at_most(many, tmp_path):
    log = tmp_path / "log"
    scorer = ready(tmp_path / "slow.yaml", "Brightness", log=str(log), seconds=0.004)
    process = started(many, tmp_path, scorer)
    asked(log, 450)
    process.send_signal(signal.SIGKILL)
    finished(process)
    before = asked(log)
    assert 450 <= before < 600
    code, out, errors = finished(started(many, tmp_path, scorer))
    assert (code, json.loads(out)["n_scored"]) == (0, 600)
    assert already(errors) >= 256
    assert asked(log) == before + 600 - already(errors)


@pytest.mark.parametrize(
    ("where", "told"), [((), signal.SIGINT), (("--devices", "cpu,cpu"), signal.SIGINT), ((), signal.SIGTERM)]
)
def test_an_interrupted_run_keeps_every_finished_call(where, told, many, tmp_path):
    log = tmp_path / "log"
    scorer = ready(tmp_path / "slow.yaml", "Brightness", log=str(log), seconds=0.02)
    process = started(many, tmp_path, scorer, *where)
    asked(log, 28)
    process.send_signal(told)
    code, _, errors = finished(process)
    assert code == 130
    assert errors.splitlines()[-1] == "interrupted"
    before = asked(log)
    code, out, errors = finished(started(many, tmp_path, scorer, "--images", "60"))
    assert (code, json.loads(out)["n_drawn"]) == (0, 60)
    assert len(list((tmp_path / "kept/tad66k").glob("*/part-*.parquet"))) == 2
    assert 60 - already(errors) == asked(log) - before


def test_two_processes_write_at_the_same_time(many, tmp_path):
    log = tmp_path / "log"
    scorer = ready(tmp_path / "bright.yaml", "Brightness", log=str(log), seconds=0.001)
    ended = [finished(p) for p in [started(many, tmp_path, scorer, "--shard", part) for part in ("1/2", "2/2")]]
    assert [code for code, _, _ in ended] == [0, 0]
    results = [json.loads(out) for _, out, _ in ended if out]
    assert results
    assert all(result["n_scored"] == 600 for result in results)
    assert asked(log) == 600
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2


def test_a_killed_process_of_several_is_named_and_the_others_answers_stay(many, tmp_path):
    log = tmp_path / "log"
    scorer = ready(tmp_path / "bright.yaml", "Brightness", log=str(log), seconds=0.02)
    process = started(many, tmp_path, scorer, "--devices", "cpu,cpu")
    asked(log, 100)
    os.kill(int(log.read_text().split()[1]), signal.SIGKILL)
    code, _, errors = finished(process)
    assert code == 2
    assert "the process on cpu was killed" in errors
    before = asked(log)
    code, out, errors = finished(started(many, tmp_path, scorer, "--devices", "cpu,cpu", "--images", "100"))
    assert (code, json.loads(out)["n_scored"]) == (0, 100)
    assert asked(log) - before < 100


def test_the_processes_end_when_the_first_one_is_killed(many, tmp_path):
    log = tmp_path / "log"
    scorer = ready(tmp_path / "bright.yaml", "Brightness", log=str(log), seconds=0.01)
    process = started(many, tmp_path, scorer, "--devices", "cpu,cpu")
    asked(log, 40)
    children = {int(line.split()[1]) for line in log.read_text().splitlines()}
    process.send_signal(signal.SIGKILL)
    finished(process)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert asked(log) < 600
