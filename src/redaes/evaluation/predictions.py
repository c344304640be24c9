"""What scorers said of the images of benchmarks: kept for good, one row per image and scorer.

In: rows. Out: parquet files under `FOLDER/<benchmark>/<scorer's fingerprint>/part-*.parquet`, each written beside its
place and renamed into it, so that a part is there whole or not at all. Any number of processes may append at the same
time, and a process that is killed loses what it has not yet written: at most two parts, one gathered and one under way.
Where an image has two rows the later one holds. A row also keeps what tells its image file from others: an image that
has changed since, or that another set calls by the same name, is scored again.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from redaes.data.benchmarks import Item
from redaes.errors import UserError
from redaes.inference.asking import Status
from redaes.registry import optional

SETTLED: frozenset[Status] = frozenset({"ok", "unparsed"})
"""Of which another try would bring nothing new: the answer is there. The others are tried again in the next run."""

PART_ROWS = 128
PART_SECONDS = 30.0
DIGEST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What one scorer said of one image.

    Attributes:
        benchmark: name of the set.
        id: of the image, as the set names it.
        fingerprint: of the scorer.
        value: score in [0, 10]; None unless `status` is ok.
        std: over several samples, in points; None of a single one.
        reasoning: the scorer's words; empty if it gave none.
        text: its raw answer.
        status: ok; unparsed: an answer without a score; unreadable: no image to show; failed: the scorer broke on it.
        error: one line; empty where `status` is ok.
        seconds: the image's share of the time that scoring its batch took.
        size: of the image file, in bytes; -1 where there is none.
        at: when, in seconds since 1970.
        digest: of the image file, as of `file_digest`; empty where there is none.
    """

    benchmark: str
    id: str
    fingerprint: str
    value: float | None
    std: float | None
    reasoning: str
    text: str
    status: Status
    error: str
    seconds: float
    size: int
    at: float
    digest: str = ""


class Predictions:
    """All answers under one folder.

    Args:
        folder: is made when the first part is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def append(self, answers: Sequence[Answer]) -> None:
        """Write one part for each benchmark and scorer among the answers; durable when it returns.

        Raises:
            UserError: the folder cannot be written to.
        """
        parts: dict[Path, list[Answer]] = {}
        for answer in answers:
            parts.setdefault(self._place(answer.benchmark, answer.fingerprint), []).append(answer)
        for place, rows in parts.items():
            _write_part(place, rows)

    def answers(self, benchmark: str, fingerprint: str) -> dict[str, Answer]:
        """The answer that holds, by image.

        Raises:
            UserError: a part that is damaged; the message names it.
        """
        rows = [row for path in self._parts(benchmark, fingerprint) for row in _read_part(path)]
        rows.sort(key=lambda answer: answer.at)
        return {answer.id: answer for answer in rows}

    def done(self, benchmark: str, fingerprint: str) -> set[str]:
        """The images that need not be scored again."""
        return {name for name, answer in self.answers(benchmark, fingerprint).items() if answer.status in SETTLED}

    def missing(self, benchmark: str, fingerprint: str, items: Sequence[Item]) -> list[Item]:
        """The items that no settled answer is there for, or whose file is not the one that was scored."""
        there = self.answers(benchmark, fingerprint)
        return [item for item in items if not _settles(there.get(item.id), item)]

    def writer(self) -> "PartWriter":
        """Something to append to row by row."""
        return PartWriter(self)

    def _parts(self, benchmark: str, fingerprint: str) -> list[Path]:
        return sorted(self._place(benchmark, fingerprint).glob("part-*.parquet"))

    def _place(self, benchmark: str, fingerprint: str) -> Path:
        return self.folder / slug(benchmark) / slug(fingerprint)


class PartWriter(AbstractContextManager["PartWriter"]):
    """Gathers answers and writes them in parts: after `PART_ROWS` of them, after `PART_SECONDS`, and on closing.

    A thread writes, one part at a time, while the scorer looks at further images; what it cannot write is raised by
    the part after it, or on closing. Also on an error or an interruption what has been gathered is written.

    Args:
        predictions: where to.
    """

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._rows: list[Answer] = []
        self._since = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="part")
        self._writing: Future[None] | None = None

    def add(self, answers: Iterable[Answer]) -> None:
        """Take answers, and write a part if it is time."""
        self._rows += answers
        if len(self._rows) >= PART_ROWS or time.monotonic() - self._since >= PART_SECONDS:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._thread:
            self._write()
            self._wait()

    def _write(self) -> None:
        self._wait()
        rows, self._rows, self._since = self._rows, [], time.monotonic()
        if rows:
            self._writing = self._thread.submit(self._predictions.append, rows)

    def _wait(self) -> None:
        """Until the part before is written; raises what kept it from being written, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def file_size(path: Path) -> int:
    """In bytes; -1 where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def file_digest(path: Path) -> str:
    """Of the beginning, the middle and the end of a file, 4 KiB each [ours]: more would slow down every resumed run.

    Returns:
        16 hexadecimal digits; empty where there is no such file.
    """
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            for place in (0, size // 2, max(0, size - DIGEST_BYTES)):
                file.seek(place)
                found.update(file.read(DIGEST_BYTES))
    except OSError:
        return ""
    return found.hexdigest()[:16]


def is_about(answer: Answer | None, item: Item) -> bool:
    """Whether an answer was given to the image that is there now."""
    return answer is not None and answer.size == file_size(item.path) and answer.digest == file_digest(item.path)


def slug(name: str) -> str:
    """A name as part of a path: what a path cannot hold replaced, and then told apart by a few digits of its hash.

    Example:
        >>> slug("nano@0f3a"), slug("redaes:org/model")
        ('nano@0f3a', 'redaes-org-model-8406271d')
    """
    clean = re.sub(r"[^\w.@+=-]+", "-", name, flags=re.ASCII).strip(".-")[:80]
    return clean if clean == name and clean else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _settles(answer: Answer | None, item: Item) -> bool:
    return answer is not None and answer.status in SETTLED and is_about(answer, item)


def _write_part(place: Path, rows: Sequence[Answer]) -> None:
    pa, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    name = f"part-{time.time_ns():020d}-{os.getpid()}.parquet"
    temporary = place / f".{name}.tmp"
    schema = _schema(pa)
    table = pa.table({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            parquet.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place / name)
    except OSError as error:
        with suppress(OSError):  # as where a file stands in the folder's place
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {place / name}: {error.strerror or error}") from error


def _read_part(path: Path) -> Iterator[Answer]:
    pa, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    try:
        rows: list[Mapping[str, Any]] = parquet.read_table(path).to_pylist()
        yield from (Answer(**row) for row in rows)
    except (OSError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged ({error}); move it away and its images are scored again") from error


def _schema(pa: Any) -> Any:
    kinds = {
        "value": pa.float64(),
        "std": pa.float64(),
        "seconds": pa.float64(),
        "at": pa.float64(),
        "size": pa.int64(),
    }
    return pa.schema([(field.name, kinds.get(field.name, pa.string())) for field in fields(Answer)])
