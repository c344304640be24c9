"""What must be known of photographs to choose among them: size, exact hash, perceptual hash; found once, then kept.

The facts lie in a SQLite file that grows as they are found: an examination that is interrupted goes on where it was,
and a photograph whose file has changed is examined again. A finished list can be written as CSV or parquet and given
to `filtered` as what must not be among its photographs, such as the images of benchmarks.
"""

import csv
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from redaes.data.images import ImageError, decode, image_size
from redaes.errors import UserError
from redaes.registry import optional
from redaes.sources import PhotoSource

if TYPE_CHECKING:
    from PIL.Image import Image

HASH_SIDE = 256
"""The longer side at which images are opened to be hashed: plenty for the 32 x 32 that pHash looks at [ours]."""

AT_ONCE = 256
"""Photographs between two commits."""

TOLD_EVERY = 30.0
"""Seconds between two lines of the log on how far a long examination is."""

log = logging.getLogger(__name__)

COLUMNS = ("name", "sha256", "phash", "width", "height", "error")


class Facts(NamedTuple):
    """What is known of one photograph.

    Attributes:
        name: of the photograph.
        stamp: of its file, when it was examined.
        sha256: of the encoded bytes, in hexadecimal; of size and pixels where the source has no encoded bytes.
        phash: the 64 bits of pHash, as 16 hexadecimal digits.
        width: in pixels.
        height: in pixels.
        error: why it cannot be read; then the rest is empty.
    """

    name: str
    stamp: str
    sha256: str
    phash: str
    width: int
    height: int
    error: str


def perceptual_hash(image: "Image") -> str:
    """pHash of 64 bits: the signs, about their median, of the 8 x 8 lowest frequencies of a cosine transform.

    Args:
        image: RGB.

    Returns:
        16 hexadecimal digits.

    Source:
        `imagehash.phash`; Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".
    """
    return str(optional("imagehash").phash(image))


def examine(source: PhotoSource, name: str, stamp: str) -> Facts:
    """The facts of one photograph; that it cannot be read is one of them."""
    read = getattr(source, "read", None)
    try:
        if read is None:
            image = source.open(name)
            width, height = image.size
            sha = hashlib.sha256(f"{width} {height} ".encode() + image.tobytes()).hexdigest()
            image = image.copy()
            image.thumbnail((HASH_SIDE, HASH_SIDE), reducing_gap=2.0)
        else:
            data = read(name)
            width, height = image_size(data, name)
            sha = hashlib.sha256(data).hexdigest()
            image = decode(data, name, max_side=HASH_SIDE)
    except ImageError as error:
        return Facts(name, stamp, "", "", 0, 0, error.reason)
    return Facts(name, stamp, sha, perceptual_hash(image), width, height, "")


class FactsFile(AbstractContextManager["FactsFile"]):
    """Facts by name in a SQLite file.

    Args:
        path: the file; made if it is not there.

    Raises:
        UserError: it cannot be opened or written, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT, phash TEXT, "
                "width INTEGER, height INTEGER, error TEXT) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"cannot keep facts of photographs in {path}: {error}; delete it or name another"
            ) from error

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def find(self, names: Sequence[str]) -> dict[str, Facts]:
        """The facts of those names that are known."""
        marks = ", ".join("?" * len(names))
        try:
            rows = self._database.execute(f"SELECT * FROM facts WHERE name IN ({marks})", names).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"cannot read facts of photographs in {self.path}: {error}; delete it") from error
        return {row[0]: Facts(*row) for row in rows}

    def put(self, facts: Iterable[Facts]) -> None:
        """Keep facts, in place of older ones; they are on disk when this returns."""
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?, ?, ?)", facts)
        except sqlite3.Error as error:
            raise UserError(f"cannot keep facts of photographs in {self.path}: {error}") from error

    def examine(
        self, source: PhotoSource, names: Iterable[str], workers: int | None = None, prefix: str = ""
    ) -> Iterator[Facts]:
        """The facts of photographs, in order; those not yet known, or of a changed file, are found and kept.

        Args:
            source: whose photographs they are.
            names: which.
            workers: threads; None: one per core. Decoding and hashing leave Python's lock alone.
            prefix: goes before the names under which the facts are kept, where one file serves several sources.
        """
        stamp_of = getattr(source, "stamp", lambda name: "")
        remaining = iter(names)
        done, told = 0, time.monotonic()
        with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            while chunk := list(islice(remaining, AT_ONCE)):
                known = self.find([prefix + name for name in chunk])
                stamps = {name: stamp_of(name) for name in chunk}
                stale = [n for n in chunk if prefix + n not in known or known[prefix + n].stamp != stamps[n]]
                found = pool.map(partial(examine, source), stale, [stamps[name] for name in stale])
                fresh = {f.name: f._replace(name=prefix + f.name) for f in found}
                if fresh:
                    self.put(fresh.values())
                done += len(chunk)
                if time.monotonic() - told > TOLD_EVERY:
                    log.warning("examined %d photographs; what is known of them is kept in %s", done, self.path)
                    told = time.monotonic()
                yield from (fresh.get(name) or known[prefix + name] for name in chunk)


def write_list(path: Path, facts: Iterable[Facts]) -> None:
    """Write a list of facts whole or not at all, as CSV or, by the file's ending, parquet.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        (_write_parquet if path.suffix == ".parquet" else _write_csv)(temporary, facts)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(path: Path, facts: Iterable[Facts]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(f, column) for column in COLUMNS] for f in facts)
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(path: Path, facts: Iterable[Facts]) -> None:
    pa, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    schema = pa.schema([(c, pa.int64() if c in ("width", "height") else pa.string()) for c in COLUMNS])
    remaining = iter(facts)
    with parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(remaining, 10_000)):
            writer.write_table(pa.Table.from_pylist([{c: getattr(f, c) for c in COLUMNS} for f in chunk], schema))


def read_list(path: Path) -> Iterator[Facts]:
    """Read a list written by `write_list`, or any CSV or parquet file with at least the columns name and phash.

    Raises:
        UserError: the file is missing, lacks a column, or holds a hash that is none.
    """
    number = 1
    try:
        for row in _rows_of(path):
            number += 1
            if None in (row.get("name"), row.get("phash")):
                raise ValueError("columns name and phash are needed")
            phash, sha = row["phash"], row.get("sha256") or ""
            if (phash and len(phash) != 16) or (sha and len(sha) != 64):
                raise ValueError(f"{phash or sha!r} is no hash")
            int(phash or "0", 16), int(sha or "0", 16)
            if phash:  # the list names unreadable files too
                yield Facts(row["name"], "", sha, phash, 0, 0, "")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}:{number} is no list of hashes as `redaes data hash` writes it ({str(error).splitlines()[0]})"
        ) from error


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        for batch in optional("pyarrow.parquet").ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
