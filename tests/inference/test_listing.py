"""Scoring many files: one row each, in order, whatever single files do; a file of rows can be continued."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from redaes.errors import UserError
from redaes.inference import Score, ScorerProtocol
from redaes.inference.listing import Row, RowWriter, header, printable, read_rows, rows_to_keep, score_files, to_line


class BrightnessScorer:
    """A scorer of a third party: mean brightness, and no answer for black."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, images: Sequence[Image.Image | str | Path]) -> list[Score]:
        self.batches.append(len(images))
        values = [float(np.asarray(image).mean()) / 25.5 for image in images]
        return [Score(v if v > 0 else None, "bright" if v > 5 else "", f"<answer>{v}</answer>") for v in values]


def _photos(folder: Path, levels: Sequence[int]) -> list[Path]:
    paths = [folder / f"{i:03}.png" for i in range(len(levels))]
    for path, level in zip(paths, levels, strict=True):
        Image.new("L", (8, 8), level).save(path)
    return paths


def _rows(files: Sequence[Path], scorer: ScorerProtocol, batch_size: int = 4) -> list[Row]:
    return [row for batch in score_files(files, scorer, "m@1", batch_size=batch_size) for row in batch]


def test_a_third_partys_scorer_satisfies_the_contract() -> None:
    assert isinstance(BrightnessScorer(), ScorerProtocol)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_file_gets_its_own_row_in_order(tmp_path: Path, batch_size: int) -> None:
    files = _photos(tmp_path, [51, 102, 153, 204, 255])
    files.insert(2, tmp_path / "missing.png")
    rows = _rows(files, BrightnessScorer(), batch_size)
    assert [row.path for row in rows] == [str(path) for path in files]
    assert [row.score for row in rows] == [2.0, 4.0, None, 6.0, 8.0, 10.0]
    assert rows[2].error == "no such file"
    assert {row.model for row in rows} == {"m@1"}


def test_an_answer_without_a_number_is_an_error_not_a_score(tmp_path: Path) -> None:
    (row,) = _rows(_photos(tmp_path, [0]), BrightnessScorer())
    assert (row.score, row.error) == (None, "the model's answer holds no score")


def test_a_batch_of_unreadable_files_does_not_reach_the_model(tmp_path: Path) -> None:
    scorer = BrightnessScorer()
    assert len(_rows([tmp_path / "a", tmp_path / "b"], scorer)) == 2
    assert scorer.batches == []


def test_no_files_give_no_rows() -> None:
    assert _rows([], BrightnessScorer()) == []


def test_the_next_batch_is_read_while_the_present_one_is_scored(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for path in files:
        Image.fromarray(noise).save(path, compress_level=1)

    class SlowScorer(BrightnessScorer):
        def score(self, images: Sequence[Image.Image | str | Path]) -> list[Score]:
            time.sleep(0.25)  # a model that works elsewhere, on a device
            return [Score(5.0, "", "") for _ in images]

    start = time.perf_counter()
    _rows(files[:1], SlowScorer())
    one = time.perf_counter() - start
    start = time.perf_counter()
    _rows(files, SlowScorer(), batch_size=1)
    assert time.perf_counter() - start < 6 * one


words = st.text(st.characters(codec="utf-8"), max_size=30)
some_rows = st.lists(
    st.builds(Row, words.filter(bool), st.none() | st.floats(0, 10), words, words, words.filter(bool)), max_size=5
)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@settings(deadline=None)
@given(rows=some_rows)
def test_rows_survive_being_written_and_read(tmp_path_factory, form, rows: list[Row]) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows.{form}"
    with RowWriter(path, form, rows[:1]) as writer:
        for row in rows[1:]:
            writer.add([row])
    assert read_rows(path, form) == rows


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_every_batch_is_on_disk_before_the_next_and_a_torn_line_is_left_out(tmp_path: Path, form) -> None:
    path = tmp_path / f"rows.{form}"
    first, second = Row("a.png", 5.0, 'two\nlines, "quoted"', "", "m@1"), Row("b.png", 6.0, "x", "", "m@1")
    with RowWriter(path, form) as writer:
        writer.add([first])
        assert read_rows(path, form) == [first]
        writer.add([second])
    path.write_bytes(path.read_bytes()[:-4])
    assert read_rows(path, form) == [first]


def test_rows_of_an_interrupted_parquet_file_are_those_that_it_began_with_and_the_new_ones(tmp_path: Path) -> None:
    path, first, second = tmp_path / "rows.parquet", Row("a", 5.0, "", "", "m"), Row("b", 6.0, "", "", "m")
    with RowWriter(path, "parquet") as writer:
        writer.add([first])
    writer = RowWriter(path, "parquet", rows_to_keep(path, "parquet", "m"))
    writer.add([second])  # and the process is killed while it writes the next
    with (tmp_path / ".rows.parquet.jsonl").open("a") as file:
        file.write('{"path": "c", "sc')
    assert rows_to_keep(path, "parquet", "m") == [first, second]
    with RowWriter(path, "parquet", rows_to_keep(path, "parquet", "m")):
        pass
    assert read_rows(path, "parquet") == [first, second]
    assert sorted(tmp_path.iterdir()) == [path]


def test_parquet_keeps_what_was_scored_when_the_work_breaks_off(tmp_path: Path) -> None:
    path, row = tmp_path / "rows.parquet", Row("a.png", 5.0, "", "", "m@1")

    def interrupted() -> None:
        with RowWriter(path, "parquet") as writer:
            writer.add([row])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_rows(path, "parquet") == [row]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", '{"other": 1}\n'), ("a.jsonl", "text\n"), ("a.csv", "x,y\n1,2\n"), ("a.parquet", "text")],
)
def test_a_file_of_something_else_is_never_overwritten(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} exists and is no .* file written by `redaes score`"):
        read_rows(tmp_path / name, name.split(".")[1])
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_an_output_that_cannot_be_written_is_a_one_line_error(tmp_path: Path, form) -> None:
    for path in (tmp_path / "no" / f"a.{form}", tmp_path):
        with pytest.raises(UserError, match="cannot write") as caught:
            RowWriter(path, form)
        assert "\n" not in str(caught.value)


def test_lines_are_what_other_tools_expect() -> None:
    row = Row("a,b.png", 5.5, "fine", "", "m@1")
    assert to_line(row, "jsonl").startswith('{"path": "a,b.png", "score": 5.5')
    assert header("csv") + to_line(row, "csv") == (
        '"path","score","reasoning","error","model"\n"a,b.png",5.5,"fine","","m@1"\n'
    )
    assert header("jsonl") == ""


@settings(deadline=None)
@given(st.text())
def test_printable_text_holds_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()
