"""An evaluation read back: only answers that the result was made of stand behind it."""

from pathlib import Path

import pytest
from tests.evaluation.an_evaluation import a_benchmark, evaluated, some_answers

from redaes.data.benchmarks import Benchmark
from redaes.errors import UserError
from redaes.evaluation.benchmarks import drawn, result
from redaes.evaluation.predictions import Predictions
from redaes.evaluation.results import read_benchmark, write_benchmark, write_result
from redaes.evaluation.scored import read_scored


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    return a_benchmark(tmp_path / "images", n=12, grouped=True)


def test_a_benchmark_is_read_as_it_was_written(tmp_path: Path, benchmark: Benchmark) -> None:
    write_benchmark(tmp_path, benchmark)
    read = read_benchmark(tmp_path, "ava", "test")
    assert read is not None
    assert list(read.items) == list(benchmark.items)
    assert (read.native_range, read.n_listed) == (benchmark.native_range, benchmark.n_listed)
    assert read_benchmark(tmp_path, "ava", "train") is None


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 2}', '{"schema_version": 1, "native_range": [1, 2]}'])
def test_a_file_that_is_no_benchmark_is_named(tmp_path: Path, benchmark: Benchmark, text: str) -> None:
    path = write_benchmark(tmp_path, benchmark)
    path.write_text(text)
    with pytest.raises(UserError, match=path.name):
        read_benchmark(tmp_path, "ava", "test")


def test_every_answer_is_joined_with_its_image(tmp_path: Path, benchmark: Benchmark) -> None:
    answers = some_answers(benchmark, "m@1", 0.5, unreadable=["003"], unparsed=["004"])
    evaluated(tmp_path, benchmark, answers, "m")
    (found,) = read_scored(tmp_path)
    assert [item.id for item in found.items] == [item.id for item in benchmark.items]
    assert "003" not in found.measured
    assert "004" in found.measured
    assert found.answers == {answer.id: answer for answer in answers}


def test_a_drawn_evaluation_is_read_with_the_images_drawn(tmp_path: Path, benchmark: Benchmark) -> None:
    Predictions(tmp_path).append(some_answers(benchmark, "m@1", 0.5))
    chosen = drawn(benchmark.items, 5)
    write_benchmark(tmp_path, benchmark)
    kept = Predictions(tmp_path).answers("ava", "m@1")
    write_result(tmp_path, result(benchmark, chosen, kept, scorer="m", fingerprint="m@1"))
    (found,) = read_scored(tmp_path)
    assert [item.id for item in found.items] == [item.id for item in chosen]


def test_answers_or_opinions_that_have_changed_since_are_not_taken_for_those_of_the_result(
    tmp_path: Path, benchmark: Benchmark
) -> None:
    evaluated(tmp_path, benchmark, some_answers(benchmark, "m@1", 0.5), "m")
    Predictions(tmp_path).append(some_answers(benchmark, "m@1", 0.5, seed=9))
    (found,) = read_scored(tmp_path)
    assert not found.items
    evaluated(tmp_path, benchmark, some_answers(benchmark, "m@1", 0.5), "m")
    assert read_scored(tmp_path)[0].items
    write_benchmark(tmp_path, Benchmark("ava", "test", (1.0, 10.0), benchmark.items[:8], 8))
    assert not read_scored(tmp_path)[0].items
    next((tmp_path / "benchmarks").iterdir()).unlink()
    assert read_scored(tmp_path)[0].benchmark is None


def test_scorers_of_one_name_are_told_apart_and_others_keep_theirs(tmp_path: Path, benchmark: Benchmark) -> None:
    for mark, name in (("m@2", "m"), ("m@1", "m"), ("other@1", "other")):
        evaluated(tmp_path, benchmark, some_answers(benchmark, mark, 0.5), name)
    assert [(s.name, s.result["fingerprint"]) for s in read_scored(tmp_path)] == [
        ("m (1)", "m@1"),
        ("m (2)", "m@2"),
        ("other", "other@1"),
    ]
    assert read_scored(tmp_path, ["para"]) == []
