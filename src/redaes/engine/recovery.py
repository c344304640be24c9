"""What a crash or a bad disk did to a ledger, mended from its segments.

`catch_up` takes in what a process that died between segment and database has left. `repair` makes the database anew.
"""

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from redaes.engine.database import (
    CALL_COLUMNS,
    UNREADABLE,
    Damaged,
    Database,
    Entry,
    State,
    explaining,
    key_hash,
    matches,
)
from redaes.engine.locks import Lock
from redaes.engine.segments import Line, Position, Segments, checksum, seal, sync
from redaes.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 1024
SUFFIX = ".ledger"
FILES = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm")


def catch_up(database: Database, segments: Segments, most: int | None = None) -> Position:
    """Take in the lines that the database has not noted; inside a transaction.

    Args:
        database: of the ledger.
        segments: of the ledger.
        most: lines to take in; None takes all.

    Returns:
        The place after the last line taken in.

    Raises:
        Damaged: the database has noted more than there is.
    """
    state = database.state()
    position = Position(state.segment, state.offset)
    size = segments.size(position.segment) or 0
    if size < position.offset:
        raise Damaged("it has lost its end", segments.path(position.segment))
    if size == position.offset and segments.size(position.segment + 1) is None:
        return position
    lines = islice(segments.read(position), most)
    while chunk := list(islice(lines, CHUNK)):
        _take_in(database, chunk)
        position = chunk[-1].end
    return position


def catch_up_in_parts(database: Database, segments: Segments) -> None:
    """Take in all lines, in transactions of bounded size: the database may be new, and the segments long."""
    before = None
    while True:
        with database.transaction():
            position = catch_up(database, segments, most=16 * CHUNK)
        if position == before:
            break
        before = position


def _take_in(database: Database, lines: list[Line]) -> None:
    whole = [Entry(line.fields, checksum(line.fields)) for line in lines if line.fields is not None]
    database.write(whole, lines[-1].end, skipped=len(lines) - len(whole))


def repair_command(folder: Path) -> str:
    """What mends a ledger.

    Example:
        >>> repair_command(Path("runs/photos.ledger"))
        'redaes data repair runs/photos'
    """
    return f"redaes data repair {shlex.quote(str(folder).removesuffix(SUFFIX))}"


@dataclass(frozen=True)
class Repaired:
    """What `repair` did.

    Attributes:
        folder: the ledger.
        calls: rows of calls in the new database.
        damaged_lines: of the segments, left out.
        rescued: rows that only the old database had.
        aside: where the old database is; None if there was none.
    """

    folder: Path
    calls: int
    damaged_lines: int
    rescued: int
    aside: Path | None


def repair(dataset: str | Path) -> Repaired:
    """Make a ledger's database anew from its segments, and keep the old one aside.

    Rows that are missing in the segments are taken from the old database as far as they can be read there and match
    their checksums, and appended to the segments.

    Args:
        dataset: the dataset whose ledger it is, or the ledger's own folder.

    Raises:
        UserError: no ledger, a build is using it, or it cannot be written.
    """
    folder = _ledger_of(Path(dataset))
    lock = Lock.take(folder / "ledger.lock", f"the repair of {folder}")
    new = folder / "rebuilding" / FILES[0]
    try:
        with explaining(new, repair_command(folder)):
            return _repair(folder, new)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
    finally:
        lock.release()


def _ledger_of(dataset: Path) -> Path:
    for folder in (Path(f"{dataset}{SUFFIX}"), dataset):
        if (folder / "segments").is_dir():
            return folder
    raise UserError(f"no ledger in {dataset}{SUFFIX} or {dataset}; name the dataset or the folder of its ledger")


def _repair(folder: Path, new: Path) -> Repaired:
    new.parent.mkdir(exist_ok=True)
    _remove(new.parent)
    segments = Segments(folder / "segments")
    database = Database(new, "write")
    try:
        catch_up_in_parts(database, segments)
        rescued = _rescue(folder / FILES[0], database, segments)
        database.check()
        state = database.state()
    finally:
        database.close()
        segments.close()
    aside = _set_aside(folder)
    new.rename(folder / FILES[0])
    new.parent.rmdir()
    sync(folder)
    return Repaired(folder, state.calls, state.skipped, rescued, aside)


def _rescue(old: Path, database: Database, segments: Segments) -> int:
    """Take what the segments lack from the old database; how many rows that were."""
    rescued = 0
    entries = (entry for entry in _readable(old, database.state()) if not _has(database, entry))
    while chunk := list(islice(entries, CHUNK)):
        with database.transaction():
            position = catch_up(database, segments)
            position = segments.append(position, b"".join(seal(entry.fields)[0] for entry in chunk))
            database.write(chunk, position)
        rescued += len(chunk)
    return rescued


def _readable(old: Path, new: State) -> Iterator[Entry]:
    """What can be read in a damaged database; nothing where all it knew is in the segments, and so in the new one."""
    if not old.is_file():
        return
    try:
        database = Database(old, "read")
    except (Damaged, *UNREADABLE) as error:
        log.warning("nothing can be read in %s (%s)", old, error)
        return
    try:
        if new.skipped or not _includes(new, database):
            yield from _readable_rows(database)
    finally:
        database.close()


def _includes(new: State, database: Database) -> bool:
    try:
        old = database.state()
    except (Damaged, *UNREADABLE):
        return False
    return (old.segment, old.offset) <= (new.segment, new.offset) and old.calls <= new.calls


def _readable_rows(database: Database) -> Iterator[Entry]:
    for kind, table, columns in (
        ("call", "calls", list(CALL_COLUMNS)),
        ("result", "results", ["build", "source", "text"]),
    ):
        for *values, digest in _rows(database, table, columns):
            fields = {"kind": kind, **dict(zip(columns, values, strict=True))}
            if matches(fields, digest):
                yield Entry(fields, digest)


def _rows(database: Database, table: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """Rows one by one; numbers that cannot be read are stepped over, ever faster, some 500,000 of them at a stretch."""
    number, failures = 0, 0
    select = f"SELECT rowid, {', '.join(columns)}, checksum FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT 1"
    while failures < 4000:
        try:
            row = database.sql.execute(select, (number,)).fetchone()
        except UNREADABLE:
            failures += 1
            number += 1 + failures // 16
            continue
        if row is None:
            return
        failures = 0
        number = max(number + 1, row[0])
        yield row[1:]


def _has(database: Database, entry: Entry) -> bool:
    """Whether a call is there, or any result of a source."""
    fields = entry.fields
    if fields["kind"] == "call":
        question, row = "calls WHERE hash = ? AND checksum = ?", (key_hash(fields["key"]), entry.checksum)
    else:
        question, row = "results WHERE build = ? AND source = ?", (fields["build"], fields["source"])
    return database.sql.execute(f"SELECT 1 FROM {question}", row).fetchone() is not None


def _set_aside(folder: Path) -> Path | None:
    """Move the old database to a folder of its own."""
    there = [name for name in FILES if (folder / name).exists()]
    if not there:
        return None
    number = 1
    while (aside := folder / f"damaged-{number}").exists():
        number += 1
    aside.mkdir()
    for name in there:
        (folder / name).rename(aside / name)
    sync(aside)
    return aside


def _remove(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
