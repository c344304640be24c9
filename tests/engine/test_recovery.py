"""Crashes, bad disks and full ones: nothing that was put is lost, and nothing wrong is answered in silence."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.engine.ledger_processes import folder_in_memory, record, start

from redaes.cli import main
from redaes.engine import database, segments
from redaes.engine.ledger import Ledger
from redaes.engine.recovery import repair
from redaes.errors import UserError

PAGE = 4096


def fill(folder: Path, first: int = 0, end: int = 24) -> None:
    """Put calls, some of them dead letters and answers after retries, and results."""
    with Ledger.create_or_open(folder) as ledger:
        for n in range(first, end):
            status = "failed" if n % 10 == 3 else "ok"
            ledger.put(record(f"k{n}", status="retried", error="busy"))
            ledger.put(record(f"k{n}", status=status, result=f"answer {n} " * 20, attempt=2))
            ledger.put_result("build", f"s{n}", f"result {n} " * 30)
        ledger.forget_failures([f"k{first + 3}"])


def contents(ledger: Ledger, end: int = 24) -> Iterator[tuple[str, Callable[[], object]]]:
    """Everything a ledger can be asked, by name."""
    for n in range(end):
        yield f"call k{n}", lambda n=n: ledger.find(f"k{n}")
    for n in range(end):
        yield f"result s{n}", lambda n=n: ledger.result("build", f"s{n}")
    yield "totals", ledger.totals
    yield "failures", lambda: list(ledger.failures())


def snapshot(folder: Path, end: int = 24) -> dict[str, object]:
    with Ledger.open_for_reading(folder) as ledger:
        return {name: ask() for name, ask in contents(ledger, end)}


@pytest.fixture
def in_memory() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("whole") / "out.ledger"
    fill(folder)
    return folder, snapshot(folder)


def kill_and_look(folder: Path, kills: int, processes: int) -> None:
    """Kill writers at random moments; whatever a `put` has returned for is there, after each kill."""
    chance = random.Random(kills)
    returned: list[str] = []
    for kill in range(kills):
        names = [f"{kill}-{n}" for n in range(processes)]
        writers = [start(folder, names[0])]
        returned.append(writers[0].stdout.readline())
        writers += [start(folder, name, lock=False) for name in names[1:]]
        returned += [writer.stdout.readline() for writer in writers[1:]]
        timer = threading.Timer(
            chance.uniform(0.05, 0.4), lambda w=writers: [os.kill(p.pid, signal.SIGKILL) for p in w]
        )
        timer.start()
        for writer in writers:
            returned += writer.stdout.readlines()
            writer.wait()
        with Ledger.create_or_open(folder) as ledger:
            for line in returned:
                key = line.removesuffix("\n")
                if line.endswith("\n"):
                    assert ledger.find(key) == record(key)
                    assert ledger.result(key.rpartition("-")[0], key) == f"result of {key}"
    assert len(returned) > kills
    before = snapshot(folder)
    repair(folder)
    assert snapshot(folder) == before


def test_kills_at_random_moments_lose_nothing(in_memory: Path) -> None:
    kill_and_look(in_memory / "out.ledger", kills=5, processes=1)


@pytest.mark.slow
def test_many_kills_of_several_processes_lose_nothing(in_memory: Path) -> None:
    kill_and_look(in_memory / "out.ledger", kills=12, processes=3)


def test_rows_that_reached_the_segment_alone_are_taken_in(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    fill(folder, 0, 20)
    shutil.copy(folder / "ledger.sqlite", tmp_path / "earlier.sqlite")
    fill(folder, 20, 40)
    after = snapshot(folder, 40)
    shutil.copy(tmp_path / "earlier.sqlite", folder / "ledger.sqlite")
    assert snapshot(folder, 40) != after
    Ledger.create_or_open(folder).close()
    assert snapshot(folder, 40) == after


def test_another_process_takes_them_in_before_it_writes(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    fill(folder, 0, 20)
    shutil.copy(folder / "ledger.sqlite", tmp_path / "earlier.sqlite")
    fill(folder, 20, 40)
    after = snapshot(folder, 40)
    shutil.copy(tmp_path / "earlier.sqlite", folder / "ledger.sqlite")
    with Ledger.create_or_open(folder, lock=False) as ledger:
        ledger.put_result("another build", "s", "text")
    assert snapshot(folder, 40) == after


def test_a_torn_last_line_is_ignored_and_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    fill(folder, 0, 5)
    segment = folder / "segments" / "000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines) + lines[-1][: len(lines[-1]) // 2])
    fill(folder, 5, 10)
    before = snapshot(folder, 10)
    assert repair(folder).damaged_lines == 0
    assert snapshot(folder, 10) == before


def test_a_lost_database_is_made_anew(whole: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    shutil.copytree(whole[0], folder)
    (folder / "ledger.sqlite").unlink()
    Ledger.create_or_open(folder).close()
    assert snapshot(folder) == whole[1]


def flip(path: Path, where: int, how: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= how
    path.write_bytes(content)


def look_for_wrong_answers(folder: Path, right: dict[str, object]) -> tuple[list[str], bool]:
    """Ask a damaged ledger everything and go on writing, as a build does, then look at it, as a person does.

    An answer is right, or there is one line that names the file and the way out. A result that is not found is worked
    out again from the answers, which costs nothing.

    Returns:
        The complaints, and whether a new record was taken.
    """
    complaints: list[str] = []
    taken = False
    for opened in (Ledger.create_or_open, Ledger.open_for_reading):
        building = opened is Ledger.create_or_open
        try:
            ledger = opened(folder)
        except UserError as error:
            complaints.append(str(error))
            continue
        with ledger:
            for name, ask in contents(ledger):
                try:
                    answer = ask()
                except UserError as error:
                    complaints.append(str(error))
                    continue
                assert answer == right[name] or (answer is None and name.startswith("result")), name
            if building:
                try:
                    ledger.put_result("build", "new", "new")
                    taken = True
                except UserError as error:
                    complaints.append(str(error))
    for complaint in complaints:
        assert "ledger.sqlite is damaged" in complaint
        assert f"`redaes data repair {str(folder).removesuffix('.ledger')}`" in complaint
    return complaints, taken


def repaired(folder: Path, right: dict[str, object], taken: bool) -> None:
    """Repair and find everything."""
    done = repair(folder)
    assert done.damaged_lines == 0
    assert done.aside is not None
    assert (done.aside / "ledger.sqlite").is_file()
    with Ledger.create_or_open(folder) as ledger:
        assert {name: ask() for name, ask in contents(ledger)} == right
        assert not taken or ledger.result("build", "new") == "new"


def test_a_damaged_page_never_answers_wrongly_and_is_repaired(
    whole: tuple[Path, dict[str, object]], in_memory: Path
) -> None:
    chance = random.Random(0)
    folder = in_memory / "out.ledger"
    pages = (whole[0] / "ledger.sqlite").stat().st_size // PAGE
    noticed = 0
    for page in range(pages):
        for wounds, within in ((1, 12), (8, PAGE)):  # a page's first bytes say where all else in it is
            shutil.copytree(whole[0], folder)
            for _ in range(wounds):
                flip(folder / "ledger.sqlite", page * PAGE + chance.randrange(within), chance.randrange(1, 256))
            complaints, taken = look_for_wrong_answers(folder, whole[1])
            noticed += bool(complaints)
            if wounds > 1:
                repaired(folder, whole[1], taken)
            shutil.rmtree(folder)
    assert noticed > pages


def test_a_database_that_is_none_is_repaired(whole: tuple[Path, dict[str, object]], in_memory: Path) -> None:
    for content in (b"", b"not a database at all" * 500, bytes(20 * PAGE)):
        folder = in_memory / "out.ledger"
        shutil.copytree(whole[0], folder)
        (folder / "ledger.sqlite").write_bytes(content)
        _, taken = look_for_wrong_answers(folder, whole[1])
        repaired(folder, whole[1], taken)
        shutil.rmtree(folder)


def complaint_of_a_build(folder: Path) -> str:
    """What is said when a build opens a ledger; empty if it opens."""
    try:
        Ledger.create_or_open(folder).close()
    except UserError as error:
        return str(error)
    return ""


def test_a_damaged_write_ahead_log_loses_nothing(in_memory: Path) -> None:
    chance = random.Random(1)
    killed = in_memory / "killed.ledger"
    writer = start(killed, "w")
    keys = [writer.stdout.readline().strip() for _ in range(300)]
    writer.kill()
    writer.wait()
    size = (killed / "ledger.sqlite-wal").stat().st_size
    assert size > 50 * PAGE
    for _ in range(25):
        folder = in_memory / "out.ledger"
        shutil.copytree(killed, folder)
        (folder / "ledger.sqlite-shm").unlink()  # as after a loss of power: the log is read anew
        for _ in range(3):
            flip(folder / "ledger.sqlite-wal", chance.randrange(size), chance.randrange(1, 256))
        if complaint := complaint_of_a_build(folder):
            assert "redaes data repair" in complaint
            repair(folder)
        with Ledger.create_or_open(folder) as ledger:
            assert [key for key in keys if ledger.find(key) != record(key)] == []
        shutil.rmtree(folder)


@pytest.mark.parametrize("damage", ["lost", "cut", "changed"])
def test_what_segments_have_lost_comes_from_the_database(
    whole: tuple[Path, dict[str, object]], tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "out.ledger"
    shutil.copytree(whole[0], folder)
    segment = folder / "segments" / "000001.jsonl"
    size = segment.stat().st_size
    if damage == "lost":
        segment.unlink()
    elif damage == "cut":
        os.truncate(segment, size // 2)
    else:
        flip(segment, size // 2, 1)
    if damage != "changed":
        with pytest.raises(UserError, match=r"000001\.jsonl is damaged .it has lost its end.; run `redaes data repair"):
            Ledger.create_or_open(folder)
    done = repair(folder)
    assert done.damaged_lines == (damage == "changed")
    assert done.rescued >= 1
    shutil.rmtree(done.aside)
    (folder / "ledger.sqlite").unlink()
    Ledger.create_or_open(folder).close()
    assert {k: v for k, v in snapshot(folder).items() if k != "totals"} == {
        k: v for k, v in whole[1].items() if k != "totals"
    }


def test_a_lost_segment_in_the_middle_comes_from_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 20_000)
    folder = tmp_path / "out.ledger"
    fill(folder)
    right = snapshot(folder)
    (folder / "segments" / "000002.jsonl").unlink()
    done = repair(folder)
    assert done.rescued > 10
    assert done.calls == sum(total.calls for total in right.pop("totals")) + 1  # one dead letter was forgotten
    found = snapshot(folder)
    assert {name: found[name] for name in right} == right


def test_damage_in_both_loses_only_what_is_damaged_in_both(
    whole: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "out.ledger"
    shutil.copytree(whole[0], folder)
    segment = folder / "segments" / "000001.jsonl"
    flip(segment, segment.read_bytes().index(b'"answer 10 answer 10'), 1)
    for page in range(8, 12):
        flip(folder / "ledger.sqlite", page * PAGE + 3, 0xFF)
    repair(folder)
    found = snapshot(folder)
    different = {name for name in found if found[name] != whole[1][name]}
    assert different <= {"call k10", "totals"}


def test_the_command_says_what_it_did(
    whole: tuple[Path, dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out.ledger"
    shutil.copytree(whole[0], folder)
    flip(folder / "ledger.sqlite", 5 * PAGE, 0xFF)
    assert main(["data", "repair", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"{folder}: 49 calls" in said
    assert f"kept in {folder}/damaged-1" in said
    assert main(["data", "repair", str(folder)]) == 0
    assert "damaged-2" in capsys.readouterr().out
    assert snapshot(folder) == whole[1]
    assert main(["data", "repair", str(tmp_path / "nothing")]) == 2
    assert "no ledger in" in capsys.readouterr().err


def test_a_repair_waits_for_no_build_and_a_build_for_no_repair(tmp_path: Path) -> None:
    with (
        Ledger.create_or_open(tmp_path / "out.ledger", name="out"),
        pytest.raises(UserError, match=rf"in use by the build of out \(process {os.getpid()} "),
    ):
        repair(tmp_path / "out")


# --- disks and other programs -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def put_until_it_fails(folder: Path) -> tuple[list[str], str]:
    """The keys that were put, and what was said when no more would go."""
    with Ledger.create_or_open(folder) as ledger:
        for n in range(10_000):
            try:
                ledger.put(record(f"k{n}"))
            except UserError as error:
                return [f"k{m}" for m in range(n)], str(error)
    raise AssertionError("the disk is too large")


def test_a_full_disk_stops_the_build_in_one_line_and_loses_nothing(small_disk: Path) -> None:
    folder = small_disk / "out.ledger"
    keys, said = put_until_it_fails(folder)
    assert len(keys) > 50
    assert str(small_disk) in said
    assert "disk is full" in said or "No space left" in said
    with Ledger.open_for_reading(folder) as ledger:
        assert ledger.find(keys[0]) == record(keys[0])
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    with Ledger.create_or_open(folder) as ledger:
        assert [key for key in keys if ledger.find(key) != record(key)] == []
        ledger.put(record("more"))
        assert ledger.find("more") == record("more")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
from tests.engine.test_recovery import put_until_it_fails
from pathlib import Path
keys, said = put_until_it_fails(Path(sys.argv[1]))
print(len(keys))
print(said)
"""


def test_a_file_that_may_not_grow_stops_the_build_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    count, said = subprocess.check_output([sys.executable, "-c", LIMITED, str(folder)], text=True).splitlines()
    assert "cannot" in said
    assert "out.ledger" in said
    with Ledger.create_or_open(folder) as ledger:
        assert all(ledger.find(f"k{n}") == record(f"k{n}") for n in range(int(count)))


def test_a_read_only_disk_is_looked_at_and_not_built_on(small_disk: Path) -> None:
    folder = small_disk / "out.ledger"
    fill(folder, 0, 20)
    right = snapshot(folder, 20)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"cannot write .*out.ledger.*Read-only"):
        Ledger.create_or_open(folder)
    assert snapshot(folder, 20) == right
    with pytest.raises(UserError, match=r"cannot write .*Read-only"):
        Ledger.create_or_open(small_disk / "other.ledger")
    with pytest.raises(UserError, match=r"cannot write .*Read-only"):
        repair(folder)


def test_a_folder_that_goes_away_stops_the_build(tmp_path: Path) -> None:
    folder = tmp_path / "out.ledger"
    fill(folder, 0, 5)
    with Ledger.create_or_open(folder, lock=False) as ledger:
        (folder / "segments" / "000001.jsonl").rename(tmp_path / "kept")
        (folder / "segments").rmdir()
        for _ in range(2):
            with pytest.raises(UserError, match=r"000001\.jsonl|segments"):
                ledger.put(record("k"))


def test_a_database_that_another_program_holds_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out.ledger"
    fill(folder, 0, 2)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match=r"ledger\.sqlite is locked by another program"):
        Ledger.create_or_open(folder)
    other.execute("ROLLBACK")
    Ledger.create_or_open(folder).close()
