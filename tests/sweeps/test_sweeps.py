"""Sweeps: every row of the paper's ablations is a named run; rows share what they have in common; results add up."""

import json
from pathlib import Path

import pytest
import yaml

from redaes.cli import main
from redaes.pipeline import Run, fingerprints
from redaes.presets import configs_folder, resolve_config
from redaes.sweeps.plan import as_pipeline, load_sweep, plan, quick_words
from redaes.sweeps.results import read, record

ROWS = {
    "table2": ["aes_r1_aescot", "aes_r1_red20k", "shuffled", "consistent"],
    "table3": ["content_only", "quality_only", "mixed_pt_quality_rl", "mixed"],
    "table4": ["m1_j1", "m3_j1", "m5_j1", "m7_j1", "m5_j3", "m5_j5"],
    "table5": ["sft", "sft_o1", "sft_o1_o2", "cold_start", "cold_start_aes_r1", "cold_start_rl"],
    "table6": ["n4", "n6", "n8", "n10"],
}


def cells(table: str, *runs: str, seeds=(0,), quick: bool = False, output: Path = Path("out")):
    sweep = load_sweep(resolve_config(f"sweeps/{table}.yaml"))
    words = quick_words(sweep.preset) if quick else None
    return plan(sweep, output, runs or list(sweep.rows), seeds, (), words)


@pytest.mark.parametrize("table", ROWS)
def test_each_row_of_the_papers_table_is_a_named_run(table: str) -> None:
    sweep = load_sweep(resolve_config(f"sweeps/{table}.yaml"))
    assert list(sweep.rows) == ROWS[table]
    assert sweep.seeds == (0, 1, 2)


@pytest.mark.parametrize("table", ROWS)
def test_the_file_is_a_grid_of_wandbs(table: str) -> None:
    document = yaml.safe_load((configs_folder() / "sweeps" / f"{table}.yaml").read_text())
    assert document["method"] == "grid"
    assert document["parameters"]["run"]["values"] == ROWS[table]
    assert document["command"][-1] == "${args}"


def test_rows_share_every_step_up_to_where_they_differ() -> None:
    four, eight = cells("table6", "n4", "n8")
    assert [a.name == b.name for a, b in zip(four.steps, eight.steps, strict=True)] == [True] * 4 + [False] * 2
    assert len(as_pipeline([four, eight], Path("out")).steps) == 8


def test_tables_share_steps_too_and_seeds_share_none() -> None:
    (consistent,), (cold,) = cells("table2", "consistent"), cells("table5", "cold_start_rl")
    assert [step.name for step in consistent.steps] == [step.name for step in cold.steps]
    zero, one = cells("table2", "consistent", seeds=(0, 1))
    assert not {step.name for step in zero.steps} & {step.name for step in one.steps}


def test_a_step_is_the_same_wherever_the_sweep_lies_and_another_when_shortened() -> None:
    (here,), (there,) = cells("table6", "n4"), cells("table6", "n4", output=Path("/elsewhere"))
    assert [step.name for step in here.steps] == [step.name for step in there.steps]
    (quick,) = cells("table6", "n4", quick=True)
    assert not {step.name for step in here.steps} & {step.name for step in quick.steps}


def test_all_rows_of_a_table_are_measured_on_one_dataset() -> None:
    for table in ROWS:
        measured = {cell.steps[-1].command[2] for cell in cells(table)}
        assert len(measured) == 1, table


def test_a_run_that_is_not_there_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweeps/table6.yaml", "--only", "n5"]) == 2
    assert "table6 has no run 'n5' (did you mean 'n" in capsys.readouterr().err


def test_a_row_whose_file_nobody_gave_is_skipped_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("sweep", "sweeps/table2.yaml", "--only", "aes_r1_aescot", "--output", str(tmp_path))
    assert main(words) == 0
    assert "aes_r1_aescot is skipped: it needs a file, --set aescot=FILE" in capsys.readouterr().err
    assert main((*words, "--set", f"aescot={tmp_path / 'none.jsonl'}")) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err


def test_aes_r1_on_its_own_data_starts_from_that_alone_and_the_files_bytes_count(tmp_path: Path) -> None:
    file = tmp_path / "aescot.jsonl"
    sweep = load_sweep(resolve_config("sweeps/table2.yaml"))

    def states(text: str) -> dict[str, str]:
        file.write_text(text)
        (cell,) = plan(sweep, Path("out"), ["aes_r1_aescot"], [0], [f"aescot={file}"])
        assert [step.name.rpartition("-")[0] for step in cell.steps] == ["data", "initial", "sft", "grpo", "evaluate"]
        assert f"--model.backbone.path={cell.steps[2].outputs[0]}/model" in cell.steps[3].command
        assert all(f"--data.aescot={file}" in step.command for step in cell.steps[2:4])
        return fingerprints(as_pipeline([cell], Path("out")))

    before, after = states("{}"), states("{} ")
    assert [before[name] == after[name] for name in before] == [True, True, False, False, False]


def test_quick_is_refused_where_there_is_no_such_thing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweeps/table6.yaml", "--preset", "redaes-7b", "--quick"]) == 2
    assert "--quick is for presets with a quick.yaml, such as nano; redaes-7b has none" in capsys.readouterr().err


def test_an_evaluation_of_another_configuration_is_refused_and_others_keep_the_commit_they_were_made_with(
    tmp_path: Path,
) -> None:
    sweep = load_sweep(resolve_config("sweeps/table6.yaml"))
    grid = plan(sweep, tmp_path, ["n4", "n8"], [0])
    metrics = {"failures_as_mean": {"srcc_within": {"value": 0.5}}, "n": 9, "parse_failure_rate": 0.0}
    for cell in grid:
        cell.evaluation.parent.mkdir(parents=True, exist_ok=True)
        cell.evaluation.write_text(json.dumps({"metrics": metrics}))
    states = Run(as_pipeline(grid, tmp_path)).states
    for cell in grid:
        states[cell.steps[-1].name].status = "done"
    assert len(record(tmp_path, sweep, grid, states, False, "abc")) == len(read(tmp_path)) == 2

    assert {row["commit"] for row in record(tmp_path, sweep, grid, states, False, "def")} == {"abc"}

    states[grid[0].steps[-1].name].status = "waiting"  # as `Run` has it once a configuration has changed
    assert [row["run"] for row in record(tmp_path, sweep, grid, states, False, "abc")] == ["n8"]
    assert [(row["run"], row["reference"], row["n"]) for row in read(tmp_path)] == [("n8", "n8", 9)]
