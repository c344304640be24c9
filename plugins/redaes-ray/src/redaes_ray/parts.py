"""The parquet files of a log: what is in a row, how a file is named, and where a row is found.

Every row carries, beside the fields and the checksum of the core's ledger:

    hash    64 bits of what it is found by (a call's key, a result's source): the index is made of this column alone
    clock   of the commit, a Lamport clock: higher than that of every commit its writer had seen
    writer  that made the commit
    row     its place in the commit

(writer, clock, row) is a row's identity: however often files are merged, a row that stands in two of them is one row.
(clock, writer, row) is the rows' order. It is that of commitment wherever one writer knew of the other's commit.

A part is a file of one writer's commits. Its name tells which, as a half-open interval of the clock, so that the parts
of a writer tile its time:  WRITER-AFTER-UPTO.parquet  holds the commits of WRITER at AFTER < clock <= UPTO.

Source of the clock: Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", CACM 21(7), 1978.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from redaes.engine.database import CALL_COLUMNS, Entry, key_hash, matches

HASH, CLOCK, WRITER, ROW, CHECKSUM = "hash", "clock", "writer", "row", "checksum"

_TYPES = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
_FLEETING: dict[str, Any] = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}
_ALL_DIFFERENT = ("key", "replies", "result", "text", CHECKSUM, HASH)
_NAME = re.compile(r"(?P<writer>[\w.]+)-(?P<after>\d+)-(?P<upto>\d+)\.parquet")


class Place(NamedTuple):
    """The identity of a row; as a tuple, its order."""

    clock: int
    writer: str
    row: int


@dataclass(frozen=True)
class Kind:
    """What a log keeps.

    Attributes:
        name: `call` or `result`, as in the entries.
        columns: the fields of an entry and their types.
        key: the field that rows are found by.
        group_rows: rows of a row group: what is read to have one row.
        latest: of the rows of one key only the latest counts.
    """

    name: str
    columns: Mapping[str, Any]
    key: str
    group_rows: int
    latest: bool

    @property
    def schema(self) -> Any:
        """The files' schema."""
        order = [(HASH, pa.int64()), (CLOCK, pa.int64()), (WRITER, pa.string()), (ROW, pa.int32())]
        return pa.schema([*order, *self.columns.items(), (CHECKSUM, pa.string())])


CALLS = Kind(
    "call", {name: _TYPES[kind.split()[0]] for name, kind in CALL_COLUMNS.items()}, "key", group_rows=256, latest=False
)
RESULTS = Kind("result", dict.fromkeys(("build", "source", "text"), pa.string()), "source", group_rows=32, latest=True)


class Part(NamedTuple):
    """The file of one writer's commits at `after` < clock <= `upto`; `name` is the file's, below the storage's root."""

    name: str
    writer: str
    after: int
    upto: int

    @classmethod
    def at(cls, folder: str, writer: str, after: int, upto: int) -> "Part":
        """The part of an interval in a folder."""
        return cls(f"{folder}/{writer}-{after:012d}-{upto:012d}.parquet", writer, after, upto)

    @classmethod
    def parse(cls, name: str) -> "Part | None":
        """The part of a file's name; None if it is no part's."""
        found = _NAME.fullmatch(PurePosixPath(name).name)
        return cls(name, found["writer"], int(found["after"]), int(found["upto"])) if found else None


def outermost(parts: Iterable[Part]) -> list[Part]:
    """Parts without those whose interval lies in another's of the same writer: what a merge has made superfluous.

    Returns:
        The others, by writer and time.
    """
    kept: list[Part] = []
    for part in sorted(parts, key=lambda p: (p.writer, p.after, -p.upto, p.name)):
        if not (kept and kept[-1].writer == part.writer and part.upto <= kept[-1].upto):
            kept.append(part)
    return kept


def table_of(kind: Kind, entries: Sequence[Entry], writer: str, clock: int) -> Any:
    """The rows of one commit."""
    columns: dict[str, Any] = {
        HASH: [key_hash(entry.fields[kind.key]) for entry in entries],
        CLOCK: [clock] * len(entries),
        WRITER: [writer] * len(entries),
        ROW: range(len(entries)),
        **{name: [entry.fields[name] for entry in entries] for name in kind.columns},
        CHECKSUM: [entry.checksum for entry in entries],
    }
    schema = kind.schema
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def to_parquet(kind: Kind, table: Any, lasting: bool = True) -> bytes:
    """A file of rows.

    Args:
        kind: of the rows.
        table: they.
        lasting: False for a file that will soon be merged with others: it is made in half the time.
    """
    sink = pa.BufferOutputStream()
    dictionary = [name for name in table.column_names if name not in _ALL_DIFFERENT]
    how = {"compression": "zstd", "use_dictionary": dictionary} if lasting else _FLEETING
    pq.write_table(table, sink, row_group_size=kind.group_rows, **how)
    return bytes(sink.getvalue())


def parquet_of(kind: Kind, source: Any, metadata: Any = None) -> Any:
    """A file, opened.

    Raises:
        ValueError: it has other columns than a log's.
        OSError, pyarrow.ArrowException: it is damaged, or no parquet.
    """
    file = pq.ParquetFile(source, metadata=metadata)
    if not file.schema_arrow.equals(kind.schema):
        raise ValueError("it has not the columns of this ledger's files")
    return file


def entry_of(kind: Kind, table: Any, row: int) -> tuple[Place, dict[str, Any]] | None:
    """A row of a table; None if it does not match its checksum."""
    values = {name: table.column(name)[row].as_py() for name in table.column_names}
    fields = {"kind": kind.name, **{name: values[name] for name in kind.columns}}
    if not matches(fields, values[CHECKSUM]):
        return None
    return Place(values[CLOCK], values[WRITER], values[ROW]), fields


@dataclass(frozen=True)
class Run:
    """An index of files: where the rows of a hash are. Its arrays are pickled without a copy.

    Attributes:
        hashes: (R,) int64, sorted.
        files: (R,) uint32, positions in `names`.
        rows: (R,) uint32, positions in the file.
        names: of the files.
    """

    hashes: NDArray[np.int64]
    files: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, files: Mapping[str, tuple[NDArray[np.int64], NDArray[np.uint32]]]) -> "Run":
        """The index of some files: by name, the hashes of the rows and their positions, (R_i,) each."""
        numbers = [np.full(len(hashes), n, np.uint32) for n, (hashes, _) in enumerate(files.values())]
        return cls._sorted(
            np.concatenate([np.empty(0, np.int64), *(hashes for hashes, _ in files.values())]),
            np.concatenate([np.empty(0, np.uint32), *numbers]),
            np.concatenate([np.empty(0, np.uint32), *(rows for _, rows in files.values())]),
            tuple(files),
        )

    @classmethod
    def _sorted(
        cls, hashes: NDArray[np.int64], files: NDArray[np.uint32], rows: NDArray[np.uint32], names: tuple[str, ...]
    ) -> "Run":
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], files[order], rows[order], names)

    @classmethod
    def joined(cls, runs: Sequence["Run"]) -> "Run":
        """One index of all the files of several."""
        if len(runs) == 1:
            return runs[0]
        starts = np.cumsum([0, *(len(run.names) for run in runs)])
        return cls._sorted(
            np.concatenate([np.empty(0, np.int64), *(run.hashes for run in runs)]),
            np.concatenate(
                [np.empty(0, np.uint32), *(r.files + np.uint32(s) for r, s in zip(runs, starts[:-1], strict=True))]
            ),
            np.concatenate([np.empty(0, np.uint32), *(run.rows for run in runs)]),
            tuple(name for run in runs for name in run.names),
        )

    def without(self, names: "set[str]") -> "Run":
        """The index of the other files."""
        if names.isdisjoint(self.names):
            return self
        kept = [n for n, name in enumerate(self.names) if name not in names]
        renumbered = np.zeros(len(self.names), np.uint32)
        renumbered[kept] = np.arange(len(kept), dtype=np.uint32)
        mask = np.isin(self.files, np.array(kept, np.uint32))
        names_kept = tuple(self.names[n] for n in kept)
        return Run(self.hashes[mask], renumbered[self.files[mask]], self.rows[mask], names_kept)

    def places(self, hash_: int) -> list[tuple[str, int]]:
        """File and position of each row of a hash."""
        first = int(self.hashes.searchsorted(hash_))
        places = []
        while first < len(self.hashes) and self.hashes[first] == hash_:
            places.append((self.names[self.files[first]], int(self.rows[first])))
            first += 1
        return places
