"""The ledger's database: SQLite tables in which every row carries a checksum, and sums that miss a lost one.

    calls      one row for every attempt, in the order of commitment, never changed or deleted; `id` counts from 1
    results    what became of a source, per build
    totals     sums over the calls, kept up to date with every commit, so that they are never computed
    state      how far the segments are in the database, and the sum of all entries of the index `calls_by_hash`

What a damaged page can do, and what notices it: a changed row, its checksum; a lost row, the index entry that leads
to it; a changed or lost index entry, the sum in `state` (compared at each opening for writing, or at the first call
that is looked for); a lost row of `totals`, the number of calls. That comparison reads the index alone: 0.2 s for a
million calls, where SQLite's quick_check took 4 s without looking at the index, and integrity_check 5.6 s (2 cores).
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from redaes.data.manifest import canonical_json
from redaes.engine.segments import Fields, Position, checksum
from redaes.errors import UserError

SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0

CALL_COLUMNS = {
    **dict.fromkeys(("key", "role", "plugin", "version", "model", "prompt", "parameters", "images"), "TEXT NOT NULL"),
    **dict.fromkeys(("source", "status", "replies"), "TEXT NOT NULL"),
    "result": "TEXT",
    **dict.fromkeys(("input_tokens", "output_tokens", "images_made"), "INTEGER NOT NULL"),
    **dict.fromkeys(("cost", "latency"), "REAL NOT NULL"),
    "attempt": "INTEGER NOT NULL",
    "error": "TEXT NOT NULL",
    "at": "REAL NOT NULL",
}
FORGOTTEN = "forgotten"
"""The status of a row that is no call: from here on a dead letter of its key does not count."""

UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged database may raise; the second where SQLite quotes what it cannot read."""

_NOT_WRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_BY = ("role", "plugin", "model", "status")
_SUMMED = ("input_tokens", "output_tokens", "images_made", "cost", "latency")
_TOTALS = (*_BY, "calls", *_SUMMED)
_SCHEMA = f"""
CREATE TABLE calls (id INTEGER PRIMARY KEY, hash INTEGER NOT NULL,
    {", ".join(f"{name} {kind}" for name, kind in CALL_COLUMNS.items())}, checksum TEXT NOT NULL);
CREATE INDEX calls_by_hash ON calls (hash);
CREATE INDEX calls_failed ON calls (status) WHERE status = 'failed';
CREATE TABLE results (build TEXT NOT NULL, source TEXT NOT NULL, text TEXT NOT NULL, checksum TEXT NOT NULL);
CREATE UNIQUE INDEX results_by_source ON results (build, source);
CREATE TABLE totals (role TEXT, plugin TEXT, model TEXT, status TEXT, calls INTEGER, input_tokens INTEGER,
    output_tokens INTEGER, images_made INTEGER, cost REAL, latency REAL, checksum TEXT NOT NULL,
    PRIMARY KEY ({", ".join(_BY)}));
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), text TEXT NOT NULL, checksum TEXT NOT NULL);
PRAGMA user_version = {SCHEMA_VERSION};
"""


class Damaged(Exception):
    """The database is not what was written.

    Args:
        message: what does not match.
        path: the file, if it is not the database's.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class Entry(NamedTuple):
    """What is written: the fields of a call or a result, and their checksum."""

    fields: Fields
    checksum: str


class Total(NamedTuple):
    """Sums over the calls of one role, plug-in, model and status; costs in the price table's currency, times in s."""

    role: str
    plugin: str
    model: str
    status: str
    calls: int
    input_tokens: int
    output_tokens: int
    images_made: int
    cost: float
    latency: float


@dataclass
class State:
    """See the module's table.

    Attributes:
        segment: the last one.
        offset: bytes of it that are in the database.
        skipped: damaged lines that were passed over.
        calls: rows.
        high: sum of the upper halves of their hashes.
        low: sum of the lower halves.
    """

    segment: int = 1
    offset: int = 0
    skipped: int = 0
    calls: int = 0
    high: int = 0
    low: int = 0


@contextmanager
def explaining(path: Path, repair: str) -> Iterator[None]:
    """Say in one line what is the matter with a database.

    Args:
        path: its file.
        repair: the command that mends it.

    Raises:
        UserError: instead of what SQLite and `Damaged` say.
    """
    try:
        yield
    except Damaged as error:
        raise UserError(f"{error.path or path} is damaged ({error}); run `{repair}`") from error
    except UnicodeDecodeError as error:  # SQLite quotes what it cannot read
        raise UserError(f"{path} is damaged (its schema is unreadable); run `{repair}`") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, (sqlite3.ProgrammingError, sqlite3.NotSupportedError)):
            raise
        code = _code(error)
        if code == sqlite3.SQLITE_FULL:
            raise UserError(
                f"cannot write {path}: the disk is full; make room and run the same command again"
            ) from error
        if code in _NOT_WRITABLE:
            raise UserError(f"cannot open or write {path}: {error}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UserError(f"{path} is locked by another program; close it and run the same command again") from error
        if code == sqlite3.SQLITE_IOERR:
            raise UserError(f"cannot read or write {path}: {error} ({error.sqlite_errorname})") from error
        raise UserError(f"{path} is damaged ({error}); run `{repair}`") from error


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; what Python cannot read as text has none, and is damage."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


def _connect(path: Path, options: str) -> sqlite3.Connection:
    location = f"{path.absolute().as_uri()}?{options}"
    return sqlite3.connect(location, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


class Database:
    """A connection. Not for several threads at a time.

    Args:
        path: the file.
        access: `write` makes it where it is missing; `read` never writes.
    """

    def __init__(self, path: Path, access: Literal["write", "read"]) -> None:
        self.sql = _connect(path, "mode=rwc" if access == "write" else "mode=ro")
        try:
            if access == "write":
                self.sql.execute("PRAGMA journal_mode = WAL")
                self.sql.execute("PRAGMA synchronous = FULL")
                self.sql.execute("PRAGMA cache_size = -16384")
                self._create()
            version = self._version(path, access)
            if version != SCHEMA_VERSION:
                raise Damaged(f"it has schema version {version}, this redaes knows {SCHEMA_VERSION}")
        except BaseException:
            self.sql.close()
            raise

    def _version(self, path: Path, access: str) -> int:
        """The schema's version: the first thing that is read."""
        try:
            return int(self.sql.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.OperationalError as error:
            ahead = path.with_name(f"{path.name}-wal")
            if access == "write" or _code(error) not in _NOT_WRITABLE or (ahead.exists() and ahead.stat().st_size):
                raise
            # SQLite wants files of its own beside a database; in a folder that cannot be written nobody else writes.
            self.sql.close()
            self.sql = _connect(path, "immutable=1")
            return int(self.sql.execute("PRAGMA user_version").fetchone()[0])

    def _create(self) -> None:
        with self.transaction():
            if not self.sql.execute("SELECT 1 FROM sqlite_schema").fetchone():
                for statement in _SCHEMA.split(";"):
                    self.sql.execute(statement)
                self._set_state(State())

    @contextmanager
    def transaction(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[None]:
        """Commit durably at the end, or undo at an exception.

        Args:
            kind: immediate holds the write lock among all processes; deferred sees one state of the database.
        """
        self.sql.execute(f"BEGIN {kind}")
        try:
            yield
            self.sql.execute("COMMIT")
        finally:
            if self.sql.in_transaction:
                self.sql.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection."""
        self.sql.close()

    # --- writing, inside a transaction --------------------------------------------------------------------------------

    def write(self, entries: Iterable[Entry], position: Position, skipped: int = 0) -> None:
        """Add entries.

        Args:
            entries: in their order.
            position: of the segments, after them.
            skipped: damaged lines among them.
        """
        calls: list[Entry] = []
        results: list[Entry] = []
        for entry in entries:
            (calls if entry.fields["kind"] == "call" else results).append(entry)
        state = self.state()
        if calls:
            self._write_calls(calls, state)
        self.sql.executemany(
            "INSERT OR REPLACE INTO results (build, source, text, checksum) VALUES (?, ?, ?, ?)",
            [(e.fields["build"], e.fields["source"], e.fields["text"], e.checksum) for e in results],
        )
        state.segment, state.offset = position
        state.skipped += skipped
        self._set_state(state)

    def _write_calls(self, calls: Sequence[Entry], state: State) -> None:
        hashes = [key_hash(entry.fields["key"]) for entry in calls]
        marks = ", ".join("?" * (len(CALL_COLUMNS) + 3))
        rows = (
            (state.calls + n, hash_, *(entry.fields[column] for column in CALL_COLUMNS), entry.checksum)
            for n, (hash_, entry) in enumerate(zip(hashes, calls, strict=True), 1)
        )
        self.sql.executemany(f"INSERT INTO calls VALUES ({marks})", rows)
        self._add_totals(calls)
        state.calls += len(calls)
        state.high += sum(hash_ >> 32 for hash_ in hashes)
        state.low += sum(hash_ & 0xFFFFFFFF for hash_ in hashes)

    def _add_totals(self, calls: Sequence[Entry]) -> None:
        sums: dict[tuple[str, ...], list[Any]] = {}
        for entry in calls:
            by = tuple(entry.fields[name] for name in _BY)
            if by not in sums:
                known = self._read_totals("WHERE " + " AND ".join(f"{name} = ?" for name in _BY), by)
                sums[by] = list(known[0][len(_BY) :]) if known else [0, 0, 0, 0, 0.0, 0.0]
            for n, added in enumerate((1, *(entry.fields[name] for name in _SUMMED))):
                sums[by][n] += added
        rows = [(*by, *values) for by, values in sums.items()]
        self.sql.executemany(
            f"INSERT OR REPLACE INTO totals VALUES ({', '.join('?' * (len(_TOTALS) + 1))})",
            [(*row, checksum(dict(zip(_TOTALS, row, strict=True)))) for row in rows],
        )

    def _set_state(self, state: State) -> None:
        text = canonical_json(asdict(state))
        self.sql.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (text, checksum({"state": text})))

    # --- reading ------------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """The state, verified."""
        row = self.sql.execute("SELECT text, checksum FROM state").fetchone()
        if row is None:
            raise Damaged("its state is gone")
        _verify({"state": row[0]}, row[1], "its state")
        return State(**json.loads(row[0]))

    def calls(self, key: str) -> list[dict[str, Any]]:
        """All rows of a key, verified, in order."""
        hash_ = key_hash(key)
        rows = self._calls("hash = ? ORDER BY id", hash_)
        for row in rows:
            if key_hash(row["key"]) != hash_:
                raise Damaged("an entry of calls_by_hash leads to another call")
        return [row for row in rows if row["key"] == key]

    def failed(self) -> list[int]:
        """The rows that were dead letters when they were written."""
        with self.transaction("DEFERRED"):
            ids = [row[0] for row in self.sql.execute("SELECT id FROM calls WHERE status = 'failed' ORDER BY id")]
            count = sum(total.calls for total in self._read_totals() if total.status == "failed")
        if len(ids) != count:
            raise Damaged("the index calls_failed does not list all failed calls")
        return ids

    def call(self, number: int) -> dict[str, Any]:
        """One row, verified."""
        rows = self._calls("id = ?", number)
        if not rows:
            raise Damaged(f"call {number} is gone")
        return rows[0]

    def _calls(self, where: str, value: int) -> list[dict[str, Any]]:
        columns = list(CALL_COLUMNS)
        found = []
        for number, *values, digest in self.sql.execute(
            f"SELECT id, {', '.join(columns)}, checksum FROM calls WHERE {where}", (value,)
        ):
            fields = {"kind": "call", **dict(zip(columns, values, strict=True))}
            _verify(fields, digest, f"call {number}")
            found.append({**fields, "id": number})
        return found

    def result(self, build: str, source: str) -> str | None:
        """What became of a source, verified; None if it is not known."""
        row = self.sql.execute(
            "SELECT text, checksum FROM results WHERE build = ? AND source = ?", (build, source)
        ).fetchone()
        if row is None:
            return None
        _verify({"kind": "result", "build": build, "source": source, "text": row[0]}, row[1], f"the result of {source}")
        return str(row[0])

    def results_count(self, build: str) -> int:
        """Sources of a build whose result is known."""
        return int(self.sql.execute("SELECT count(*) FROM results WHERE build = ?", (build,)).fetchone()[0])

    def totals(self) -> list[Total]:
        """All sums, verified."""
        with self.transaction("DEFERRED"):
            totals = self._read_totals()
            count = self.state().calls
        if sum(total.calls for total in totals) != count:
            raise Damaged("the totals are not those of all calls")
        return [total for total in totals if total.status != FORGOTTEN]

    def _read_totals(self, where: str = "", of: Sequence[str] = ()) -> list[Total]:
        totals = []
        for *values, digest in self.sql.execute(f"SELECT {', '.join(_TOTALS)}, checksum FROM totals {where}", of):
            _verify(dict(zip(_TOTALS, values, strict=True)), digest, "a row of its totals")
            totals.append(Total(*values))
        return totals

    def check(self) -> None:
        """Compare the index with its sum, and the number of calls.

        Raises:
            Damaged: an entry was changed or is gone.
        """
        with self.transaction("DEFERRED"):
            state = self.state()
            found = self.sql.execute(
                "SELECT count(*), coalesce(sum(hash >> 32), 0), coalesce(sum(hash & 4294967295), 0) "
                "FROM calls INDEXED BY calls_by_hash"
            ).fetchone()
            last = self.sql.execute("SELECT max(id) FROM calls").fetchone()[0] or 0
        if found != (state.calls, state.high, state.low):
            raise Damaged("the index calls_by_hash is not that of all calls")
        if last != state.calls:
            raise Damaged("calls are missing at the end")


def _verify(fields: Fields, digest: Any, what: str) -> None:
    if not matches(fields, digest):
        raise Damaged(f"{what} does not match its checksum")


def matches(fields: Fields, digest: Any) -> bool:
    """Whether a checksum is that of the fields."""
    try:
        return bool(checksum(fields) == digest)
    except (TypeError, ValueError):  # damage can make a number into anything
        return False


def key_hash(key: str) -> int:
    """Sixty-four bits of a key, signed, to keep the index small."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)
