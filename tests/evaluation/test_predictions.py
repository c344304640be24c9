"""Answers are kept in parts that a thread writes: none is lost, and what cannot be written is told."""

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.errors import UserError
from redaes.evaluation import predictions
from redaes.evaluation.predictions import Answer, Predictions

MARK = "scorer@1"


def answer(n: int) -> Answer:
    return Answer("ava", f"{n}.jpg", MARK, n % 10, None, "", str(n), "ok", "", 0.1, 100, float(n))


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.integers(0, 9), max_size=20), rows=st.integers(1, 12))
def test_whatever_the_batches_every_answer_is_in_one_part(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], rows: int
) -> None:
    kept = Predictions(tmp_path_factory.mktemp("kept"))
    numbers = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "PART_ROWS", rows)
        with kept.writer() as writer:
            for size in batches:
                writer.add([answer(next(numbers)) for _ in range(size)])
    found = kept.answers("ava", MARK)
    assert found == {f"{n}.jpg": answer(n) for n in range(sum(batches))}
    assert len(list(kept.folder.rglob("part-*.parquet"))) <= sum(batches) // rows + 1


def test_a_scorer_goes_on_while_a_part_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "PART_ROWS", 1)
    scored = threading.Event()
    append = Predictions.append
    monkeypatch.setattr(Predictions, "append", lambda self, rows: (scored.wait(30), append(self, rows))[1])
    with Predictions(tmp_path).writer() as writer:
        writer.add([answer(0)])  # would wait for ever if it wrote by itself
        scored.set()
    assert set(Predictions(tmp_path).answers("ava", MARK)) == {"0.jpg"}


def test_what_cannot_be_written_is_told_by_the_next_part_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "PART_ROWS", 2)
    folder = tmp_path / "kept"
    folder.write_text("in the way")
    writer = Predictions(folder).writer()
    writer.add([answer(0), answer(1)])
    writer._thread.submit(folder.unlink).result()  # after that part, as the thread takes them in turn
    with pytest.raises(UserError, match=str(folder)), writer:
        writer.add([answer(2), answer(3)])
    assert set(Predictions(folder).answers("ava", MARK)) == {"2.jpg", "3.jpg"}


def test_what_cannot_be_written_at_the_end_is_told_on_closing(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.write_text("in the way")
    with pytest.raises(UserError, match=str(folder)), Predictions(folder).writer() as writer:
        writer.add([answer(0)])


def test_an_interruption_loses_no_answer_that_was_given(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Predictions(tmp_path).writer() as writer:
            writer.add([answer(0), answer(1)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(Predictions(tmp_path).answers("ava", MARK)) == {"0.jpg", "1.jpg"}
