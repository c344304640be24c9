"""What the loaders of all benchmarks share: reading lists of scores, finding images, and accounting for every row.

A row of a list ends up in exactly one place: among the items, or in `left_out` under the reason. Images that no list
mentions are added there too, under a reason of their own; they are no rows.
"""

import csv
import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from redaes.data.benchmarks import About, Benchmark, Item
from redaes.data.images import IMAGE_SUFFIXES
from redaes.errors import UserError

NO_IMAGE = "image file missing"
NO_ROW = "image without a row"
NO_ANNOTATION = "listed without an annotation"
DUPLICATE = "duplicated id"
NOT_A_NUMBER = "score is not a number"
OUTSIDE = "score outside the range"
WRONG_COLUMNS = "wrong columns"
ENCODING = "unreadable encoding"
KNOWN_MISSING = "known to be missing everywhere"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a list that can be used, its image not yet looked for."""

    id: str
    mos: float
    votes: tuple[int, ...] = ()
    group: str = ""
    extra: Mapping[str, str | float] = field(default_factory=dict)


class Rows:
    """The rows of a split, by id, and what was left out of them.

    Args:
        low: lowest possible score.
        high: highest possible score.
    """

    def __init__(self, low: float = -math.inf, high: float = math.inf) -> None:
        self.low, self.high = low, high
        self.rows: dict[str, Row] = {}
        self.left_out: dict[str, list[str]] = {}
        self.n_listed = 0

    def leave_out(self, reason: str, id: str) -> None:
        """Count a row that cannot be used."""
        self.n_listed += 1
        self.left_out.setdefault(reason, []).append(id)

    @property
    def why(self) -> dict[str, str]:
        """The reason by id of what was left out."""
        return {id: reason for reason, ids in self.left_out.items() for id in ids}

    def add(self, id: str, score: str | float, **facts: Any) -> None:
        """Take a row, or leave it out with the reason; of a repeated id the first row counts."""
        try:
            mos = float(score)
        except (TypeError, ValueError):
            mos = math.nan
        if not math.isfinite(mos):
            self.leave_out(NOT_A_NUMBER, id)
        elif not self.low - 1e-6 <= mos <= self.high + 1e-6:
            self.leave_out(OUTSIDE, id)
        elif id in self.rows:
            self.leave_out(DUPLICATE, id)
        else:
            self.n_listed += 1
            self.rows[id] = Row(id, mos, **facts)


def read_lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Number and text of every line that is not blank; None for one that is not UTF-8.

    Byte order marks of UTF-8 and UTF-16 are understood, and all three line ends.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", errors="replace").encode()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text: str | None = line.decode("utf-8").strip("\0")
        except UnicodeDecodeError:
            text = None
        if text is None or text.strip():
            yield number, text


def read_table(path: Path, needed: Sequence[str], rows: Rows, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Rows of a delimited file with a header, stray blanks around names and values removed.

    Lines that cannot be decoded or have another number of columns than the header are left out of `rows`.

    Raises:
        UserError: empty, or the header lacks a needed column.
    """
    lines = read_lines(path)
    header = next((_cells(text, delimiter) for _, text in lines if text is not None), [])
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(header) or 'none'}")
    for number, text in lines:
        cells = None if text is None else _cells(text, delimiter)
        if cells is None:
            rows.leave_out(ENCODING, f"{path.name}:{number}")
        elif len(cells) != len(header):
            rows.leave_out(WRONG_COLUMNS, f"{path.name}:{number}")
        else:
            yield dict(zip(header, cells, strict=True))


def _cells(text: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))]


def read_pairs(path: Path, rows: Rows) -> Iterator[tuple[str, str]]:
    """`name value` lines without a header, with possible leading blanks."""
    for number, text in read_lines(path):
        cells = None if text is None else text.strip().rsplit(maxsplit=1)
        if cells is None:
            rows.leave_out(ENCODING, f"{path.name}:{number}")
        elif len(cells) != 2:
            rows.leave_out(WRONG_COLUMNS, f"{path.name}:{number}")
        else:
            yield cells[0], cells[1]


def read_list(path: Path, rows: Rows) -> Iterator[tuple[str, Any]]:
    """A list of names that somebody keeps: JSON `[{"image": ..., "gt_score": ...}]`, JSON names, or a name a line.

    Yields:
        The name, and its score or None.
    """
    if path.suffix.lower() != ".json":
        for number, text in read_lines(path):
            if text is None:
                rows.leave_out(ENCODING, f"{path.name}:{number}")
            else:
                yield text.strip(), None
        return
    try:
        entries = json.loads("\n".join(text or "" for _, text in read_lines(path)))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise UserError(f'{path} is not a list; expected [{{"image": NAME, "gt_score": NUMBER}}, ...]')
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, str):
            yield entry, None
        elif isinstance(entry, dict) and isinstance(entry.get("image"), str):
            yield entry["image"], entry.get("gt_score", math.nan)
        else:
            rows.leave_out(WRONG_COLUMNS, f"{path.name}:{number}")


def bases(root: Path) -> list[Path]:
    """The root, and the folders in it: downloads nest themselves in a folder of their own name.

    Raises:
        UserError: the root is no folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the download")
    return [root, *sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir())]


def find_file(root: Path, *names: str) -> Path | None:
    """The first of the relative paths that is a file below the root or a folder in it."""
    return next((base / name for base in bases(root) for name in names if (base / name).is_file()), None)


def describe_list(path: Path, n: int) -> str:
    """What tells two people whether they measured on the same list: its name, rows and checksum."""
    return f"list: {path.name}, {n} rows, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def images_without_row(folders: Iterable[Path], known: Iterable[Path]) -> list[str]:
    """Image files in the folders that are not among `known`."""
    mentioned = set(known)
    return sorted(
        f"{folder.name}/{entry.name}"
        for folder in sorted(set(folders))
        for entry in os.scandir(folder)
        if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and folder / entry.name not in mentioned
    )


def shorter(name: str) -> list[str]:
    """A relative name and what is left as leading folders are taken off, never leaving the folder it is sought in.

    Example:
        >>> shorter("PARA/imgs/session1/a.jpg")
        ['PARA/imgs/session1/a.jpg', 'imgs/session1/a.jpg', 'session1/a.jpg', 'a.jpg']
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


class OfficialSet(ABC):
    """A benchmark as its authors distribute it.

    Args:
        root: folder of the download, or the one it is nested in.
        list_file: a list in place of the official split: JSON `[{"image", "gt_score"}]` with scores, taken as given,
            or names alone (JSON or one a line), whose scores are the set's own. Empty: the official split.
        images: folder of the images, where it is not under the root.
    """

    about: ClassVar[About]
    name: ClassVar[str]
    split: ClassVar[str]
    expected: ClassVar[int | None] = None
    folders: ClassVar[tuple[str, ...]]
    native_range: tuple[float, float]

    def __init__(self, root: str, list_file: str = "", images: str = "") -> None:
        self.root = Path(root)
        self.list_file = list_file
        self.images = images
        self.notes: list[str] = []

    @abstractmethod
    def official(self) -> tuple[Rows, Path]:
        """The rows of the official split, and the file that lists them."""

    def annotated(self) -> Rows:
        """Every row with a score of the set, for lists that give names alone."""
        return self.official()[0]

    def mentioned(self) -> set[str] | None:
        """Names of all images that any list of the set has a row for; None where the lists are not all there."""
        return None

    def file_names(self, row: Row) -> list[str]:
        """What the image may be called below the folder of images."""
        return shorter(row.id)

    def key(self, path: Path) -> str:
        """How `mentioned` names an image file."""
        return path.name

    def load(self) -> Benchmark:
        """See `BenchmarkProtocol.load`."""
        self.notes = []
        split = self.split
        if self.list_file:
            rows, path = self._listed(Path(self.list_file)), Path(self.list_file)
            split = f"{path.name} (not the official split)"
        else:
            rows, path = self.official()
        self.notes.append(describe_list(path, rows.n_listed))
        self._check_count(rows, path)
        items = self._with_images(rows)
        mentioned = None if self.list_file else self.mentioned()
        if mentioned is not None:
            folders = {item.path.parent for item in items}
            files = (folder / entry.name for folder in folders for entry in os.scandir(folder))
            unlisted = images_without_row(folders, (file for file in files if self.key(file) in mentioned))
            if unlisted:
                rows.left_out[NO_ROW] = unlisted
        return Benchmark(
            self.name, split, self.native_range, items, rows.n_listed, rows.left_out, list(dict.fromkeys(self.notes))
        )

    def say_if_it_leaks(self, test: Iterable[str], train: Iterable[str], file: str) -> None:
        """Note images of the test list that a training list has too."""
        shared = set(test).intersection(train)
        if shared:
            self.notes.append(f"{len(shared)} images are in {file} too, first {min(shared)}")

    def _check_count(self, rows: Rows, path: Path) -> None:
        if not rows.rows:
            raise UserError(f"{path} has no usable row of {rows.n_listed}: {counted(rows.left_out)}")
        if self.expected is None or rows.n_listed == self.expected:
            return
        if rows.n_listed > self.expected and not self.list_file:
            raise UserError(
                f"{path} is not the official test list of {self.about.title}: {rows.n_listed} rows, expected "
                f"{self.expected}; is it the training list?"
            )
        what = "a subset" if rows.n_listed < self.expected else "another list"
        self.notes.append(f"{path.name} has {rows.n_listed} rows, the official test split {self.expected}: {what}")

    def _listed(self, path: Path) -> Rows:
        rows, annotated = Rows(*self.native_range), Rows()
        for name, score in read_list(path, rows):
            if score is not None:
                rows.add(name, score)
                continue
            annotated = annotated if annotated.n_listed else self.annotated()
            names = [*shorter(name), Path(name).stem]
            row = next((annotated.rows[n] for n in names if n in annotated.rows), None)
            if row is None:
                rows.leave_out(next((annotated.why[n] for n in names if n in annotated.why), NO_ANNOTATION), name)
            else:
                rows.add(row.id, row.mos, votes=row.votes, group=row.group, extra=row.extra)
        return rows

    def _image_folders(self) -> list[Path]:
        if self.images:
            found = [Path(self.images)]
        else:
            found = [base / name for base in bases(self.root) for name in (*self.folders, "")]
        return [folder for folder in dict.fromkeys(found) if folder.is_dir()]

    def _with_images(self, rows: Rows) -> list[Item]:
        folders, items = self._image_folders(), []
        for row in rows.rows.values():
            files = (folder / name for folder in folders for name in self.file_names(row))
            path = next((file for file in files if file.is_file()), None)
            if path is None:
                rows.left_out.setdefault(self.missing_reason(row.id), []).append(row.id)
                continue
            items.append(Item(row.id, path, row.mos, row.votes, row.group, row.extra))
            # Most images lie where the one before did.
            home = next(folder for folder in folders if path.is_relative_to(folder))
            folders.remove(home)
            folders.insert(0, home)
        if not items:
            raise UserError(
                f"none of the {len(rows.rows)} images of {self.about.title} is under {self.images or self.root}; "
                f"expected {self.about.layout}"
            )
        return items

    def missing_reason(self, id: str) -> str:
        """Why a listed image is not there."""
        return NO_IMAGE

    def need(self, *names: str) -> Path:
        """A file of the download.

        Raises:
            UserError: it is not there.
        """
        path = find_file(self.root, *names)
        if path is None:
            raise UserError(f"no {names[0]} under {self.root}; {self.about.title} holds {self.about.layout}")
        return path


def counted(left_out: Mapping[str, Sequence[str]]) -> str:
    """Reasons with their counts, in one line.

    Example:
        >>> counted({"duplicated id": ["a", "b"]})
        '2 duplicated id'
    """
    return ", ".join(f"{len(ids)} {reason}" for reason, ids in left_out.items()) or "the file is empty"
