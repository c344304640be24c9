"""The ledger: every call to a model, durable before its answer is used, found again for nothing.

In: a record of each attempt of a call (`put`, which returns once it is on the disk), and what became of each source.
Out: the answer to a question that was asked before (`find`), dead letters (`failures`), sums (`totals`).

    OUT.ledger/
        ledger.sqlite       the database (redaes.engine.database): SQLite, write-ahead log, full synchronisation
        segments/*.jsonl    the same rows as text, from which the database can be rebuilt (redaes.engine.segments)
        objects/            edited images (redaes.engine.objects)
        ledger.lock         who builds on it

One thread writes. It takes all that callers have handed in since its last commit, and while it holds the database's
write lock: appends them to the segment, syncs it, inserts them, notes the segment's length, commits. So many callers
share one commit, and whatever instant a crash picks, a row that `put` has returned for is in both or, if the database
is damaged, in the segments. Rows that a crash left in a segment alone are taken into the database by the next writer.

The order of rows is that of commitment. Times are stored and never compared: a clock may jump. (METHOD 2; the ledger
is ours.)
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from redaes.data.manifest import write_atomically
from redaes.engine.committing import GroupCommit
from redaes.engine.database import CALL_COLUMNS, FORGOTTEN, Database, Entry, Total, explaining
from redaes.engine.locks import Lock
from redaes.engine.objects import Objects, ObjectStore
from redaes.engine.recovery import catch_up, catch_up_in_parts, repair_command
from redaes.engine.segments import Segments, seal, sync
from redaes.errors import UserError

BATCH = 1024
"""Rows in one commit, at most."""

GATHER = 0.005
"""Seconds between two commits where several callers wait: one commit for ten of them costs what it costs for one."""

LARGEST = 2**40
"""No number of a record is larger, so that sums over millions of them are exact in 63 bits."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One attempt of one call.

    Attributes:
        key: what was asked, of whom: a hash of all that the answer depends on.
        role: the plug-in's method.
        plugin: its name.
        version: of the plug-in.
        model: that answered.
        prompt: name and version of the prompt.
        parameters: all that identifies the plug-in, as JSON.
        images: hashes of the images it was asked about.
        source: the source it was for.
        status: `ok`: `result` is the answer; `retried`: it failed and was asked again; `failed`: it was given up.
        replies: raw words of the replies, as a JSON list.
        result: the answer as the engine reads it, as JSON.
        input_tokens: billed.
        output_tokens: billed.
        images_made: billed.
        cost: in the price table's currency.
        latency: in seconds.
        attempt: counts from 1.
        error: why it failed; empty where it did not.
        at: when, in seconds since 1970 by the wall clock.
    """

    key: str
    role: str
    plugin: str
    version: str
    model: str
    prompt: str
    parameters: str
    images: tuple[str, ...]
    source: str
    status: Literal["ok", "retried", "failed"]
    replies: str
    result: str | None
    input_tokens: int
    output_tokens: int
    images_made: int
    cost: float
    latency: float
    attempt: int
    error: str
    at: float


class LedgerProtocol(Protocol):
    """What a build needs of a ledger; see `Ledger`, whose meaning it has. A runner may bring another."""

    @property
    def folder(self) -> Path | str:
        """Where it is: a path, or an address."""
        ...

    @property
    def objects(self) -> Objects:
        """Its edited images."""
        ...

    def find(self, key: str) -> CallRecord | None:
        """What is known of a call."""
        ...

    def put(self, record: CallRecord, wait: bool = True) -> None:
        """Keep one attempt."""
        ...

    def failures(self) -> Iterator[CallRecord]:
        """Dead letters."""
        ...

    def forget_failures(self, keys: Iterable[str] | None = None) -> int:
        """Have dead letters asked again by the next build."""
        ...

    def totals(self) -> list[Total]:
        """Sums over every attempt ever made."""
        ...

    def put_result(self, build: str, source: str, text: str) -> None:
        """Keep what became of a source."""
        ...

    def result(self, build: str, source: str) -> str | None:
        """What became of a source, None if it is not known."""
        ...

    def results_count(self, build: str) -> int:
        """Sources of a build whose result is known."""
        ...

    def put_note(self, build: str, text: str) -> None:
        """Keep what is built here."""
        ...

    def notes(self) -> list[tuple[str, str]]:
        """Fingerprint and note of every build, the latest first."""
        ...

    def close(self) -> None:
        """Let go of files and lock."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Handed(NamedTuple):
    """An entry on its way to the writer, and its line."""

    entry: Entry
    line: bytes


class Recording(ABC):
    """What every ledger does alike: rows are made here, and handed on to be committed."""

    @abstractmethod
    def _put(self, entries: list[dict[str, Any]], wait: bool = True) -> None:
        """Hand rows to the writer and, unless told otherwise, wait for their commit."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and lock. What was put is durable already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put(self, record: CallRecord, wait: bool = True) -> None:
        """Keep one attempt. It is durable when this returns.

        Args:
            record: of the attempt.
            wait: False for what costs nothing to do again: it is durable as soon as anything that is put later is.

        Raises:
            UserError: it could not be written; nothing more can be put until the ledger is opened again.
            ValueError: a number in it is not finite, or beyond `LARGEST`.
        """
        self._put([call_fields(record)], wait)

    def put_many(self, records: Iterable[CallRecord]) -> None:
        """Keep many attempts, such as those of another ledger, in few commits. All are durable when this returns.

        Args:
            records: held in memory until then.

        Raises:
            UserError, ValueError: as `put`; of many, some may have been kept.
        """
        self._put([call_fields(record) for record in records])

    def put_result(self, build: str, source: str, text: str) -> None:
        """Keep what became of a source; it takes the place of what was known. Durable when this returns.

        Args:
            build: fingerprint of the build.
            source: name of the source.
            text: any.

        Raises:
            UserError: as `put`.
        """
        self._put([{"kind": "result", "build": clean(build), "source": clean(source), "text": clean(text)}])


class Ledger(Recording):
    """A ledger that is open. Any thread may use it. Open one with `create_or_open` or `open_for_reading`.

    Attributes:
        folder: where it is.
        objects: its edited images.
    """

    def __init__(self, folder: Path, lock: Lock | None, writing: bool) -> None:
        self.folder = folder
        self.objects = ObjectStore(folder / "objects")
        self._lock = lock
        self._path = folder / "ledger.sqlite"
        self._repair = repair_command(folder)
        self._segments = Segments(folder / "segments")
        self._reading = threading.Lock()
        self._checked = False
        with self._explaining():
            self._writing = Database(self._path, "write") if writing else None
            if lock and self._writing:
                self._recover(self._writing)
            self._database = Database(self._path, "read")
        self._commits = GroupCommit(self._commit, BATCH, GATHER) if self._writing else None

    @classmethod
    def create_or_open(cls, folder: str | Path, lock: bool = True, name: str = "") -> "Ledger":
        """Open a ledger for a build, or make an empty one.

        Args:
            folder: the ledger's.
            lock: this is the build; False for the other processes of a build whose first one holds the lock.
            name: of the dataset that is built, for the message to another build.

        Raises:
            UserError: another build is using it, it cannot be written, or it is damaged.
        """
        folder = Path(folder)
        try:
            for part in (folder, folder / "segments", folder / "objects"):
                if not part.is_dir():
                    part.mkdir(parents=True, exist_ok=True)
                    sync(part.parent)
        except OSError as error:
            raise UserError(f"cannot write the ledger {folder}: {error.strerror or error}") from error
        held = Lock.take(folder / "ledger.lock", f"the build of {name or folder}") if lock else None
        try:
            return cls(folder, held, writing=True)
        except BaseException:
            if held:
                held.release()
            raise

    @classmethod
    def open_for_reading(cls, folder: str | Path, name: str = "") -> "Ledger":
        """Open a ledger to look at, also while a build is writing to it.

        Args:
            folder: the ledger's.
            name: of the dataset, for the message that there is none.

        Raises:
            UserError: there is none, or it is damaged.
        """
        folder = Path(folder)
        if not (folder / "ledger.sqlite").is_file():
            of = f" of {name}" if name else ""
            raise UserError(f"no ledger{of} in {folder}; `redaes data build` makes one")
        return cls(folder, None, writing=False)

    def close(self) -> None:
        """Let go of files and lock. What was put is durable already."""
        if self._commits:
            self._commits.close()
        with self._reading:
            self._database.close()
        if self._writing:
            self._writing.close()
        self._segments.close()
        if self._lock:
            self._lock.release()

    # --- calls --------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> CallRecord | None:
        """What is known of a call.

        Returns:
            Its answer, the latest if there are several; else the dead letter, unless it was forgotten; else None.

        Raises:
            UserError: the database is damaged.
        """
        with self._read(checked=True) as database:
            row = standing(database.calls(clean(key)))
        return record_of(row) if row and row["status"] != FORGOTTEN else None

    def failures(self) -> Iterator[CallRecord]:
        """Dead letters: calls that were given up, not forgotten since, and never answered."""
        with self._read(checked=True) as database:
            numbers = database.failed()
        for number in numbers:
            with self._read() as database:
                row = database.call(number)
                dead = standing(database.calls(row["key"])) == row
            if dead:
                yield record_of(row)

    def forget_failures(self, keys: Iterable[str] | None = None) -> int:
        """Have dead letters asked again by the next build. What they cost stays in the totals.

        Args:
            keys: which; None takes all.

        Returns:
            How many.
        """
        wanted = None if keys is None else set(keys)
        dead = (record for record in self.failures() if wanted is None or record.key in wanted)
        count = 0
        while batch := list(islice(dead, BATCH)):
            self._put([forget_fields(record) for record in batch])
            count += len(batch)
        return count

    def totals(self) -> list[Total]:
        """Sums over every attempt ever made, by role, plug-in, model and status; a table, not a computation."""
        with self._read() as database:
            return sorted(database.totals())

    # --- what became of sources ---------------------------------------------------------------------------------------

    def result(self, build: str, source: str) -> str | None:
        """What became of a source, None if it is not known.

        Raises:
            UserError: the database is damaged.
        """
        with self._read() as database:
            return database.result(clean(build), clean(source))

    def results_count(self, build: str) -> int:
        """Sources of a build whose result is known."""
        with self._read() as database:
            return database.results_count(clean(build))

    # --- what is built ------------------------------------------------------------------------------------------------

    def put_note(self, build: str, text: str) -> None:
        """Keep what is built here, for `redaes data status` and `retry`.

        Args:
            build: fingerprint of the build.
            text: any.

        Raises:
            UserError: it cannot be written.
        """
        path = self.folder / "builds" / f"{build}.json"
        with self._explaining():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, text)

    def notes(self) -> list[tuple[str, str]]:
        """Fingerprint and note of every build, the latest first."""
        paths = sorted(self.folder.glob("builds/*.json"), key=lambda p: (p.stat().st_mtime_ns, p.name), reverse=True)
        return [(path.stem, path.read_text(encoding="utf-8")) for path in paths]

    # --- reading and writing ------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self, checked: bool = False) -> Iterator[Database]:
        """The connection for reading, for one thread at a time; `checked` where it matters that a row is not found."""
        with self._reading, self._explaining():
            if checked and not self._checked:
                self._database.check()
                self._checked = True
            yield self._database

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        with explaining(self._path, self._repair):
            try:
                yield
            except OSError as error:
                file = error.filename or self._segments.folder
                raise UserError(f"cannot read or write {file}: {error.strerror or error}") from error

    def _put(self, entries: list[dict[str, Any]], wait: bool = True) -> None:
        """Hand entries to the writer and, unless told otherwise, wait for their commit."""
        if self._commits is None:
            raise ValueError("the ledger is not open for writing")
        handed = []
        for entry in entries:
            line, digest = seal(entry)
            handed.append(_Handed(Entry(entry, digest), line))
        self._commits.put(handed, wait)

    def _commit(self, batch: list[_Handed]) -> None:
        assert self._writing is not None
        with self._explaining(), self._writing.transaction():
            position = catch_up(self._writing, self._segments)
            position = self._segments.append(position, b"".join(one.line for one in batch))
            self._writing.write([one.entry for one in batch], position)

    # --- opening ------------------------------------------------------------------------------------------------------

    def _recover(self, database: Database) -> None:
        """Remove and take in what a crash left; look for damage."""
        self.objects.remove_unfinished()
        catch_up_in_parts(database, self._segments)
        database.check()
        self._checked = True


def call_fields(record: CallRecord) -> dict[str, Any]:
    """A record as it is written: numbers in the type of their column, text that UTF-8 has words for.

    Raises:
        ValueError: a number is not finite, or beyond `LARGEST`.
    """
    entry: dict[str, Any] = {"kind": "call"}
    for column, kind in CALL_COLUMNS.items():
        value = getattr(record, column)
        if column == "images":
            value = " ".join(value)
        if kind.startswith("TEXT"):
            entry[column] = None if value is None else clean(value)
        elif kind.startswith("REAL"):
            entry[column] = float(value) + 0.0  # SQLite knows no -0.0
        else:
            entry[column] = int(value)
        if kind.startswith(("REAL", "INTEGER")) and not abs(entry[column]) <= LARGEST:
            raise ValueError(f"{column} is {value}; the ledger takes numbers up to {LARGEST}")
    return entry


def forget_fields(record: CallRecord) -> dict[str, Any]:
    """A marker: what was spent is counted where it was spent, not here."""
    free = replace(record, replies="[]", input_tokens=0, output_tokens=0, images_made=0, cost=0.0, latency=0.0)
    return {**call_fields(free), "status": FORGOTTEN}


def standing(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The row that tells what is known of a call: its latest answer; else its latest dead letter, or its marker.

    Args:
        rows: all of the call, in their order.
    """
    tried = [row for row in rows if row["status"] != "retried"]
    answers = [row for row in tried if row["status"] == "ok"]
    return next(reversed(answers or tried), None)


def record_of(row: dict[str, Any]) -> CallRecord:
    """The record of a row.

    Args:
        row: the fields of `CallRecord` by name, as `call_fields` made them, and any others.
    """
    values = {field.name: row[field.name] for field in fields(CallRecord)}
    return CallRecord(**{**values, "images": tuple(row["images"].split())})


def clean(text: str) -> str:
    """Text without halves of surrogate pairs, which neither UTF-8 nor SQLite can hold."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
