"""Training from an export as it lies there: rows are read once, images one at a time from within their shards.

In: a folder that `redaes data export` wrote as `webdataset`, `parquet` or `hf`. Out: the records of the dataset it was
made of, in the dataset's order, so that samples, batches and every run are those of the dataset folder (what training
does not need, such as verifications of a group's edits, is not in an export and is empty here). Memory holds what a
dataset folder's takes, the records; images stay in the shards until a batch asks for them. Nothing is unpacked.

A tar file is passed over once, from header to header; an image is then one seek away. Parquet has no such way to one
image: the column's part of its row group (16 MB or less in our exports) is read for it, and the last few are kept.

Every row is numbered through all shards of its table and split, so that none can be lost, come twice or be out of
order unnoticed: whatever is wrong with a shard is said with its name before training begins.
"""

import json
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redaes.data.export import MARK
from redaes.data.export.rows import TABLES
from redaes.data.images import MAX_BYTES, ImageError, decode
from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.records import (
    Edit,
    Fused,
    GroupMember,
    GroupRecord,
    Instruction,
    PairRecord,
    Record,
    ScoreRecord,
    Source,
    Split,
)
from redaes.registry import optional

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet", "hf": ".parquet"}
MAX_ROW_BYTES = 64 << 20
"""Of a row without its images: a judge's words take thousands of bytes, not millions."""

COLUMNS_KEPT = 4
"""Columns of row groups kept by each process: a group's images follow each other, and a pair has two columns."""

Row = dict[str, Any]
R = TypeVar("R", bound=Record)


def open_dataset(root: str | Path) -> Manifest:
    """A dataset folder, or an export of one.

    Raises:
        UserError: neither is there, or an export that cannot be trained on.
    """
    return ShardedManifest(root) if (Path(root) / MARK).is_file() else Manifest(root)


class Place(Protocol):
    """Where an image is."""

    def read(self) -> bytes:
        """Its encoded bytes.

        Raises:
            OSError: the shard cannot be read.
            ValueError: what is there is no image's bytes.
        """


class ShardedManifest(Manifest):
    """An export opened for reading, in the place of the dataset it was made of.

    Images are called by table, shard and place in it: `pairs/train-00000.tar/000000012.source_image.png`.

    Args:
        root: the folder of the export.

    Raises:
        UserError: an export of another format. Shards are looked at when their records are asked for.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        try:
            self.info = json.loads((self.root / MARK).read_text(encoding="utf-8"))
            self._format, self._tables = self.info["format"], self.info["tables"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.root / MARK} was not written by `redaes data export`: {error}") from error
        if self._format not in SUFFIXES:
            raise UserError(
                f"{self.root} is an export as {self._format!r}; training reads {', '.join(SUFFIXES)}: run `redaes data "
                "export` again, or train on the dataset folder"
            )
        self._places: dict[str, Place] = {}
        self._read: dict[tuple[str, Split], list[Any]] = {}

    def sources(self, split: Split) -> list[ScoreRecord]:
        """Scored sources of one split."""
        return self._records("sources", split, _score)

    def pairs(self, split: Split) -> list[PairRecord]:
        """Pre-training pairs of one split."""
        return self._records("pairs", split, _pair)

    def groups(self, split: Split) -> list[GroupRecord]:
        """RL groups of one split."""
        return self._records("groups", split, _group)

    def calibration(self) -> list[ScoreRecord]:
        """The calibration samples, all from the training split."""
        return self._records("calibration", "train", _score)

    def has(self, image: str) -> bool:
        """Whether there is such an image."""
        return image in self._places

    def path(self, image: str) -> Path:
        """Images have no file of their own here.

        Raises:
            UserError: always.
        """
        raise UserError(f"{image} lies in a shard of {self.root}; what needs image files takes the dataset folder")

    def open(self, image: str) -> "Image":
        """Load an image named by a record, as upright RGB.

        Raises:
            ImageError: the shard cannot be read there, or what it holds cannot be decoded.
        """
        name = f"{self.root}/{image}"
        try:
            data = self._places[image].read()
        except (OSError, ValueError) as error:  # pyarrow's errors are of these
            raise ImageError(name, f"cannot be read ({' '.join(str(error).split())})") from error
        return decode(data, name)

    def _records(self, table: str, split: Split, make: Callable[[Row, Split], R]) -> list[R]:
        """The records of one table and split, read once."""
        if (table, split) not in self._read:
            self._read[table, split] = list(self._made(table, split, make))
        return list(self._read[table, split])

    def _made(self, table: str, split: Split, make: Callable[[Row, Split], R]) -> Iterator[R]:
        count = 0
        rows_of = _tar_rows if self._format == "webdataset" else _parquet_rows
        for shard in self._shards(table, split):
            try:
                for values, images in rows_of(shard, TABLES[table].images, count):
                    yield make({**values, **self._named(f"{table}/{shard.name}", images)}, split)
                    count += 1
            except (OSError, ValueError, KeyError, TypeError, tarfile.TarError) as error:
                said = " ".join(str(error).split())
                raise UserError(f"{shard} is damaged at row {count} of {table}: {said[:200]}") from error
        expected = self._tables.get(table, {}).get(split, {"rows": 0})["rows"]
        if count != expected:
            raise UserError(
                f"the last {split} shard of {self.root / table} ends after row {count} of {expected}; copy it again"
            )

    def _shards(self, table: str, split: Split) -> list[Path]:
        counted = self._tables.get(table, {}).get(split, {"shards": 0})["shards"]
        suffix = SUFFIXES[self._format]
        shards = [self.root / table / f"{split}-{number:05d}{suffix}" for number in range(counted)]
        missing = [shard for shard in shards if not shard.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing, and {len(missing)} of {counted} shards in all; copy them too")
        return shards

    def _named(self, shard: str, images: dict[str, "Images"]) -> Row:
        """Give every image its name, and remember where it is."""
        row: Row = {}
        for column, found in images.items():
            names = [f"{shard}/{name}" for name, _ in found.places]
            self._places.update(zip(names, (place for _, place in found.places), strict=True))
            row[column] = names if found.several else names[0]
        return row


@dataclass(frozen=True)
class Images:
    """The images in one column of a row: their names within the shard, and where they are."""

    places: list[tuple[str, Place]]
    several: bool = False


# --- WebDataset ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TarPlace:
    """Bytes of a plain tar file."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """See `Place`."""
        # Opened anew: loader processes that shared an open file would move each other's place in it.
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise ValueError(f"the shard ends {self.size - len(data)} bytes before it")
        return data


def _tar_rows(shard: Path, columns: list[str], first: int) -> Iterator[tuple[Row, dict[str, Images]]]:
    """Rows of one tar shard: members of one key, the images first and the values as JSON last.

    Args:
        shard: the file.
        columns: columns of images.
        first: number of its first row.

    Raises:
        ValueError: it is truncated, or holds something else.
    """
    length = shard.stat().st_size
    with tarfile.open(shard, "r:") as tar:
        number, images = first, list[tuple[str, Place]]()
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep a record of every file
            key, _, ending = member.name.partition(".")
            if key != f"{number:09d}" or not member.isreg() or member.offset_data + member.size > length:
                raise ValueError(f"{member.name[:80]!r} is truncated, or is not of row {number:09d}")
            if ending != "json":
                if member.size > MAX_BYTES:
                    raise ValueError(f"{member.name} is larger than {MAX_BYTES >> 20} MiB")
                images.append((member.name, TarPlace(shard, member.offset_data, member.size)))
                continue
            text = tar.extractfile(member)
            if text is None or member.size > MAX_ROW_BYTES:
                raise ValueError(f"{member.name} is larger than {MAX_ROW_BYTES >> 20} MiB")
            yield json.loads(text.read()), _in_columns(images, columns)
            number, images = number + 1, []
    with shard.open("rb") as file:
        file.seek(max(0, length - 1024))
        if images or any(file.read()):
            raise ValueError("it has no end; the file is truncated")


def _in_columns(images: list[tuple[str, Place]], columns: list[str]) -> dict[str, Images]:
    """Images of a row by column: one for each of several columns, or any number in a single one.

    Raises:
        ValueError: they do not fit.
    """
    if columns == ["images"]:
        return {"images": Images(images, several=True)}
    if len(images) != len(columns):
        raise ValueError(f"it has {len(images)} images for the columns {', '.join(columns)}")
    return {column: Images([image]) for column, image in zip(columns, images, strict=True)}


# --- parquet ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParquetPlace:
    """One cell of a parquet file, or one element of it.

    Attributes:
        shard: the file.
        group: number of the row group.
        row: within the row group.
        column: name of the column.
        element: of a list; None: the cell is the image.
    """

    shard: Path
    group: int
    row: int
    column: str
    element: int | None = None

    def read(self) -> bytes:
        """See `Place`."""
        cell = _column(self.shard, self.group, self.column)[self.row]
        value = (cell if self.element is None else cell.values[self.element]).as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(data, bytes) or len(data) > MAX_BYTES:
            raise ValueError(f"row {self.row} of row group {self.group} has no image in {self.column}")
        return data


@lru_cache(COLUMNS_KEPT)
def _column(shard: Path, group: int, column: str) -> Any:
    """One column of a row group."""
    with optional("pyarrow.parquet").ParquetFile(shard) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def _parquet_rows(shard: Path, columns: list[str], first: int) -> Iterator[tuple[Row, dict[str, Images]]]:
    """Rows of one parquet shard; the columns of images are not read.

    Args:
        shard: the file.
        columns: columns of images.
        first: number of its first row.

    Raises:
        ValueError: it is damaged or holds something else.
    """
    with optional("pyarrow.parquet").ParquetFile(shard) as file:
        groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        starts = [0, *accumulate(groups)]
        others = [name for name in file.schema_arrow.names if name not in columns]
        rows: Iterable[Row] = (row for batch in file.iter_batches(columns=others) for row in batch.to_pylist())
        for number, values in enumerate(rows):
            group = bisect_right(starts, number) - 1

            def images(column: str, place: tuple[int, int], name: str, several: int | None) -> Images:
                if several is None:
                    return Images([(f"{name}.{column}", ParquetPlace(shard, *place, column))])
                return Images(
                    [(f"{name}.{n}", ParquetPlace(shard, *place, column, n)) for n in range(several)], several=True
                )

            place, count = (group, number - starts[group]), len(values["g"]) if columns == ["images"] else None
            yield values, {column: images(column, place, f"{first + number:09d}", count) for column in columns}


# --- from rows to records: the inverse of `redaes.data.export.rows` --------------------------------------------------


def _source(row: Row, split: Split, image: str) -> Source:
    # A pair and a group are called by their source.
    return Source(id=row["id"], image=image, photograph=row["photograph"], split=split, license=row["license"])


def _consensus(row: Row, value: float) -> Row:
    """Verdicts, and what they were fused to; a verdict says itself whether it was left out as an outlier."""
    outliers = tuple(place for place, verdict in enumerate(row["verdicts"]) if verdict["outlier"])
    verdicts = [{name: v for name, v in verdict.items() if name != "outlier"} for verdict in row["verdicts"]]
    level, method = row["consensus_level"], row["consensus_method"]
    fused = None if level is None else Fused(value=value, level=level, outliers=outliers, method=method)
    return {"verdicts": verdicts, "fused": fused}


def _edit(row: Row, id: str, source_id: str, image: str, value: float) -> Edit:
    words = {name: row[name] for name in ("category", "orientation", "analysis")}
    return Edit.model_validate(
        {
            "id": id,
            "source_id": source_id,
            "editor": row["editor"],
            "instruction": Instruction(text=row["instruction"], **words),
            "image": image,
            "verifications": row.get("verifications", ()),
            "passed": True,
            **_consensus(row, value),
        }
    )


def _score(row: Row, split: Split) -> ScoreRecord:
    consensus = _consensus(row, row["score"])
    return ScoreRecord.model_validate(
        {"source": _source(row, split, row["image"]), "reasoning": row["reasoning"], **consensus}
    )


def _pair(row: Row, split: Split) -> PairRecord:
    return PairRecord(
        id=row["id"],
        source=_source(row, split, row["source_image"]),
        score=row["source_score"],
        # An export does not tell a pair's edit by its id, nor a difference that was clipped at 10.
        edit=_edit(row, f"{row['id']}-edit", row["id"], row["edited_image"], row["delta"]),
        delta=row["delta"],
        reasoning=row["reasoning"],
    )


def _group(row: Row, split: Split) -> GroupRecord:
    (source_image, *variants), (source_g, *differences) = row["images"], row["g"]
    members = [GroupMember(image=source_image, g=source_g)]
    for image, g, edit in zip(variants, differences, row["edits"], strict=True):
        members.append(GroupMember(image=image, g=g, edit=_edit(edit, edit["id"], row["id"], image, g)))
    return GroupRecord(
        id=row["id"],
        source=_source(row, split, source_image),
        score=row["source_score"],
        members=tuple(members),
    )
