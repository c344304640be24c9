"""Photographs in parquet shards, as Hugging Face datasets write them: a column of bytes, or of {bytes, path}."""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from redaes.data.images import ImageError, read_image_file
from redaes.errors import UserError, nearest
from redaes.registry import optional
from redaes.sources import Photograph
from redaes.sources.listing import EncodedPhotos, LeftOut, Photographs, inside, shards_of, stamp_of

BATCH_ROWS = 16
"""Rows decoded at once. Beside them one page is in memory, which a careless writer makes as large as a row group."""

BATCHES_KEPT = 4
"""Batches kept of each open shard, for threads that ask for neighbouring rows out of order."""

SHARDS_OPEN = 8


class ParquetPhotos(EncodedPhotos):
    """Photographs of parquet shards. No shard is read whole, and rows that are asked for in order are read once.

    Args:
        root: a shard, or a folder that is searched recursively for `*.parquet`.
        image: the column of the images: bytes, or a struct with `bytes` and perhaps `path`, the path of a file under
            the root for rows without bytes.
        id: a column that names the photographs, whatever shard they are in; empty: a photograph is called by its
            shard and row, such as `train-00000.parquet/12`.
        license_column: a column with the licence of each.
        license: the licence of photographs without one of their own.
        report: a CSV file to name in what was left out and why; empty: the log names some.

    Raises:
        UserError: no such shards, or pyarrow is not installed.
    """

    def __init__(
        self,
        root: str,
        image: str = "image",
        id: str = "",
        license_column: str = "",
        license: str = "not stated",
        report: str = "",
    ) -> None:
        optional("pyarrow.parquet")
        self.root = Path(root)
        self.image = image
        self.id = id
        self.license_column = license_column
        self.license = license
        self.report = report
        self._shards = shards_of(root, ".parquet")
        self._paths = list(self._shards.values())
        self._folder = self.root if self.root.is_dir() else self.root.parent
        self._listed: tuple[Photographs, array[int]] | None = None
        self._lock = Lock()
        self._shard = lru_cache(SHARDS_OPEN)(self._open_shard)

    def photographs(self) -> Photographs:
        """Shard by shard in sorted order, row by row. Only the id and licence columns are read.

        Raises:
            UserError: a shard that is no parquet file or lacks a column; no photograph at all.
        """
        with LeftOut(str(self.root), self.report) as left_out:
            self._listed = self._list(left_out)
        self.left_out = left_out.counts
        if not self._listed[0]:
            raise UserError(f"no photograph in the parquet files of {self.root}")
        return self._listed[0]

    def _list(self, left_out: LeftOut) -> "tuple[Photographs, array[int]]":
        """The photographs, and shard and row of each as one number."""
        places = array("Q")
        listed = Photographs(self._rows(places, left_out))
        return _without_repeats(listed, places, left_out) if self.id else (listed, places)

    def _rows(self, places: "array[int]", left_out: LeftOut) -> Iterator[Photograph]:
        """Every row that has a name; its place is appended to `places`."""
        for number, (relative, path) in enumerate(self._shards.items()):
            for row, values in enumerate(self._open_shard(path).columns(self._others())):
                name = str(values[self.id]) if self.id and values[self.id] is not None else ""
                if self.id and not name:
                    left_out.add(f"{relative}/{row}", "no name", f"column {self.id!r} is empty")
                    continue
                places.append(number << 32 | row)
                own = values[self.license_column] if self.license_column else None
                yield Photograph(name or f"{relative}/{row}", str(own) if own else self.license)

    def _place(self, name: str) -> tuple[Path, int]:
        """Shard and row of a photograph."""
        if self.id:
            with self._lock:
                self._listed = self._listed or self._list(LeftOut(""))  # a worker's own list; the plan has reported
                listed, places = self._listed
            (position,) = listed.positions([name])
            if position < 0:
                raise ImageError(name, f"is no {self.id} in {self.root}")
            return self._paths[places[position] >> 32], places[position] & 0xFFFFFFFF
        shard, _, row = name.rpartition("/")
        if shard not in self._shards or not row.isdecimal():
            raise ImageError(name, f"is no shard and row of {self.root}")
        return self._shards[shard], int(row)

    def read(self, name: str) -> bytes:
        """The bytes in the row, or those of the file that it names."""
        path, row = self._place(name)
        with self._lock:
            try:
                value = self._shard(path).row(row)
            except (OSError, ValueError, StopIteration) as error:  # pyarrow's errors are of these
                raise ImageError(name, f"cannot be read ({' '.join(str(error).split())})") from error
        data, file = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data:
            return bytes(data)
        if not file:
            raise ImageError(name, "has no image in its row")
        return read_image_file(inside(self._folder, file))

    def stamp(self, name: str) -> str:
        """Of its shard."""
        return stamp_of(self._place(name)[0])

    def _open_shard(self, path: Path) -> "_Shard":
        return _Shard(path, self.image, self._others())

    def _others(self) -> list[str]:
        """The columns beside the image that are read."""
        return [column for column in (self.id, self.license_column) if column]


def _without_repeats(listed: Photographs, places: "array[int]", left_out: LeftOut) -> "tuple[Photographs, array[int]]":
    repeats = listed.repeats()
    if not repeats:
        return listed, places
    for position in sorted(repeats):
        left_out.add(listed[position].name, "name occurs twice")
    kept = [i for i in range(len(listed)) if i not in repeats]
    return Photographs(listed[i] for i in kept), array("Q", (places[i] for i in kept))


class _Shard:
    """One open parquet file: some columns row by row, and single images without reading the rest."""

    def __init__(self, path: Path, image: str, others: list[str]) -> None:
        try:
            # A buffer instead of whole column chunks: a row group may hold a gigabyte of images.
            self.file = optional("pyarrow.parquet").ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no parquet file: {' '.join(str(error).split())}") from error
        schema = self.file.schema_arrow
        for column in (image, *others):
            if column not in schema.names:
                raise UserError(f"{path} has no column {column!r} ({nearest(column, schema.names)})")
        self.image = _leaves(path, schema.field(image))
        groups = [self.file.metadata.row_group(g).num_rows for g in range(self.file.num_row_groups)]
        self.starts = [0, *accumulate(groups)]
        self.batches: Iterator[Any] = iter(())
        self.group = -1
        self.next_row = 0
        self.kept: deque[tuple[int, Any]] = deque(maxlen=BATCHES_KEPT)

    def columns(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Values of every row; without names, that many empty ones, and nothing is read."""
        if not names:
            yield from ({} for _ in range(self.starts[-1]))
        for batch in self.file.iter_batches(columns=names) if names else ():
            yield from batch.to_pylist()

    def row(self, row: int) -> Any:
        """The image's value in one row."""
        if row >= self.starts[-1]:
            raise ValueError(f"there are {self.starts[-1]} rows")
        for start, values in self.kept:
            if start <= row < start + len(values):
                return values[row - start].as_py()
        group = bisect_right(self.starts, row) - 1
        if group != self.group or row < self.next_row:
            self.group, self.next_row = group, self.starts[group]
            self.batches = self.file.iter_batches(BATCH_ROWS, row_groups=[group], columns=self.image)
        try:
            while True:
                values, start = next(self.batches).column(0), self.next_row
                self.next_row += len(values)
                if row < self.next_row:
                    self.kept.append((start, values))
                    return values[row - start].as_py()
        except BaseException:
            self.group = -1  # the batches cannot be gone on with
            raise


def _leaves(path: Path, field: Any) -> list[str]:
    """The columns to read for an image."""
    types = optional("pyarrow").types
    if types.is_struct(field.type):
        children = [child.name for child in field.type]
        if "bytes" in children:
            return [f"{field.name}.{child}" for child in ("bytes", "path") if child in children]
    elif types.is_binary(field.type) or types.is_large_binary(field.type) or types.is_binary_view(field.type):
        return [field.name]
    raise UserError(f"column {field.name!r} of {path} is {field.type}; images are bytes, or a struct with bytes")
