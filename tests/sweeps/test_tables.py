"""Tab. 2-6 beside a sweep: its own measure stands alone, and models evaluated on benchmarks are compared."""

from pathlib import Path

import pytest
from scipy.stats import t
from tests.evaluation.results_of_benchmarks import made_result

from redaes.errors import UserError
from redaes.evaluation.tables import NOT_IN_PAPER
from redaes.presets import resolve_config
from redaes.sweeps.plan import load_sweep, plan
from redaes.sweeps.results import read, write
from redaes.sweeps.tables import ablation_table

BENCHMARKS = ("ava", "flickr_aes", "tad66k")


def row(run: str, seed: int, srcc: float | None, *, table: str = "table3", preset: str = "nano") -> dict:
    facts = {"table": table, "preset": preset, "run": run, "seed": seed, "stage": "grpo"}
    return {**facts, "model": f"steps/grpo-{run}-{seed}/model", "srcc_within": srcc, "n": 40}


def cells_of(table, name: str):
    return next(row for row in table.rows if row.name == name).cells


def test_the_order_within_groups_has_a_column_of_its_own_and_no_difference(tmp_path: Path) -> None:
    write(tmp_path, [row("mixed", seed, value) for seed, value in enumerate((0.5, 0.6, 0.7))], quick=False)
    table = ablation_table(3, tmp_path, read(tmp_path), [])
    cells = cells_of(table, "Mixed PT & RL")
    own = cells["srcc_within"]
    half = t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert (own.ours, own.low, own.high, own.n) == (*map(pytest.approx, (0.6, 0.6 - half, 0.6 + half)), 3)
    assert all(cell.difference is None for cell in cells.values())
    assert not cells["ava.srcc"].measured
    assert table.columns[-1].over == "within groups, nano"
    assert any("another measure" in note for note in table.notes)


def test_models_that_were_evaluated_on_benchmarks_are_compared_there(tmp_path: Path) -> None:
    write(tmp_path, [row("mixed", 0, 0.5), row("quality_only", 0, 0.4)], quick=False)
    model = "wherever/steps/grpo-mixed-0/model"
    results = [made_result(name, model) for name in BENCHMARKS]
    table = ablation_table(3, tmp_path, read(tmp_path), [*results, made_result("ava", "gpt-5")])
    cells = cells_of(table, "Mixed PT & RL")
    assert cells["ava.srcc"].ours == results[0]["srcc"]["value"]
    assert cells["ava.srcc"].difference == pytest.approx(results[0]["srcc"]["value"] - 0.77)
    assert cells["average.plcc"].ours == pytest.approx(sum(r["plcc"]["value"] for r in results) / 3)
    assert not cells_of(table, "Qual. Only PT & RL")["ava.srcc"].measured


def test_several_seeds_on_a_benchmark_are_shown_by_their_mean(tmp_path: Path) -> None:
    write(tmp_path, [row("mixed", seed, 0.5) for seed in (0, 1)], quick=False)
    results = [made_result("ava", str(tmp_path / f"steps/grpo-mixed-{s}/model"), seed=s) for s in (0, 1)]
    cell = cells_of(ablation_table(3, tmp_path, read(tmp_path), results), "Mixed PT & RL")["ava.srcc"]
    values = [result["srcc"]["value"] for result in results]
    assert cell.ours == pytest.approx(sum(values) / 2)
    assert cell.high - cell.ours == pytest.approx(t.ppf(0.975, 1) * abs(values[0] - values[1]) / 2)
    assert "Mean of 2 seeds." in cell.remark


def test_shortened_runs_are_only_shown_where_there_are_no_others_and_are_said_to_be(tmp_path: Path) -> None:
    write(tmp_path, [row("mixed", 0, 0.9)], quick=True)
    short = ablation_table(3, tmp_path, read(tmp_path), [])
    assert any("--quick" in note for note in short.notes)
    write(tmp_path, [row("mixed", 0, 0.5)], quick=False)
    full = ablation_table(3, tmp_path, read(tmp_path), [])
    assert not any("--quick" in note for note in full.notes)
    assert cells_of(full, "Mixed PT & RL")["srcc_within"].ours == 0.5


def test_a_run_without_a_single_answer_is_undefined_and_one_of_ours_alone_comes_last(tmp_path: Path) -> None:
    write(tmp_path, [row("mixed", 0, None), row("mine", 0, 0.3)], quick=False)
    table = ablation_table(3, tmp_path, read(tmp_path), [])
    assert "no answer" in cells_of(table, "Mixed PT & RL")["srcc_within"].remark
    assert (table.rows[-1].name, table.rows[-1].family) == ("mine", NOT_IN_PAPER)


def test_another_table_and_two_presets_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [row("mixed", 0, 0.5), row("mixed", 0, 0.5, preset="redaes-2b")], quick=False)
    with pytest.raises(UserError, match="no run of table4, but table3"):
        ablation_table(4, tmp_path, read(tmp_path), [])
    with pytest.raises(UserError, match="nano and redaes-2b"):
        ablation_table(3, tmp_path, read(tmp_path), [])


def test_results_name_the_model_that_was_evaluated(tmp_path: Path) -> None:
    (cell,) = plan(load_sweep(resolve_config("sweeps/table5.yaml")), tmp_path, ["cold_start"], [0])
    words = cell.steps[-1].command
    assert words[words.index("--model") + 1] == str(tmp_path / cell.model)
