"""The block ledger says what the core's says, whatever is merged, compacted or killed, and whoever else writes."""

import os
import pickle
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.engine.ledger_processes import folder_in_memory, record
from tests.engine.test_ledger import RECORDS

from redaes.engine.database import Total
from redaes.engine.ledger import CallRecord, Ledger
from redaes.engine.objects import ObjectStore, Picture, pixel_hash
from redaes.errors import UserError
from redaes_ray import lease, log
from redaes_ray import ledger as ledger_module
from redaes_ray.ledger import BlockLedger, is_block_ledger
from redaes_ray.storage import Storage


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[BlockLedger]:
    with BlockLedger.create_or_open(tmp_path / "out.ledger") as opened:
        yield opened


@pytest.fixture
def soon_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three small files are enough to be merged."""
    monkeypatch.setattr(log, "FAN", 3)


def files(ledger: BlockLedger, below: str = "calls") -> list[str]:
    return [s.name for s in ledger.storage.files(below, recursive=True) if s.name.endswith(".parquet")]


def merged(ledger: BlockLedger) -> None:
    """Wait until nothing is left to merge."""
    assert ledger._merger is not None
    ledger._merger.submit(ledger._merge).result()


def calls(ledger: BlockLedger) -> int:
    return sum(total.calls for total in ledger.totals())


# --- the same as the core's -------------------------------------------------------------------------------------------

KEYS = ["k1", "k2", "k3", "clé \ud800"]
BUILDS = ["0123456789abcdef", "a/b %", ""]
SOURCES = ["coffee-1", "coffee-2", "naïve"]
SOME_RECORDS = st.builds(
    replace,
    RECORDS,
    key=st.sampled_from(KEYS),
    source=st.sampled_from(SOURCES),
    status=st.sampled_from(["ok", "failed", "failed", "retried"]),
    model=st.sampled_from(["m1", "m2"]),
    role=st.just("score"),
    plugin=st.just("p"),
)
STEPS = st.one_of(
    st.tuples(st.just("put"), SOME_RECORDS),
    st.tuples(st.just("put_by_worker"), SOME_RECORDS),
    st.tuples(st.just("put_many"), st.lists(SOME_RECORDS, max_size=4)),
    st.tuples(st.just("forget"), st.none() | st.lists(st.sampled_from(KEYS), max_size=2)),
    st.tuples(st.just("result"), st.tuples(*map(st.sampled_from, (BUILDS, SOURCES)), st.text(max_size=5))),
    st.tuples(st.just("result_by_worker"), st.tuples(*map(st.sampled_from, (BUILDS, SOURCES)), st.text(max_size=5))),
    *(st.tuples(st.just(name), st.none()) for name in ("reopen", "compact", "merge", "reload")),
)


class Both:
    """A ledger of the core and a block ledger, to which the same is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.core = Ledger.create_or_open(folder / "core.ledger")
        self.block = BlockLedger.create_or_open(folder / "block.ledger")

    def do(self, step: str, what: Any) -> None:
        if step == "put":
            self.each(lambda ledger: ledger.put(what))
        elif step == "put_many":
            self.each(lambda ledger: ledger.put_many(what))
        elif step == "forget":
            self.each(lambda ledger: ledger.forget_failures(what))
        elif step == "result":
            self.each(lambda ledger: ledger.put_result(*what))
        elif step == "put_by_worker":
            self.core.put(what)
            self.by_worker(lambda ledger: ledger.put(what))
        elif step == "result_by_worker":
            self.core.put_result(*what)
            self.by_worker(lambda ledger: ledger.put_result(*what))
        elif step == "merge":
            merged(self.block)
        elif step == "reopen":
            self.close()
            self.__init__(self.folder)  # type: ignore[misc]
        else:
            getattr(self.block, step)()

    def each(self, function: Callable[[Any], object]) -> None:
        assert function(self.core) == function(self.block)

    def by_worker(self, function: Callable[[BlockLedger], None]) -> None:
        snapshot = pickle.loads(pickle.dumps(self.block.snapshot()))
        with BlockLedger.join(self.block.folder, snapshot, "worker 1") as worker:
            function(worker)
        self.block.reload()

    def compare(self) -> None:
        for key in KEYS:
            self.each(lambda ledger, key=key: ledger.find(key))
        self.each(lambda ledger: list(ledger.failures()))
        for build in BUILDS:
            self.each(lambda ledger, build=build: ledger.results_count(build))
            self.each(lambda ledger, build=build: [ledger.result(build, source) for source in SOURCES])
        assert same_totals(self.core.totals(), self.block.totals())

    def close(self) -> None:
        self.core.close()
        self.block.close()


def same_totals(some: list[Total], others: list[Total]) -> bool:
    """Whether sums are the same; floats are added in another order."""
    exact = [total[:8] for total in some] == [total[:8] for total in others]
    return exact and all(a[8:] == pytest.approx(b[8:], abs=1e-3) for a, b in zip(some, others, strict=True))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=14))
def test_after_any_history_it_says_what_the_core_says(soon_merged: None, steps: list[tuple[str, Any]]) -> None:
    with folder_in_memory() as folder:
        both = Both(folder)
        try:
            for step in steps:
                both.do(*step)
                both.compare()
            both.do("reopen", None)
            both.compare()
        finally:
            both.close()


@settings(max_examples=30, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=4, unique_by=lambda one: one.key))
def test_what_is_put_is_found_exactly_as_it_was(records: list[CallRecord]) -> None:
    with folder_in_memory() as folder:
        for _ in range(2):
            with BlockLedger.create_or_open(folder) as ledger:
                ledger.put_many(records)
                ledger.compact()
                assert [ledger.find(one.key) for one in records] == records


@pytest.mark.parametrize("changes", [{"cost": float("nan")}, {"latency": float("inf")}, {"input_tokens": 2**70}])
def test_a_number_that_is_none_is_refused_and_the_ledger_goes_on(
    ledger: BlockLedger, changes: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} is"):
        ledger.put(record("odd", **changes))
    ledger.put(record("k"))
    assert ledger.find("odd") is None
    assert ledger.find("k") == record("k")


def test_what_need_not_wait_is_there_when_anything_later_is(ledger: BlockLedger) -> None:
    for n in range(2000):
        ledger.put(record(f"k{n}"), wait=False)
    ledger.put_result("build", "s", "text")
    assert all(ledger.find(f"k{n}") for n in range(2000))
    assert len(files(ledger)) <= 4


def test_many_threads_share_a_few_files(ledger: BlockLedger) -> None:
    wrong: list[str] = []

    def work(name: int) -> None:
        for n in range(20):
            ledger.put(record(f"{name}-{n}"))
            if ledger.find(f"{name}-{n}") != record(f"{name}-{n}"):
                wrong.append(f"{name}-{n}")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert calls(ledger) == 320
    assert len(files(ledger)) < 160


def test_a_closed_ledger_and_one_for_reading_take_nothing(tmp_path: Path) -> None:
    ledger = BlockLedger.create_or_open(tmp_path / "out.ledger")
    ledger.put(record("k"))
    with BlockLedger.open_for_reading(tmp_path / "out.ledger") as looking:
        assert looking.find("k") == record("k")
        with pytest.raises(ValueError, match="not open for writing"):
            looking.put(record("other"))
        ledger.put(record("k2"))
        assert calls(looking) == 2
        looking.reload()
        assert looking.find("k2") == record("k2")
    ledger.close()
    ledger.close()
    with pytest.raises(ValueError, match="not open for writing"):
        ledger.put(record("k"))


# --- files ------------------------------------------------------------------------------------------------------------


def test_small_files_become_larger_ones_twice_over(ledger: BlockLedger, soon_merged: None) -> None:
    for n in range(30):
        ledger.put(record(f"k{n}"))
    merged(ledger)
    # 3 * 9 commits in files that were merged twice, 3 in one that was merged once.
    assert len(files(ledger, "calls/merged")) == 4
    assert files(ledger, "calls/new") == []
    ledger.compact()
    assert all(re.match("calls/sorted/shard=[0-9a-f]/", name) for name in files(ledger))
    assert [ledger.find(f"k{n}") for n in range(30)] == [record(f"k{n}") for n in range(30)]


def test_compaction_leaves_large_generations_as_they_are(ledger: BlockLedger) -> None:
    ledger.put_many(record(f"k{n}") for n in range(100))
    ledger.compact()
    before = set(files(ledger))
    ledger.put_many(record(f"l{n}") for n in range(10))
    ledger.compact()
    assert before < set(files(ledger))
    ledger.put_many(record(f"m{n}") for n in range(30))
    ledger.compact()
    assert before.isdisjoint(files(ledger))
    assert calls(ledger) == 140
    assert all(ledger.find(key) for key in ("k0", "l9", "m29"))


def test_anything_that_reads_parquet_reads_the_calls(ledger: BlockLedger) -> None:
    ledger.put_many(record(f"k{n}", cost=0.5) for n in range(10))
    ledger.compact()
    table = pq.read_table(Path(ledger.folder) / "calls", columns=["key", "cost", "source"])
    assert sorted(table["key"].to_pylist()) == sorted(f"k{n}" for n in range(10))
    assert table["cost"].to_pylist() == [0.5] * 10


def test_notes_of_builds_are_kept_the_latest_first(ledger: BlockLedger) -> None:
    assert ledger.notes() == []
    for build, text in (("b", "1"), ("a", "ä"), ("b", "2")):
        ledger.put_note(build, text)
        time.sleep(0.01)
    assert ledger.notes() == [("b", "2"), ("a", "ä")]


def test_it_is_known_by_its_marker(tmp_path: Path, ledger: BlockLedger) -> None:
    assert is_block_ledger(ledger.folder)
    assert not is_block_ledger(tmp_path)
    Ledger.create_or_open(tmp_path / "core.ledger").close()
    assert not is_block_ledger(tmp_path / "core.ledger")
    with pytest.raises(UserError, match=r"core\.ledger is a ledger of builds without a cluster"):
        BlockLedger.create_or_open(tmp_path / "core.ledger")
    with pytest.raises(UserError, match="no ledger of photos in"):
        BlockLedger.open_for_reading(tmp_path, "photos")
    (tmp_path / "ledger.json").write_text('{"format": "redaes block ledger", "version": 2}')
    with pytest.raises(UserError, match="is not that of a redaes block ledger of version 1"):
        BlockLedger.open_for_reading(tmp_path)


# --- several writers --------------------------------------------------------------------------------------------------


def test_two_workers_write_at_once_and_one_takes_over_from_the_other(ledger: BlockLedger, soon_merged: None) -> None:
    ledger.put(record("before"))
    snapshot = ledger.snapshot()
    dies, lives = (BlockLedger.join(ledger.folder, snapshot, "worker") for _ in range(2))
    for n in range(7):
        dies.put(replace(record(f"mine-{n}"), source="mine"))
        dies.put(replace(record(f"other-{n}"), source="other"))
        lives.put(record(f"lives-{n}"))
    dies.put_result("build", "mine", "half")
    merged(dies)

    assert dies.find("before") == lives.find("before") == record("before")
    assert lives.find("mine-0") is None
    lives.refresh(["mine"], "build")
    assert [lives.find(f"mine-{n}") for n in range(7)] == [
        replace(record(f"mine-{n}"), source="mine") for n in range(7)
    ]
    assert lives.find("other-0") is None
    assert lives.result("build", "mine") == "half"

    # What comes after what was seen is later, whatever number the commit would have had of itself.
    lives.put(record("mine-0", result="anew"))
    lives.put_result("build", "mine", "whole")
    lives.refresh(["mine"], "build")
    ledger.reload()
    for one in (lives, ledger):
        found = one.find("mine-0")
        assert found is not None
        assert found.result == "anew"
        assert one.result("build", "mine") == "whole"
    assert calls(ledger) == 1 + 7 * 3 + 1
    assert calls(lives) == 1 + 7 + 1
    dies.close()
    lives.close()


def test_a_worker_finds_what_others_have_merged_or_compacted_since_its_snapshot(
    ledger: BlockLedger, soon_merged: None
) -> None:
    first = BlockLedger.join(ledger.folder, ledger.snapshot(), "first")
    for n in range(2):
        first.put(record(f"k{n}"))
        first.put_result("build", f"s{n}", "text")
    assert ledger.result("build", "s0") == "text"
    second = BlockLedger.join(ledger.folder, ledger.snapshot(), "second")
    third = BlockLedger.join(ledger.folder, ledger.snapshot(), "third")
    first.put(record("k2"))
    first.put_result("build", "s2", "text")
    merged(first)
    assert len(files(ledger)) == 1
    assert second.find("k0") == record("k0")
    assert second.result("build", "s1") == "text"
    ledger.compact()
    assert third.find("k1") == record("k1")
    assert third.result("build", "s1") == "text"
    first.put(record("k3"))
    assert first.find("k0") == record("k0")
    ledger.compact()
    assert calls(ledger) == 4
    for one in (first, second, third):
        one.close()


def test_a_worker_that_is_started_again_under_its_name_overwrites_nothing(ledger: BlockLedger) -> None:
    snapshot = ledger.snapshot()
    for n in range(3):
        with BlockLedger.join(ledger.folder, snapshot, "worker-1") as worker:
            worker.put(record(f"k{n}"))
    ledger.reload()
    assert [ledger.find(f"k{n}") for n in range(3)] == [record(f"k{n}") for n in range(3)]


def test_one_reads_while_another_writes_and_merges(ledger: BlockLedger, soon_merged: None) -> None:
    writer = BlockLedger.join(ledger.folder, ledger.snapshot(), "writer")
    reader = BlockLedger.join(ledger.folder, ledger.snapshot(), "reader")
    returned: list[str] = []

    def write() -> None:
        for n in range(150):
            writer.put(replace(record(f"k{n}"), source="s"))
            returned.append(f"k{n}")

    thread = threading.Thread(target=write)
    thread.start()
    missing = []
    while thread.is_alive():
        keys = list(returned)
        reader.refresh(["s"])
        ledger.reload()
        missing += [key for key in keys[-20:] for one in (reader, ledger) if one.find(key) is None]
    thread.join()
    assert missing == []
    ledger.reload()
    assert calls(ledger) == 150
    writer.close()
    reader.close()


def test_large_files_are_merged_sooner_and_only_once(ledger: BlockLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MERGE_BYTES", 30_000)
    monkeypatch.setattr(log, "LARGE_BYTES", 1000)
    for n in range(4):
        ledger.put(record(f"small-{n}"))
        ledger.put_many(record(f"k{n}-{m}") for m in range(300))
    merged(ledger)
    assert 1 < len(files(ledger, "calls/merged")) < 8
    assert all(ledger.find(f"small-{n}") and ledger.find(f"k{n}-299") for n in range(4))
    assert calls(ledger) == 4 * 301
    ledger.compact()
    assert calls(ledger) == 4 * 301


def test_a_worker_with_another_disk_is_refused(ledger: BlockLedger, tmp_path: Path) -> None:
    snapshot = ledger.snapshot()
    BlockLedger.create_or_open(tmp_path / "other.ledger").close()
    for name in ("other.ledger", "none.ledger"):
        with pytest.raises(UserError, match=rf"not at {tmp_path}/{name} on .*; put it where all machines find it"):
            BlockLedger.join(tmp_path / name, snapshot, "w")


def test_only_the_driver_compacts(ledger: BlockLedger) -> None:
    with (
        BlockLedger.join(ledger.folder, ledger.snapshot(), "w") as worker,
        pytest.raises(ValueError, match="only the driver"),
    ):
        worker.compact()


# --- crashes ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill is to the process that it ends."""


class Mortal(Storage):
    """A storage whose process dies at its n-th change, before or after it takes effect; `left` is None for ever."""

    left: int | None = None
    after: bool = False

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        self._change(lambda: Storage.write(self, name, data, durable))

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._change(lambda name=name: Storage.delete(self, [name]))

    @classmethod
    def _change(cls, change: Callable[[], None]) -> None:
        if cls.left is None or cls.left > 0:
            change()
            if cls.left is not None:
                cls.left -= 1
            return
        if cls.left == 0 and cls.after:
            change()
        cls.left = -1
        raise Killed


def live(folder: Path, returned: list[str], results: dict[str, str]) -> None:
    """Everything that changes a ledger, twice over."""
    with BlockLedger.create_or_open(folder) as ledger:
        for turn in range(2):
            for n in range(4):
                ledger.put(record(f"{turn}-{n}"))
                returned.append(f"{turn}-{n}")
                ledger.put_result("build", f"s{n}", f"{turn}")
                results[f"s{n}"] = f"{turn}"
                merged(ledger)
            ledger.compact()


def lived(left: int, after: bool, folder: Path) -> tuple[bool, list[str], dict[str, str]]:
    """Whether a life came to its end before it was killed, and what had been promised till then."""
    returned: list[str] = []
    results: dict[str, str] = {}
    Mortal.left, Mortal.after = left, after
    try:
        live(folder, returned, results)
    except (Killed, RuntimeError):  # the writer's thread is killed too; who waits for it is told so
        return False, returned, results
    finally:
        Mortal.left = None
    return True, returned, results


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_change_loses_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, soon_merged: None, after: bool
) -> None:
    monkeypatch.setattr(ledger_module, "Storage", Mortal)
    whole, number = False, 0
    while not whole:
        with folder_in_memory() as folder:
            whole, returned, results = lived(number, after, folder)
            for _ in range(2):  # as it was left, and then compacted
                with BlockLedger.create_or_open(folder) as ledger:
                    assert [ledger.find(key) for key in returned] == [record(key) for key in returned]
                    there = {f"{turn}-{n}" for turn in range(2) for n in range(4) if ledger.find(f"{turn}-{n}")}
                    # The one that was being put may be there as well.
                    assert calls(ledger) == len(there) <= len(returned) + 1
                    assert all((ledger.result("build", source) or "") >= text for source, text in results.items())
                    ledger.compact()
                    kept = files(ledger)
                    assert all("/sorted/" in name for name in kept)
                    assert calls(ledger) == sum(pq.read_metadata(folder / name).num_rows for name in kept)
        number += 1
    assert number > 50


@pytest.mark.slow
def test_killed_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    rng = random.Random(0)
    returned: list[str] = []
    for life in range(4):
        words = [sys.executable, str(Path(__file__).with_name("ledger_workers.py")), str(folder), f"life{life}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, **_path()}) as process:
            assert process.stdout is not None
            returned += [process.stdout.readline().strip() for _ in range(rng.randrange(5, 80))]
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
            returned += [line.strip() for line in process.stdout if line.endswith("\n")]
        with BlockLedger.create_or_open(folder) as ledger:
            assert all(ledger.find(key) == record(key) for key in returned)
            assert all(ledger.result(key.partition("-")[0], key) == f"result of {key}" for key in returned)
            most = [
                max(int(key.split("-")[1]) for key in returned if key.startswith(f"life{n}-")) for n in range(life + 1)
            ]
            tried = [f"life{n}-{number}" for n, upto in enumerate(most) for number in range(upto + 20)]
            assert calls(ledger) == sum(ledger.find(key) is not None for key in tried) >= len(returned)


def _path() -> dict[str, str]:
    """So that a child finds what this process finds."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH", "")]))}


def test_a_write_that_fails_is_told_to_all_and_ends_the_writing(
    ledger: BlockLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.put(record("before"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot write .*calls/new/.*: No space left"):
        ledger.put(record("k"))
    monkeypatch.undo()
    with pytest.raises(UserError, match="No space left"):
        ledger.put(record("k2"))
    assert ledger.find("before") == record("before")
    assert ledger.find("k") is None


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_a_file_that_is_torn_or_foreign_is_named_with_the_way_out(tmp_path: Path, compacted: bool) -> None:
    folder = tmp_path / "out.ledger"
    with BlockLedger.create_or_open(folder) as ledger:
        ledger.put(record("k"))
        if compacted:
            ledger.compact()
        path = folder / files(ledger)[0]
        ledger.put(record("k2"))
    whole = path.read_bytes()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    for data in (whole[: len(whole) // 2], b"", (tmp_path / "foreign.parquet").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"{re.escape(str(path))} is damaged \(.*\); move it out of the ledger"):
            BlockLedger.create_or_open(folder)
    if not compacted:
        path.unlink()
        with BlockLedger.create_or_open(folder) as ledger:
            assert (ledger.find("k"), ledger.find("k2")) == (None, record("k2"))


def test_a_file_of_a_generation_may_be_moved_away_as_the_message_says(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    with BlockLedger.create_or_open(folder) as ledger:
        ledger.put_many(record(f"k{n}") for n in range(50))
        ledger.compact()
        (folder / files(ledger)[0]).unlink()
    with BlockLedger.create_or_open(folder) as ledger:
        found = [ledger.find(f"k{n}") for n in range(50)]
        assert 0 < sum(one is not None for one in found) < 50
        ledger.put_many(record(f"k{n}") for n in range(50))
        ledger.compact()
        assert all(ledger.find(f"k{n}") for n in range(50))


def test_a_row_that_was_changed_counts_as_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "out.ledger"
    with BlockLedger.create_or_open(folder) as ledger:
        ledger.put_many([record("k"), record("whole")])
        path = folder / files(ledger)[0]
    table = pq.read_table(path)
    changed = pa.array(['{"value": 9.5}', *table["result"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.schema.get_field_index("result"), "result", changed), path)
    with BlockLedger.create_or_open(folder) as ledger:
        assert ledger.find("k") is None
        assert ledger.find("whole") == record("whole")
        assert ledger.damaged == 1
        assert f"row 0 of {path} counts as missing: it does not match its checksum" in caplog.text
        ledger.put(record("k"))
        assert ledger.find("k") == record("k")


@settings(max_examples=40, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_whatever_a_bit_is_turned_to_no_wrong_answer_comes(position: float, bit: int) -> None:
    with folder_in_memory() as folder:
        with BlockLedger.create_or_open(folder) as ledger:
            ledger.put_many(record(f"k{n}") for n in range(5))
            path = folder / files(ledger)[0]
        content = bytearray(path.read_bytes())
        content[int(position * len(content))] ^= 1 << bit
        path.write_bytes(content)
        refused = ""
        try:
            with BlockLedger.create_or_open(folder) as ledger:
                assert all(ledger.find(f"k{n}") in (None, record(f"k{n}")) for n in range(5))
        except UserError as error:
            refused = str(error)
        assert str(path) in refused or not refused


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    with BlockLedger.create_or_open(folder) as ledger:
        ledger.put(record("k"))
        ledger.compact()
    path = folder / "calls" / "_manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"clock":1', b'"clock":2'))
    with pytest.raises(UserError, match=r"calls/_manifest\.json is damaged; restore it"):
        BlockLedger.create_or_open(folder)


# --- one driver -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_a_second_driver_is_refused_by_name(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLES", 0.01)
    url = {"folder": str(tmp_path / "out.ledger"), "memory": f"memory://{tmp_path}"}[where]
    with BlockLedger.create_or_open(url, name="photos") as ledger:
        with pytest.raises(UserError, match=rf"in use by the build of photos \(process {os.getpid()} on .*, since 2"):
            BlockLedger.create_or_open(url, name="others")
        ledger.put(record("k"))
    with BlockLedger.create_or_open(url, name="others") as ledger:
        assert ledger.find("k") == record("k")


def test_a_lease_that_nobody_renews_is_taken_and_its_holder_learns_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("SETTLES", 0.01), ("RENEWS", 0.05), ("EXPIRES", 0.3)):
        monkeypatch.setattr(lease, name, seconds)
    url = f"memory://{tmp_path}"
    dead = BlockLedger.create_or_open(url, name="dead")
    dead.put(record("k"))
    file = dead.storage.read("ledger.lock")
    dead.close()
    dead.storage.write("ledger.lock", file.replace(f'"pid": {os.getpid()}'.encode(), f'"pid": {_ended()}'.encode()))
    with BlockLedger.create_or_open(url, name="heir") as heir:
        assert heir.find("k") == record("k")
        file = heir.storage.read("ledger.lock").replace(b'"token": "', b'"token": "x').replace(b"heir", b"thief")
        heir.storage.write("ledger.lock", file)
        time.sleep(0.5)
        with pytest.raises(UserError, match="in use by the build of thief"):
            heir.put(record("k2"))


def _ended() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_lease_that_is_renewed_keeps_others_off_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("SETTLES", 0.01), ("RENEWS", 0.05), ("EXPIRES", 1.0)):
        monkeypatch.setattr(lease, name, seconds)
    real = time.time
    monkeypatch.setattr(lease.time, "time", lambda: real() - 1e6)
    url = f"memory://{tmp_path}"
    with BlockLedger.create_or_open(url, name="late"):
        beats = iter(range(10**9))
        monkeypatch.setattr(lease.time, "time", lambda: real() - 1e6 if next(beats) else real())
        with pytest.raises(UserError, match="in use by the build of late"):
            BlockLedger.create_or_open(url)


# --- images, and a bucket ---------------------------------------------------------------------------------------------


def test_images_are_kept_under_the_names_of_the_core(ledger: BlockLedger, tmp_path: Path) -> None:
    image = Image.effect_noise((20, 10), 80).convert("RGB")
    sha = pixel_hash(image)
    assert not ledger.objects.has(sha)
    assert ledger.objects.get(sha) is None
    assert ledger.objects.put(Picture(image, sha), durable=False) == sha == ledger.objects.put(image)
    assert ledger.objects.has(sha)
    assert pixel_hash(ledger.objects.get(sha)) == sha
    core = ObjectStore(Path(ledger.folder) / "objects")
    assert pixel_hash(core.get(sha)) == sha
    ledger.objects.copy(sha, tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == core.path(sha).read_bytes()
    with pytest.raises(UserError, match="there is none"):
        ledger.objects.copy("0" * 64, tmp_path / "none.png")
    with pytest.raises(ValueError, match="64 hexadecimal"):
        ledger.objects.has("../../etc/passwd")


def test_a_damaged_image_is_set_aside(ledger: BlockLedger) -> None:
    image = Image.effect_noise((20, 10), 80).convert("RGB")
    sha = ledger.objects.put(image)
    path = Path(ledger.folder) / "objects" / sha[:2] / f"{sha}.png"
    assert ledger.objects.is_whole(sha)
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\0" + content[61:])
    assert ledger.objects.get(sha) is None
    assert path.with_suffix(".damaged").exists()
    path.write_bytes(content[:60] + b"\0" + content[61:])
    assert not ledger.objects.is_whole(sha)
    assert not ledger.objects.has(sha)
    ledger.objects.put(image)
    assert ledger.objects.is_whole(sha)


def test_in_a_bucket_it_is_the_same(bucket: str, soon_merged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLES", 0.01)
    with BlockLedger.create_or_open(bucket, name="photos") as ledger:
        assert is_block_ledger(bucket)
        with pytest.raises(UserError, match="in use by the build of photos"):
            BlockLedger.create_or_open(bucket)
        snapshot = ledger.snapshot()
        with (
            BlockLedger.join(ledger.folder, snapshot, "one") as one,
            BlockLedger.join(ledger.folder, snapshot, "two") as two,
        ):
            for n in range(4):
                one.put(replace(record(f"one-{n}"), source="s"))
                two.put(record(f"two-{n}"))
            one.put_result("build", "s", "text")
            merged(one)
            two.refresh(["s"], "build")
            assert two.find("one-3") == replace(record("one-3"), source="s")
            assert two.result("build", "s") == "text"
        ledger.compact()
        image = Image.effect_noise((20, 10), 80).convert("RGB")
        sha = ledger.objects.put(image)
        assert pixel_hash(ledger.objects.get(sha)) == sha
    with BlockLedger.create_or_open(bucket) as ledger:
        assert calls(ledger) == 8
        assert ledger.find("two-3") == record("two-3")
        assert ledger.result("build", "s") == "text"
        assert ledger.results_count("build") == 1
        assert ledger.objects.has(sha)
        names = [stored.name for stored in ledger.storage.files("", recursive=True)]
        assert not any(b"a-secret-of-the-tests-1" in ledger.storage.read(name.strip("/")) for name in names)
        assert all("/sorted/" in name for name in files(ledger))
