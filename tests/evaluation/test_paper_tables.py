"""The paper's numbers as data: whole, of one shape, and their averages are those of their cells."""

import re

import pytest
from pydantic import ValidationError

from redaes.evaluation.paper_tables import MEASURES, PaperTable, paper_tables
from redaes.pipeline import load_pipeline
from redaes.presets import configs_folder, read_mapping, resolve_config
from redaes.sweeps.plan import load_sweep

TABLES = paper_tables()
ROW = {"name": "a", "paper": {"ava": [0.1, 0.2], "average": [0.1, 0.2]}}
TABLE = {"title": "t", "section": "s", "benchmarks": ["ava"], "rows": [ROW]}


def test_all_nine_are_there_with_the_papers_rows() -> None:
    assert {number: len(table.rows) for number, table in TABLES.items()} == {
        1: 14, 2: 4, 3: 4, 4: 6, 5: 6, 6: 4, 7: 3, 8: 6, 9: 4,
    }  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 9])
def test_every_cell_is_there(number: int) -> None:
    assert all(tuple(row.paper) == TABLES[number].keys for row in TABLES[number].rows)


@pytest.mark.parametrize("number", range(1, 7))
def test_averages_are_those_of_the_cells_except_where_a_remark_says_otherwise(number: int) -> None:
    table = TABLES[number]
    for row in table.rows:
        for measure in MEASURES:
            mean = sum(row.paper[f"{b}.{measure}"] for b in table.benchmarks) / len(table.benchmarks)
            remark = row.remarks.get(f"average.{measure}")
            printed = row.paper[f"average.{measure}"]
            assert (abs(mean - printed) <= 0.5e-4 + 1e-9) == (remark is None), (row.name, measure)
            assert remark is None or f"{mean:.4f}" in remark


def test_the_averages_of_editors_and_judges_are_those_of_their_rows() -> None:
    for number, key in ((8, "success_rate"), (9, "agreement")):
        *rows, average = [row.paper[key] for row in TABLES[number].rows]
        assert sum(rows) / len(rows) == pytest.approx(average, abs=0.5e-3)


def test_one_of_two_equal_cells_in_different_rows_is_remarked_upon() -> None:
    seen: dict[tuple, list] = {}
    for row in TABLES[1].rows:
        for benchmark in TABLES[1].benchmarks:
            pair = tuple(row.paper[f"{benchmark}.{m}"] for m in MEASURES)
            seen.setdefault((benchmark, pair), []).append(row)
    for (benchmark, _), rows in seen.items():
        assert len(rows) == 1 or all(row.remark(f"{benchmark}.plcc") for row in rows)


@pytest.mark.parametrize("number", range(2, 7))
def test_rows_of_ablations_are_the_runs_of_their_sweep(number: int) -> None:
    assert [row.run for row in TABLES[number].rows] == list(
        load_sweep(resolve_config(f"sweeps/table{number}.yaml")).rows
    )


def test_rows_of_table_1_are_ready_configurations() -> None:
    folder = configs_folder() / "benchmarks" / "scorers"
    assert {row.scorer for row in TABLES[1].rows} <= {read_mapping(path)["name"] for path in folder.glob("*.yaml")}


@pytest.mark.parametrize("size", ["7b", "3b", "2b"])
def test_our_ready_scorers_open_what_their_pipelines_write(size: str) -> None:
    scorer = read_mapping(resolve_config(f"benchmarks/scorers/redaes-{size}.yaml"))
    steps = load_pipeline(resolve_config(f"redaes-{size}/pipeline.yaml"), ()).steps
    evaluated = next(step.command for step in steps if step.name == "evaluate-grpo")
    assert scorer["scorer"]["class_path"] == "redaes"
    assert scorer["scorer"]["init_args"]["model"] in evaluated


def test_editors_and_judges_are_called_what_the_papers_crew_records() -> None:
    crew = read_mapping(resolve_config("paper/data.yaml"))
    editors = [read_mapping(resolve_config(editor))["init_args"]["name"] for editor in crew["editors"]]
    assert [row.name for row in TABLES[8].rows] == [*editors, "Average"]
    judges = {judge["init_args"]["model"].rpartition("/")[2] for judge in crew["judges"]}
    assert {name for row in TABLES[9].rows for name in row.judges or ()} == judges


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{**ROW, "paper": {"avva": [0.1, 0.2]}}]}, "avva"),
        ({"rows": [{**ROW, "paper": {"ava": [0.1, 1.2]}}]}, "outside its range"),
        ({"rows": [ROW, ROW]}, "more than once"),
        ({"rows": [{**ROW, "remarks": {"aadb": "copied"}}]}, "aadb"),
        ({"rows": []}, "at least 1"),
        ({"columns": ["agreement"]}, "either benchmarks or columns"),
        ({"titel": "t"}, "titel"),
    ],
)
def test_a_file_of_another_shape_is_refused(change: dict, said: str) -> None:
    PaperTable.model_validate(TABLE)
    with pytest.raises(ValidationError, match=re.escape(said)):
        PaperTable.model_validate({**TABLE, **change})
