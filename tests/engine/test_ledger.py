"""The ledger: what was put is found, also by the next process; the right one answers; a second build stays out."""

import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.ledger_processes import folder_in_memory, record, start

from redaes.engine import segments
from redaes.engine.ledger import LARGEST, CallRecord, Ledger
from redaes.errors import UserError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
NUMBER = st.floats(-LARGEST, LARGEST)
COUNT = st.integers(0, LARGEST)
RECORDS = st.builds(
    CallRecord,
    key=TEXT,
    role=TEXT,
    plugin=TEXT,
    version=TEXT,
    model=TEXT,
    prompt=TEXT,
    parameters=TEXT,
    images=st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=2).map(tuple),
    source=TEXT,
    status=st.sampled_from(["ok", "failed"]),
    replies=TEXT,
    result=st.none() | TEXT,
    input_tokens=COUNT,
    output_tokens=COUNT,
    images_made=COUNT,
    cost=NUMBER,
    latency=NUMBER,
    attempt=COUNT,
    error=TEXT,
    at=NUMBER,
)


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.create_or_open(tmp_path / "out.ledger") as opened:
        yield opened


@settings(max_examples=60, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=4, unique_by=lambda one: one.key))
def test_what_is_put_is_found_exactly_as_it_was_also_when_the_database_is_lost(records: list[CallRecord]) -> None:
    with folder_in_memory() as folder:
        with Ledger.create_or_open(folder) as ledger:
            ledger.put_many(records)
            assert [ledger.find(one.key) for one in records] == records
        (folder / "ledger.sqlite").unlink()
        with Ledger.create_or_open(folder) as ledger:
            assert [ledger.find(one.key) for one in records] == records


def test_text_that_no_encoding_holds_is_kept_as_far_as_it_can_be(ledger: Ledger) -> None:
    ledger.put(record("a\ud800b", error="half \udcff and \U0001f600"))
    found = ledger.find("a\ud800b")
    assert found is not None
    assert found.error == "half � and \U0001f600"


def test_an_unknown_call_is_none(ledger: Ledger) -> None:
    ledger.put(record("known"))
    assert ledger.find("unknown") is None


def test_a_try_that_failed_is_no_answer(ledger: Ledger) -> None:
    ledger.put(record("k", status="retried", result=None, error="503"))
    assert ledger.find("k") is None
    ledger.put(record("k", attempt=2))
    assert ledger.find("k") == record("k", attempt=2)


def test_a_dead_letter_is_found_until_it_is_forgotten_or_answered(ledger: Ledger) -> None:
    dead = [record(f"dead-{n}", status="failed", result=None, error="declined") for n in range(4)]
    for one in dead:
        ledger.put(one)
    assert ledger.find("dead-0") == dead[0]
    assert list(ledger.failures()) == dead

    ledger.put(record("dead-0"))
    assert ledger.find("dead-0") == record("dead-0")
    assert ledger.forget_failures(["dead-0", "dead-1", "no such key"]) == 1
    assert ledger.find("dead-1") is None
    assert list(ledger.failures()) == dead[2:]

    ledger.put(replace(dead[1], error="declined again"))
    assert [one.error for one in ledger.failures()] == ["declined", "declined", "declined again"]
    assert ledger.forget_failures() == 3
    assert list(ledger.failures()) == []


def test_the_latest_answer_counts_whatever_the_clock_says(ledger: Ledger) -> None:
    for result, at in (("first", 1.8e9), ("second", -3.0), ("third", 1.7e9)):
        ledger.put(record("k", result=result, at=at))
    found = ledger.find("k")
    assert found is not None
    assert (found.result, found.at) == ("third", 1.7e9)


def test_totals_are_the_sums_of_all_attempts_also_of_forgotten_ones(ledger: Ledger) -> None:
    put = [
        record(f"{n}", role=role, model=model, status=status, cost=0.25 * n, latency=0.5)
        for n, (role, model, status) in enumerate(
            (role, model, status)
            for role in ("score", "edit")
            for model in ("m1", "m2")
            for status in ("ok", "retried", "failed")
            for _ in range(3)
        )
    ]
    ledger.put_many(put)
    before = ledger.totals()
    ledger.forget_failures()
    assert ledger.totals() == before
    calls = Counter((one.role, one.plugin, one.model, one.status) for one in put)
    assert {total[:4]: total.calls for total in before} == calls
    for total in before:
        of = [one for one in put if (one.role, one.plugin, one.model, one.status) == total[:4]]
        assert total.input_tokens == sum(one.input_tokens for one in of)
        assert total.cost == sum(one.cost for one in of)
        assert total.latency == sum(one.latency for one in of)


def test_a_result_is_that_of_its_build_and_the_latest(ledger: Ledger) -> None:
    ledger.put_result("build-1", "coffee-1", "old")
    ledger.put_result("build-1", "coffee-1", "new")
    ledger.put_result("build-2", "coffee-1", "other")
    assert ledger.result("build-1", "coffee-1") == "new"
    assert ledger.result("build-2", "coffee-1") == "other"
    assert ledger.result("build-1", "coffee-2") is None
    assert ledger.results_count("build-1") == 1
    assert ledger.results_count("build-3") == 0


@pytest.mark.parametrize("changes", [{"cost": float("nan")}, {"latency": float("inf")}, {"input_tokens": 2**70}])
def test_a_number_that_is_none_is_refused_and_the_ledger_goes_on(ledger: Ledger, changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
        ledger.put(record("odd", **changes))
    ledger.put(record("k"))
    assert ledger.find("odd") is None
    assert ledger.find("k") == record("k")


def test_what_need_not_wait_is_there_when_anything_later_is(ledger: Ledger) -> None:
    for n in range(10_000):
        ledger.put(record(f"k{n}"), wait=False)
    ledger.put_result("build", "s", "text")
    assert all(ledger.find(f"k{n}") for n in range(10_000))


def test_many_threads_share_the_ledger(ledger: Ledger) -> None:
    wrong: list[str] = []

    def work(name: int) -> None:
        for n in range(40):
            ledger.put(record(f"{name}-{n}"))
            if ledger.find(f"{name}-{n}") != record(f"{name}-{n}"):
                wrong.append(f"{name}-{n}")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(total.calls for total in ledger.totals()) == 640


def test_processes_of_one_build_write_at_the_same_time(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    with Ledger.create_or_open(folder) as ledger:
        children = [start(folder, name, lock=False) for name in ("one", "two", "three")]
        for n in range(50):
            ledger.put(record(f"parent-{n}"))
        returned = [child.stdout.readline().strip() for child in children for _ in range(50)]
        for child in children:
            child.kill()
            child.wait()
        for key in [*returned, *(f"parent-{n}" for n in range(50))]:
            assert ledger.find(key) == record(key)
        assert sum(total.calls for total in ledger.totals()) >= 200


def test_a_second_build_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    first = start(folder, "photos")
    try:
        first.stdout.readline()
        with pytest.raises(UserError, match=rf"the build of photos \(process {first.pid} on .*, since 2.*\)"):
            Ledger.create_or_open(folder, name="others")
        with Ledger.open_for_reading(folder) as ledger:
            assert ledger.find("photos-0") == record("photos-0")
    finally:
        first.kill()
        first.wait()


def test_the_lock_of_a_dead_build_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    first = start(folder, "photos")
    first.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (folder / "ledger.lock").read_text()
    with Ledger.create_or_open(folder, name="photos") as ledger:
        assert ledger.find("photos-0") == record("photos-0")


def test_a_closed_ledger_lets_the_next_one_in_and_takes_nothing(tmp_path: Path) -> None:
    ledger = Ledger.create_or_open(tmp_path / "out.ledger")
    ledger.close()
    ledger.close()
    with pytest.raises(ValueError, match="not open for writing"):
        ledger.put(record("k"))
    Ledger.create_or_open(tmp_path / "out.ledger").close()


def test_a_ledger_is_looked_at_while_a_build_writes(ledger: Ledger) -> None:
    with Ledger.open_for_reading(ledger.folder) as looking:
        assert looking.totals() == []
        ledger.put(record("k"))
        assert looking.find("k") == record("k")
        with pytest.raises(ValueError, match="not open for writing"):
            looking.put(record("other"))


def test_no_ledger_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ledger in"):
        Ledger.open_for_reading(tmp_path / "out.ledger")


def test_segments_end_and_new_ones_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3000)
    for start_ in (0, 20):
        with Ledger.create_or_open(tmp_path / "out.ledger") as ledger:
            for n in range(start_, start_ + 20):
                ledger.put(record(f"k{n}"))
    files = sorted((tmp_path / "out.ledger" / "segments").iterdir())
    assert len(files) > 5
    assert sum(file.read_bytes().count(b"\n") for file in files) == 40
