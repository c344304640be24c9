"""Results on disk are read as they were written, and nothing else is taken for one."""

from pathlib import Path

import pytest

from redaes.errors import UserError
from redaes.evaluation.results import read_results, write_result

RESULT = {
    "benchmark": "ava",
    "split": "test",
    "fingerprint": "org/model:0",
    "scorer": "M",
    "measures": {},
    "plcc": None,
}


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path, RESULT)
    assert read_results(tmp_path) == [{"schema_version": 1, **RESULT}]


def test_a_later_result_of_the_same_scorer_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    write_result(tmp_path, RESULT)
    write_result(tmp_path, {**RESULT, "plcc": 0.5})
    write_result(tmp_path, {**RESULT, "fingerprint": "other"})
    assert [r["plcc"] for r in read_results(tmp_path)] == [0.5, None]


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 9}', '{"schema_version": 1, "benchmark": "ava"}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    path = write_result(tmp_path, RESULT)
    path.write_text(text)
    with pytest.raises(UserError, match=path.name):
        read_results(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        write_result(tmp_path, RESULT)
