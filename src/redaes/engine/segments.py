"""Segments: the append-only text that a ledger can be rebuilt from, and the checksum that every row carries.

    segments/000001.jsonl, 000002.jsonl, ...    one JSON object a line, in order of commitment; a new file every 256 MiB

A line is an entry's fields as canonical JSON with the checksum of exactly that text as its last field. Lines are
written by whoever holds the database's write lock, at the place the database has noted, and are on the disk before the
database's own commit. So a line beyond that place is one of a process that died between the two.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from redaes.data.manifest import canonical_json

SEGMENT_BYTES = 256 * 2**20

_SEAL = b',"checksum":"%s"}\n'
_SEAL_BYTES = len(_SEAL % (b"0" * 16))

Fields = Mapping[str, Any]


class Position(NamedTuple):
    """A place in the segments."""

    segment: int
    offset: int


class Line(NamedTuple):
    """A whole line as it was read: its fields, or None if its checksum does not match, and where it ends."""

    fields: dict[str, Any] | None
    end: Position


def checksum(fields: Fields) -> str:
    """Sixteen hexadecimal digits of an entry.

    Raises:
        TypeError, ValueError: `fields` holds what JSON has no word for.
    """
    return _digest(canonical_json(fields).encode())


def seal(fields: Fields) -> tuple[bytes, str]:
    """An entry's line and its checksum."""
    body = canonical_json(fields).encode()
    digest = _digest(body)
    return body[:-1] + _SEAL % digest.encode(), digest


def unseal(line: bytes) -> dict[str, Any] | None:
    """The fields of a line; None if it is not exactly what was written.

    Example:
        >>> line, _ = seal({"key": "a"})
        >>> unseal(line), unseal(line.replace(b"a", b"b"))
        ({'key': 'a'}, None)
    """
    body, end = line[:-_SEAL_BYTES] + b"}", line[-_SEAL_BYTES:]
    if end != _SEAL % _digest(body).encode():
        return None
    fields: dict[str, Any] = json.loads(body)
    return fields


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def sync(path: Path | str) -> None:
    """Make a file's content durable, or a folder's own entries: files created in it and renamed into it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Segments:
    """The files of a folder. Nothing here locks; see above.

    Args:
        folder: where they are; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: tuple[int, int] | None = None

    def path(self, segment: int) -> Path:
        """The file of a segment, numbered from 1."""
        return self.folder / f"{segment:06d}.jsonl"

    def size(self, segment: int) -> int | None:
        """Bytes of a segment; None if there is none."""
        try:
            return self.path(segment).stat().st_size
        except FileNotFoundError:
            return None

    def last(self) -> int:
        """The highest number there is; 0 if there is none."""
        return max((int(path.stem) for path in self.folder.glob("[0-9]*.jsonl")), default=0)

    def append(self, position: Position, lines: bytes) -> Position:
        """Write lines durably.

        Args:
            position: after the last line that counts; what is behind it is a torn line and goes.
            lines: whole ones.

        Returns:
            The place after them.

        Raises:
            OSError: whole lines that were written all the same are taken in by the next writer.
        """
        if position.offset >= SEGMENT_BYTES:
            position = Position(position.segment + 1, 0)
        descriptor = self._descriptor(position.segment)
        if os.fstat(descriptor).st_size > position.offset:
            os.ftruncate(descriptor, position.offset)
        written = 0
        while written < len(lines):
            written += os.pwrite(descriptor, lines[written:], position.offset + written)
        os.fdatasync(descriptor)
        return Position(position.segment, position.offset + len(lines))

    def read(self, position: Position) -> Iterator[Line]:
        """Whole lines from a place to the end of the last segment; a torn last line of a segment is passed over."""
        last = self.last()
        for segment in range(position.segment, last + 1):
            offset = position.offset if segment == position.segment else 0
            if self.size(segment) is None:
                continue
            with self.path(segment).open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    yield Line(unseal(line), Position(segment, offset))

    def close(self) -> None:
        """Close the file that is written to."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _descriptor(self, segment: int) -> int:
        """The segment's file, open for writing; a new one's name is made durable."""
        if self._open is None or self._open[0] != segment:
            self.close()
            self._open = (segment, os.open(self.path(segment), os.O_RDWR | os.O_CREAT, 0o644))
            sync(self.folder)
        return self._open[1]
