"""What the sources of files share: a compact list of photographs, an account of what is left out, and opening by bytes.

A source of this kind says how to find the bytes of a photograph; decoding them, with its cap on pixels, is done here.
"""

import csv
import logging
import os
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, overload

from redaes.data.images import decode
from redaes.errors import UserError
from redaes.sources import Photograph

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

log = logging.getLogger(__name__)

NAMED_IN_LOG = 3
"""Names the log gives of each reason; the report names all."""


class Photographs(Sequence[Photograph]):
    """An immutable sequence of photographs that takes some twelve bytes each beside their names.

    Args:
        photographs: what it holds, in order.

    Example:
        >>> Photographs([Photograph("a.jpg", "CC0"), Photograph("b.jpg", "CC0")])[1].name
        'b.jpg'
    """

    def __init__(self, photographs: Iterable[Photograph]) -> None:
        self._names = bytearray()
        self._ends = array("Q")
        self._codes = array("I")
        codes: dict[str, int] = {}
        for name, license in photographs:
            self._names += name.encode()
            self._ends.append(len(self._names))
            self._codes.append(codes.setdefault(license, len(codes)))
        self._licenses = list(codes)
        self._order: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Photograph: ...
    @overload
    def __getitem__(self, index: slice) -> "Photographs": ...
    def __getitem__(self, index: "int | slice") -> "Photograph | Photographs":
        if isinstance(index, slice):
            return Photographs(self[i] for i in range(*index.indices(len(self))))
        end = self._ends[index]  # raises IndexError, so that iteration ends
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return Photograph(self._names[start:end].decode(), self._licenses[self._codes[index]])

    def positions(self, names: Sequence[str]) -> list[int]:
        """Where names first stand, -1 where they do not. The first call sorts hashes: 16 bytes a photograph."""
        import numpy as np

        hashes, order = self._sorted_hashes()
        wanted = np.fromiter((hash(name) for name in names), np.int64, len(names))
        starts = np.searchsorted(hashes, wanted, "left").tolist()
        ends = np.searchsorted(hashes, wanted, "right").tolist()
        return [
            next((i for i in order[start:end].tolist() if self[i].name == name), -1)
            for name, start, end in zip(names, starts, ends, strict=True)
        ]

    def repeats(self) -> set[int]:
        """Positions of names that stand before already."""
        import numpy as np

        hashes, order = self._sorted_hashes()
        suspects = [self[i].name for i in order[1:][np.diff(hashes) == 0].tolist()]
        firsts = dict(zip(suspects, self.positions(suspects), strict=True))
        return {i for i, p in enumerate(self) if firsts.get(p.name, i) != i} if firsts else set()

    def _sorted_hashes(self) -> "tuple[np.ndarray, np.ndarray]":
        """Hashes of the names, ascending, and the positions they belong to, ascending where hashes are equal."""
        import numpy as np

        if self._order is None:
            hashes = np.fromiter((hash(photograph.name) for photograph in self), np.int64, len(self))
            order = np.argsort(hashes, kind="stable")
            self._order = hashes[order], order
        return self._order


class LeftOut(AbstractContextManager["LeftOut"]):
    """Counts what a source leaves out, says it in the log, and names each in a CSV file if one is asked for.

    Args:
        what: of what it is left out, for the log.
        report: the file, with columns name, reason, detail; empty: none.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, what: str, report: str | Path = "") -> None:
        self.what = what
        self.report = Path(report) if report else None
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._file: IO[str] | None = None

    def add(self, name: str, reason: str, detail: str = "") -> None:
        """Leave one out."""
        self.counts[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < NAMED_IN_LOG:
            examples.append(f"{printable(name)} ({printable(detail)})" if detail else printable(name))
        if self._file is not None:
            csv.writer(self._file).writerow([_utf8(name), reason, _utf8(detail)])

    def __enter__(self) -> Self:
        if self.report is not None:
            try:
                self.report.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.report.open("w", encoding="utf-8", newline="")
            except OSError as error:
                raise UserError(f"cannot write {self.report}: {error.strerror or error}") from error
            csv.writer(self._file).writerow(["name", "reason", "detail"])
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
        for reason, count in sorted(self.counts.items()):
            examples = ", ".join(self._examples[reason]) + (", ..." if count > NAMED_IN_LOG else "")
            log.warning("%s: %d left out, %s: %s", self.what, count, reason, examples)
        if self.counts and self.report is not None:
            log.warning("%s: each one left out is named in %s", self.what, self.report)


class EncodedPhotos(ABC):
    """A source whose photographs are encoded images somewhere, found by name.

    Attributes:
        left_out: after `photographs`, how many were left out, by reason.
    """

    left_out: Mapping[str, int] = {}

    @abstractmethod
    def photographs(self) -> Sequence[Photograph]:
        """All photographs, in a stable order, each name once."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The encoded image.

        Raises:
            ImageError: there is none, or it cannot be read.
        """

    @abstractmethod
    def stamp(self, name: str) -> str:
        """Changes when the image may have changed."""

    def open(self, name: str) -> "Image":
        """The photograph as an upright RGB image.

        Raises:
            ImageError: it is missing, is no image, is damaged, or has more pixels than the cap allows.
        """
        return decode(self.read(name), name)


def _utf8(text: str) -> str:
    """Text that any file can hold: names of files may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Foreign text on one line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in _utf8(text)).split())


def is_utf8(name: str) -> bool:
    """Whether a record can hold a name."""
    return _utf8(name) == name


def shards_of(root: str, suffix: str) -> dict[str, Path]:
    """The shards that `root` means, itself or those under a folder, by their paths relative to the folder, sorted.

    Raises:
        UserError: no such file or folder, none of this kind in it, or one whose name is not UTF-8.
    """
    path = Path(root)
    if not path.exists():
        raise UserError(f"no such file or folder: {root}; give the folder that holds the {suffix} files")
    folder = path if path.is_dir() else path.parent
    files = sorted(p for p in path.rglob(f"*{suffix}") if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"no {suffix} file in {root}")
    shards = {file.relative_to(folder).as_posix(): file for file in files}
    for name in shards:
        if not is_utf8(name):
            raise UserError(f"the name of {_utf8(name)} in {root} is not UTF-8; rename it")
    return shards


def inside(root: Path, name: str) -> Path:
    """The path of a name under a folder; a link inside the folder may lead anywhere, a name may not.

    Raises:
        UserError: a name that leads out of the folder.
    """
    path = Path(os.path.normpath(root / name))
    if not path.is_relative_to(os.path.normpath(root)):
        raise UserError(f"photograph {name!r} lies outside {root}")
    return path


def stamp_of(path: Path) -> str:
    """Size and time of a file; empty where it is gone, which is no file's."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"
