"""A log: rows that many writers add in commits of their own, found again by a hash of their key.

    PREFIX/new/       a file for each commit: written once, whole, never changed
    PREFIX/merged/    64 of one writer's files made one, by that writer, twice over: 64 commits, then 4096
    PREFIX/sorted/    everything that was there when the driver last compacted (redaes_ray.compaction)
    PREFIX/_manifest.json   which files of `sorted` count, and up to where each writer's commits are in them

The columns are the same in all of them, so whatever reads folders of parquet reads them.

Nothing is locked among writers: no two ever write the same file. Files go only when what is in them is in another file
already. So a reader that finds a file gone looks again at what there is.

A process knows a log as an index (redaes_ray.parts.Run: 16 bytes a row) over the files that were there when it opened,
and, in memory, the rows it has put since and those it has taken in about some sources (`refresh`).
"""

import logging
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from redaes.engine.database import Entry, Total, key_hash
from redaes.errors import UserError
from redaes_ray.manifest import Manifest
from redaes_ray.parts import (
    CLOCK,
    HASH,
    Kind,
    Part,
    Place,
    Run,
    entry_of,
    outermost,
    parquet_of,
    table_of,
    to_parquet,
)
from redaes_ray.storage import Missing, Storage

FAN = 64
"""Files of one writer that are made one."""

LEVELS = 2
"""How often a row is merged before it is compacted."""

MERGE_BYTES = 2**24
"""Bytes of files that are merged though they are fewer."""

LARGE_BYTES = 2**20
"""A file of so many bytes that came of a merge is not merged again."""

TRIES = 8
"""How often one looks again when files go while one looks."""

RUNS = 128
"""Indexes of a log in one process, before they are made two."""

BY, SUMMED = Total._fields[:4], Total._fields[5:]

T = TypeVar("T")
log = logging.getLogger(__name__)


class Damaged(UserError):
    """A file of the ledger is not what was written."""


class Survey(NamedTuple):
    """What there is.

    Attributes:
        manifest: what was compacted.
        sorted: the files in `sorted`.
        parts: that count.
        superfluous: parts that do not any more.
    """

    manifest: Manifest
    sorted: list[str]
    parts: list[Part]
    superfluous: list[str]

    @property
    def inner(self) -> set[str]:
        """Files of the manifest that are there."""
        return set(self.manifest.names()) & set(self.sorted)

    @property
    def names(self) -> set[str]:
        """All files that count."""
        return {part.name for part in self.parts} | self.inner


@dataclass(frozen=True)
class LogSnapshot:
    """What another process needs to find what this one finds.

    Attributes:
        run: the index.
        seen: by writer, the clock up to which its commits are in the index.
        clock: of the latest commit.
        totals: sums over the rows.
    """

    run: Run
    seen: dict[str, int]
    clock: int
    totals: list[Total]


class Log:
    """A log that is open, empty until `load` or `restore`. Any thread may use it; one at a time commits.

    Args:
        storage: where it is.
        prefix: its folder there.
        kind: what it keeps.
        writer: the name of this process in it, which no other process ever had: letters, digits, `_` and `.`.
    """

    def __init__(self, storage: Storage, prefix: str, kind: Kind, writer: str) -> None:
        self.storage = storage
        self.prefix = prefix
        self.kind = kind
        self.damaged = 0
        self._writer = writer
        self._merging = threading.RLock()
        self._committing = threading.RLock()
        self._lock = threading.Lock()
        self._runs: tuple[Run, ...] = ()
        self._memory: dict[int, dict[Place, dict[str, Any]]] = defaultdict(dict)
        self._seen: dict[str, int] = {}
        self._own: list[_Own] = []
        self._upto = 0
        self._clock = 0
        self._sums: dict[str, list[Total]] = {}
        self._base: list[Total] | None = None
        self._put_since: list[Total] = []
        self._groups = _Cache(48)
        self._metadata = _Cache(512)

    # --- opening ------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take in all that has been committed: the hashes of files that are not known yet are read.

        Raises:
            UserError: a file is damaged or cannot be read.
        """
        with self._committing:
            survey = again_if_files_go(self._take_stock)
            seen = [*survey.manifest.compacted.items(), *((part.writer, part.upto) for part in survey.parts)]
            with self._lock:
                for writer, upto in seen:
                    self._seen[writer] = max(self._seen.get(writer, 0), upto)
                self._clock = max(self._clock, survey.manifest.clock, *(part.upto for part in survey.parts), 0)
            self._forget(lambda place: place.clock <= self._seen.get(place.writer, 0), list(self._memory))

    def snapshot(self) -> LogSnapshot:
        """What is durable now, taken in (`load`) and to be sent to others."""
        with self._committing:
            self.load()
            return LogSnapshot(Run.joined(self._runs), dict(self._seen), self._clock, self.totals())

    def restore(self, snapshot: LogSnapshot) -> None:
        """Begin with what another process found."""
        self._runs, self._seen = (snapshot.run,), dict(snapshot.seen)
        self._clock, self._base = snapshot.clock, snapshot.totals

    def survey(self) -> Survey:
        """What there is in the storage, in a state that it was in.

        A list of files is not made in one moment. Each writer's parts must join, and what the manifest names must be
        there; else a file was merged meanwhile, and one looks again. Where that does not help, somebody has taken a
        file away, and the rest counts.

        Raises:
            UserError: the manifest is damaged, or something cannot be read.
        """
        for attempt in range(TRIES):
            manifest = Manifest.read(self.storage, self.prefix)
            # In this order: what a merge takes from the first folder is in the second one already.
            listed = [stored.name for folder in ("new", "merged") for stored in self._files(folder)]
            parts = [part for part in map(Part.parse, listed) if part is not None]
            kept = outermost(p for p in parts if p.upto > manifest.compacted.get(p.writer, 0))
            inner = [stored.name for stored in self.storage.files(f"{self.prefix}/sorted", recursive=True)]
            there = set(manifest.names()) <= set(inner) and _joined(kept, manifest)
            if (there or attempt >= TRIES // 2) and Manifest.read(self.storage, self.prefix) == manifest:
                names = {part.name for part in kept}
                return Survey(manifest, inner, kept, [part.name for part in parts if part.name not in names])
            time.sleep(0.05 * attempt)
        raise UserError(f"{self.storage.where(self.prefix)} changes all the time; another driver works on it")

    def _files(self, folder: str) -> list[Any]:
        return self.storage.files(f"{self.prefix}/{folder}")

    def _take_stock(self) -> Survey:
        """Bring the index up to date with the storage."""
        survey = self.survey()
        known = {name for run in self._runs for name in run.names}
        new = survey.names - known
        ours = [part for part in survey.parts if part.name in new]
        inner = sorted(survey.inner & new)
        files = dict(zip((p.name for p in ours), self.storage.in_parallel(self._stock_of(survey), ours), strict=True))
        files |= dict(zip(inner, self.storage.in_parallel(self._hashes, inner), strict=True))
        runs = [run.without(known - survey.names) for run in self._runs] + ([Run.of(files)] if files else [])
        self._set_runs([run for run in runs if run.names])
        return survey

    def _set_runs(self, runs: Sequence[Run]) -> None:
        if len(runs) > RUNS:
            # The largest stays as it is: it may be memory that the processes of a machine share.
            *small, large = sorted(runs, key=lambda run: len(run.hashes))
            runs = [large, Run.joined(small)]
        with self._lock:
            self._runs = tuple(runs)

    def _stock_of(self, survey: Survey) -> Callable[[Part], Any]:
        """Reads a part's hashes, and its sums on the way."""

        def read(part: Part) -> Any:
            table = self.table(part.name, [HASH, CLOCK, *_summed(self.kind)])
            positions = np.arange(len(table), dtype=np.uint32)
            after = survey.manifest.compacted.get(part.writer, 0)
            if part.after < after:
                mask = np.asarray(table.column(CLOCK)) > after
                table, positions = table.filter(pa.array(mask)), positions[mask]
            self._sums[part.name] = sums_of(self.kind, table)
            return np.asarray(table.column(HASH)), positions

        return read

    def _hashes(self, name: str) -> Any:
        hashes = np.asarray(self._decoded(name, lambda file: file.read(columns=[HASH])).column(HASH))
        return hashes, np.arange(len(hashes), dtype=np.uint32)

    # --- reading ------------------------------------------------------------------------------------------------------

    def rows(self, key: str) -> list[dict[str, Any]]:
        """All rows of a key that match their checksum, in their order: the fields of their entries.

        Raises:
            UserError: the storage cannot be read.
        """
        return [fields for _, fields in self.places(key)]

    def places(self, key: str) -> list[tuple[Place, dict[str, Any]]]:
        """As `rows`, each with its place."""
        hash_ = key_hash(key)
        found = self._looking_again(lambda: self._rows(hash_))
        return [(place, fields) for place, fields in sorted(found.items()) if fields[self.kind.key] == key]

    def _rows(self, hash_: int) -> dict[Place, dict[str, Any]]:
        with self._lock:
            runs, found = self._runs, dict(self._memory.get(hash_, {}))
        for run in runs:
            for name, position in run.places(hash_):
                row = self._row(name, position)
                if row is not None:
                    found[row[0]] = row[1]
        return found

    def _looking_again(self, function: Callable[[], T]) -> T:
        """What a function finds; where a file is gone, after taking in what has taken its place."""
        for _ in range(TRIES):
            with self._lock:
                before = self._runs
            try:
                return function()
            except Missing:
                if self._runs is before:
                    self.load()
        return function()

    def _row(self, name: str, position: int) -> tuple[Place, dict[str, Any]] | None:
        """A row; None, and counted, if it is damaged."""
        group, row = divmod(position, self.kind.group_rows)
        try:
            table = self._groups.get((name, group), lambda: self._group(name, group))
            found = entry_of(self.kind, table, row)
        except (Damaged, IndexError, ValueError) as error:
            found, cause = None, str(error)
        else:
            cause = "it does not match its checksum"
        if found is None:
            self.damaged += 1
            log.warning("row %d of %s counts as missing: %s", position, self.storage.where(name), cause)
        return found

    def _group(self, name: str, group: int) -> Any:
        def read(file: Any) -> Any:
            self._metadata.get(name, lambda: file.metadata)
            return file.read_row_group(group).combine_chunks()

        return self._decoded(name, read, self._metadata.peek(name))

    def table(self, name: str, columns: list[str] | None = None) -> Any:
        """The rows of a file, some columns or all.

        Raises:
            Missing: the file is gone.
            UserError: it is damaged, or cannot be read.
        """

        def read(file: Any) -> Any:
            table = file.read(columns=columns)
            table.validate(full=True)  # damage may have made text of it that is none
            return table

        return self._decode(name, self.storage.read(name), read)

    def _decoded(self, name: str, read: Callable[[Any], T], metadata: Any = None) -> T:
        """What `read` takes from a file of which not all is needed."""
        try:
            with self.storage.opened(name) as source:
                return read(parquet_of(self.kind, source, metadata))
        except Missing:
            raise
        except (UserError, ValueError, pa.ArrowException):
            # Is it the file, or the way to it? Reading all of it tells.
            return self._decode(name, self.storage.read(name), read)

    def _decode(self, name: str, data: bytes, read: Callable[[Any], T]) -> T:
        try:
            return read(parquet_of(self.kind, pa.BufferReader(data)))
        except (OSError, ValueError, pa.ArrowException) as error:
            what = " ".join(str(error).split())[:200]
            raise Damaged(
                f"{self.storage.where(name)} is damaged ({what}); move it out of the ledger and run the same command "
                "again: what it held is asked again"
            ) from error

    # --- all rows -----------------------------------------------------------------------------------------------------

    def failed(self) -> Iterator[str]:
        """The keys of all calls that have a row of status `failed`, as the rows lie in their files."""
        hashes = again_if_files_go(self._failed_hashes)
        for hash_ in hashes:
            found = self._looking_again(lambda h=hash_: self._rows(h))  # type: ignore[misc]
            yield from dict.fromkeys(fields[self.kind.key] for fields in found.values())

    def _failed_hashes(self) -> list[int]:
        def read(name: str) -> list[int]:
            table = self._decoded(name, lambda file: file.read(columns=[HASH, "status"]))
            failed: list[int] = table.filter(pc.equal(table.column("status"), "failed")).column(HASH).to_pylist()
            return failed

        names = sorted(self.survey().names)
        return list(dict.fromkeys(hash_ for some in self.storage.in_parallel(read, names) for hash_ in some))

    def count(self) -> int:
        """How many keys there are."""
        with self._lock:
            runs = self._runs
            # A key whose rows have all been moved from memory to an index is in `runs`.
            hashes = [run.hashes for run in runs] + [np.array(list(self._memory), np.int64)]
        return len(np.unique(np.concatenate(hashes)))

    def totals(self) -> list[Total]:
        """Sums over all rows: as of now, or if this process began with a snapshot, as of then and its own since."""
        if self._base is not None:
            return added([*self._base, *self._put_since])
        return added(again_if_files_go(self._totals))

    def _totals(self) -> list[Total]:
        survey = self.survey()
        unknown = [part for part in survey.parts if part.name not in self._sums]
        for _ in self.storage.in_parallel(self._stock_of(survey), unknown):
            pass
        self._sums = {part.name: self._sums[part.name] for part in survey.parts}
        return [*survey.manifest.totals(), *(total for sums in self._sums.values() for total in sums)]

    # --- writing ------------------------------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry]) -> None:
        """Add rows. They are durable, and found, when this returns.

        Raises:
            UserError: they could not be written; whether they are there is not known.
        """
        with self._committing:
            clock = max(self._clock, self._upto) + 1
            part = Part.at(f"{self.prefix}/new", self._writer, self._upto, clock)
            table = table_of(self.kind, entries, self._writer, clock)
            data = to_parquet(self.kind, table, lasting=False)
            self.storage.write(part.name, data)
            self._upto = clock
            if _summed(self.kind):
                self._put_since = added([*self._put_since, *map(_total_of, entries)])
            self._own.append(_Own(part, 0, len(data)))
            with self._lock:
                self._clock = max(self._clock, clock)
                for row, entry in enumerate(entries):
                    self._memory[key_hash(entry.fields[self.kind.key])][Place(clock, self._writer, row)] = {
                        **entry.fields
                    }

    def refresh(self, sources: Iterable[str]) -> None:
        """Take in what others have committed about some sources since this process knows of them.

        Raises:
            UserError: a file is damaged or cannot be read.
        """
        wanted = pa.array(sorted(set(sources)), pa.string())

        def read(part: Part) -> Any:
            table = self.table(part.name)
            after = self._seen.get(part.writer, 0)
            mask = pc.and_(pc.is_in(table.column("source"), wanted), pc.greater(table.column(CLOCK), after))
            return table.filter(mask)

        def look() -> list[Any]:
            survey = self.survey()
            if not survey.inner <= {name for run in self._runs for name in run.names}:
                self.load()  # compacted meanwhile
                return []
            later = [
                part
                for part in survey.parts
                if part.writer != self._writer and part.upto > self._seen.get(part.writer, 0)
            ]
            with self._lock:
                self._clock = max(self._clock, *(part.upto for part in later), 0)
            return list(self.storage.in_parallel(read, later))

        for table in again_if_files_go(look):
            self._remember(table)

    def _remember(self, table: Any) -> None:
        for number in range(len(table)):
            row = entry_of(self.kind, table, number)
            if row is None:
                self.damaged += 1
                continue
            place, fields = row
            with self._lock:
                self._memory[key_hash(fields[self.kind.key])][place] = fields

    # --- merging what this process has written ------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether `merge` has something to do."""
        return bool(self._next_merge())

    def _next_merge(self) -> list[Part]:
        """Files that follow each other and were merged equally often, if there is enough of them."""
        for level, group in groupby(list(self._own), key=lambda own: own.level):
            parts: list[Part] = []
            size = 0
            for own in group if level < LEVELS else ():
                parts.append(own.part)
                size += own.size
                if len(parts) >= FAN or size >= MERGE_BYTES:
                    return parts
        return []

    def merge(self) -> None:
        """Make one file of this process's last small ones, as often as there are enough.

        The new one is written before the old ones go. A kill between the two leaves both, and the names tell.

        Raises:
            UserError: something cannot be read or written. Nothing is lost.
        """
        with self._merging:
            while parts := self._next_merge():
                self._merge(parts)

    def _merge(self, parts: list[Part]) -> None:
        table = pa.concat_tables(self.storage.in_parallel(lambda part: self.table(part.name), parts))
        # By source, so that `refresh` and a reader of one source find its rows together.
        table = table.sort_by([("source", "ascending"), (CLOCK, "ascending"), ("row", "ascending")])
        merged = Part.at(f"{self.prefix}/merged", self._writer, parts[0].after, parts[-1].upto)
        data = to_parquet(self.kind, table)
        self.storage.write(merged.name, data)
        names = {part.name for part in parts} - {merged.name}
        hashes = np.asarray(table.column(HASH))
        run = Run.of({merged.name: (hashes, np.arange(len(hashes), dtype=np.uint32))})
        with self._committing:
            self._own = _replaced(self._own, parts, merged, len(data))
            self._sums[merged.name] = sums_of(self.kind, table)
            others = (known.without({*names, merged.name}) for known in self._runs)
            self._set_runs([*(known for known in others if known.names), run])
            self._forget(lambda p: p.writer == merged.writer and p.clock <= merged.upto, map(int, hashes))
        self.storage.delete(sorted(names))

    def _forget(self, which: Callable[[Place], bool], hashes: Iterable[int]) -> None:
        """Let go of rows in memory that are found in a file."""
        with self._lock:
            for hash_ in hashes:
                rows = self._memory.get(hash_, {})
                for place in [place for place in rows if which(place)]:
                    del rows[place]
                if not rows:
                    self._memory.pop(hash_, None)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Meanwhile no thread of this process commits or merges."""
        with self._merging, self._committing:
            yield

    def compacted(self) -> None:
        """What this process has written was compacted: it has no files of its own any more."""
        self._own = []


def again_if_files_go(function: Callable[[], T]) -> T:
    """What a function finds that looks at what there is; where a file is gone when it comes to it, it looks again."""
    for _ in range(TRIES):
        try:
            return function()
        except Missing:
            continue
    return function()


def sums_of(kind: Kind, table: Any) -> list[Total]:
    """Sums over rows, by role, plug-in, model and status; nothing where rows are no calls."""
    if not _summed(kind):
        return []
    wanted = [("role", "count"), *((name, "sum") for name in SUMMED)]
    sums = table.group_by(list(BY)).aggregate(wanted)
    names = (*BY, "role_count", *(f"{name}_sum" for name in SUMMED))
    return [Total(*values) for values in zip(*(sums.column(name).to_pylist() for name in names), strict=True)]


def _total_of(entry: Entry) -> Total:
    return Total._make((*(entry.fields[name] for name in BY), 1, *(entry.fields[name] for name in SUMMED)))


def added(totals: Iterable[Total]) -> list[Total]:
    """Sums of sums, one for each role, plug-in, model and status."""
    sums: dict[tuple[Any, ...], list[Any]] = {}
    for total in totals:
        known = sums.setdefault(total[:4], [0, 0, 0, 0, 0.0, 0.0])
        for n, value in enumerate(total[4:]):
            known[n] += value
    return sorted(Total(*by, *values) for by, values in sums.items())


def _summed(kind: Kind) -> list[str]:
    return [*BY, *SUMMED] if set(SUMMED) <= set(kind.columns) else []


def _joined(parts: list[Part], manifest: Manifest) -> bool:
    """Whether each writer's parts follow each other without a gap, from its first or from what is compacted."""
    upto: dict[str, int] = {}
    for part in parts:
        if part.after > upto.get(part.writer, manifest.compacted.get(part.writer, 0)):
            return False
        upto[part.writer] = part.upto
    return True


class _Own(NamedTuple):
    """A file of this process: how often it was merged, and its bytes."""

    part: Part
    level: int
    size: int


def _replaced(own: list[_Own], parts: list[Part], merged: Part, size: int) -> list[_Own]:
    """A writer's files, with one in the place of several that follow each other."""
    first = next((n for n, one in enumerate(own) if one.part == parts[0]), None)
    if first is None:
        return own
    level = LEVELS if size >= LARGE_BYTES else own[first].level + 1
    return [*own[:first], _Own(merged, level, size), *own[first + len(parts) :]]


class _Cache:
    """What was used last. Any thread may use it.

    Args:
        size: things that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def peek(self, key: Any) -> Any:
        """The thing of a key, None if it is not kept."""
        with self._lock:
            return self._kept.get(key)

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The thing of a key, made if it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return made
