"""Shards of one table and split, in four forms. Memory holds one row's images, or one row group of parquet."""

import io
import json
import sys
import tarfile
from abc import ABC, abstractmethod
from importlib import resources
from pathlib import Path
from typing import IO, Any

from redaes.data.aescot import IMAGE
from redaes.data.export.rows import Row, Table, arrow_type
from redaes.data.images import IMAGE_SUFFIXES, read_image_file
from redaes.data.manifest import Manifest
from redaes.registry import optional

ROW_GROUP_BYTES = 16 << 20
ROW_GROUP_ROWS = 1000

# path within the dataset, bytes
Picture = tuple[str, bytes]


class Shards(ABC):
    """Rows written to shard after shard.

    Args:
        stem: path of the shards without number and ending.
        table: whose rows they are.
        manifest: the dataset, where the images are.
        limit: bytes of a shard, about; a row is never cut.
    """

    def __init__(self, stem: Path, table: Table, manifest: Manifest, limit: int) -> None:
        self.stem = stem
        self.table = table
        self.manifest = manifest
        self.limit = limit
        self.rows = 0
        self.shards = 0
        self._size = 0

    def add(self, row: Row) -> None:
        """Write one row with its images.

        Raises:
            ImageError: an image is missing or cannot be read.
        """
        pictures = {column: self._read(row[column]) for column in self.table.images}
        values = {name: value for name, value in row.items() if name not in pictures}
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        size = len(text) + sum(len(data) for several in pictures.values() for _, data in several)
        if self.shards == 0 or (self._size and self._size + size > self.limit):
            self.close()
            self._open(self.stem.with_name(f"{self.stem.name}-{self.shards:05d}"))
            self.shards += 1
            self._size = 0
        self._write(f"{self.rows:09d}", values, text, pictures)
        self._size += size
        self.rows += 1

    def _read(self, paths: str | list[str] | None) -> list[Picture]:
        several = [paths] if isinstance(paths, str) else paths or []
        return [(path, read_image_file(self.manifest.path(path))) for path in several]

    def _several(self, column: str) -> bool:
        return isinstance(self.table.columns[column], list)

    def _names(self, key: str, pictures: dict[str, list[Picture]]) -> dict[str, list[str]]:
        """Names of files for images, made of numbers and column names: nothing foreign gets into a path."""
        names: dict[str, list[str]] = {}
        for column, several in pictures.items():
            only = "" if len(pictures) == 1 else column
            parts = [str(n) for n in range(len(several))] if self._several(column) else [only]
            names[column] = [
                ".".join(filter(None, (key, part, _suffix(path))))
                for part, (path, _) in zip(parts, several, strict=False)
            ]
        return names

    @abstractmethod
    def _open(self, path: Path) -> None:
        """Begin a shard; `path` lacks its ending."""

    @abstractmethod
    def _write(self, key: str, values: Row, text: str, pictures: dict[str, list[Picture]]) -> None:
        """Write one row: its values, as JSON too, and its images by column."""

    @abstractmethod
    def close(self) -> None:
        """End the present shard, if there is one."""


def _suffix(path: str) -> str:
    """The ending of an image's file, without the dot."""
    suffix = Path(path).suffix.lower()
    return suffix[1:] if suffix in IMAGE_SUFFIXES else "png"


class ParquetShards(Shards):
    """Parquet with plain columns of bytes for images."""

    def _open(self, path: Path) -> None:
        pa, parquet = optional("pyarrow"), optional("pyarrow.parquet")
        types = [(name, arrow_type(type, self._image())) for name, type in self.table.columns.items()]
        self._schema = pa.schema(types, metadata=self._metadata())
        # Images are all different: a dictionary of them, or the least and the greatest, would only take room.
        plain = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
        self._file = parquet.ParquetWriter(path.with_suffix(".parquet"), self._schema, **plain)
        self._group: list[Row] = []
        self._group_size = 0

    def _image(self) -> Any:
        return optional("pyarrow").binary()

    def _value(self, picture: Picture) -> Any:
        return picture[1]

    def _metadata(self) -> dict[str, str]:
        return {}

    def _write(self, key: str, values: Row, text: str, pictures: dict[str, list[Picture]]) -> None:
        for column, several in pictures.items():
            made = [self._value(picture) for picture in several]
            values[column] = made if self._several(column) else next(iter(made), None)
        self._group.append(values)
        self._group_size += len(text) + sum(len(data) for several in pictures.values() for _, data in several)
        if self._group_size >= ROW_GROUP_BYTES or len(self._group) >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._group:
            self._file.write_table(optional("pyarrow").Table.from_pylist(self._group, self._schema))
        self._group, self._group_size = [], 0

    def close(self) -> None:
        """Write the last row group and the footer."""
        if self.shards:
            self._flush()
            self._file.close()


class HuggingFaceShards(ParquetShards):
    """Parquet whose images are those of `datasets`: {bytes, path}, and decoded when a row is looked at."""

    def _image(self) -> Any:
        pa = optional("pyarrow")
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def _value(self, picture: Picture) -> Any:
        return {"bytes": picture[1], "path": Path(picture[0]).name}

    def _metadata(self) -> dict[str, str]:
        image = {"_type": "Image"}
        features = {
            n: {"_type": "Sequence", "feature": image} if self._several(n) else image for n in self.table.images
        }
        return {"huggingface": json.dumps({"info": {"features": features}})}


class WebDatasetShards(Shards):
    """Plain tar files: the images of a row, then its values as JSON, all under one key."""

    def _open(self, path: Path) -> None:
        self._file = tarfile.open(path.with_suffix(".tar"), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def _write(self, key: str, values: Row, text: str, pictures: dict[str, list[Picture]]) -> None:
        for column, names in self._names(key, pictures).items():
            for name, (_, data) in zip(names, pictures[column], strict=True):
                self._add(name, data)
        self._add(f"{key}.json", text.encode())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._file.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        """Write the end of the tar file."""
        if self.shards:
            self._file.close()


class JsonLinesShards(Shards):
    """Folders with a `metadata.jsonl` and the images beside it, as `imagefolder` of `datasets` reads them.

    Where some rows of a table lack an image, it is named in a column of plain text that `imagefolder` leaves alone.
    """

    _file: IO[str]

    def _open(self, path: Path) -> None:
        path.mkdir()
        self._folder = path
        self._file = (path / "metadata.jsonl").open("w", encoding="utf-8", newline="\n")

    def _write(self, key: str, values: Row, text: str, pictures: dict[str, list[Picture]]) -> None:
        for column, names in self._names(key, pictures).items():
            for name, (_, data) in zip(names, pictures[column], strict=True):
                (self._folder / name).write_bytes(data)
            if self.table.images_may_lack:
                values[f"{column}_path"] = next(iter(names), "")
            elif self._several(column):
                values[f"{column}_file_names"] = names
            else:
                values[f"{column}_file_name"] = names[0]
        self._file.write(json.dumps(self._line(values), ensure_ascii=False, allow_nan=False) + "\n")

    def _line(self, values: Row) -> Row:
        return values

    def close(self) -> None:
        """End the present folder."""
        if self.shards:
            self._file.close()


class AescotShards(JsonLinesShards):
    """Scored photographs as Aes-R1 is trained on them (`redaes.data.aescot`): its question, targets on [0, 1]."""

    def __init__(self, stem: Path, table: Table, manifest: Manifest, limit: int) -> None:
        super().__init__(stem, table, manifest, sys.maxsize)  # one file, since training takes one
        words = (resources.files("redaes.prompts") / "templates" / "aes_r1.v1.txt").read_text("utf-8")
        self._question = words.strip().replace("{{image}}", IMAGE)

    def _line(self, values: Row) -> Row:
        target = f"<think>{values['reasoning']}</think><answer>{values['score'] / 10:.2f}</answer>"
        messages = [{"content": self._question, "role": "user"}, {"content": target, "role": "assistant"}]
        return {"messages": messages, "images": values["image_file_name"]}
