"""Scoring shards: parquet or tar files of images in, one parquet file of rows for each out.

Rows are on disk as they come (see `redaes.inference.listing.RowWriter`), and an image that has a row by the same model
is not scored again, so that millions of images can be scored by several runs, or on several machines with shards of
their own.
"""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.data.images import decode, walk_images
from redaes.errors import UserError
from redaes.inference import ScorerProtocol
from redaes.inference.listing import Row, RowWriter, is_finished, rows_to_keep, score_items
from redaes.inference.pools import ScorerPool
from redaes.sources.parquet import ParquetPhotos
from redaes.sources.webdataset import WebDatasetPhotos

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".parquet", ".tar")
SCORES = ".scores.parquet"


class ShardError(UserError):
    """A shard that cannot be read, or in which no image is found; others may be."""


def list_shards(paths: Sequence[str]) -> list[Path]:
    """The shards that the arguments name; none where they name something else.

    Args:
        paths: files, patterns, and folders, which are searched recursively; a folder with image files in it is not one
            of shards.

    Raises:
        UserError: shards and something else.
    """
    found = {path: _shards_at(path) for path in paths}
    other = [path for path, shards in found.items() if not shards]
    if other and len(other) < len(found):
        raise UserError(f"{other[0]} holds no {' or '.join(SUFFIXES)} shards as other paths do; score it by itself")
    return list(dict.fromkeys(shard for shards in found.values() for shard in shards))


def row_files(shards: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the rows of each shard go: into a folder, at the path that tells the shard from the others.

    Raises:
        UserError: two shards that differ in their suffix only.
    """
    root = os.path.commonpath([os.path.abspath(shard.parent) for shard in shards])
    files = {s: folder / Path(os.path.relpath(os.path.abspath(s), root)).with_suffix(SCORES) for s in shards}
    owners: dict[Path, Path] = {}
    for shard, file in files.items():
        if (first := owners.setdefault(file, shard)) != shard:
            raise UserError(f"the rows of {first} and of {shard} would both go to {file}; score them by themselves")
    return files


def score_shard(
    shard: Path,
    rows: Path,
    load: Callable[[], ScorerProtocol | ScorerPool],
    model: str,
    *,
    image: str = "",
    batch_size: int | None = None,
) -> Iterator[list[Row]]:
    """Score what is missing of one shard, and write it all.

    Args:
        shard: the images.
        rows: where the rows go; its folder is made.
        load: gives the scorer, or a pool of them; called only if there is something to score.
        model: fingerprint of the scorer.
        image: the column or the extension of the images; empty: `image` in parquet, a sample's first image in tar.
        batch_size: images per batch; None: as many as the scorer works on at once.

    Yields:
        The new rows, batch by batch; a row's path is the shard's name and the image's in it.

    Raises:
        ShardError: no such shard or column, or no image in it.
        UserError: rows of another model, or rows that cannot be written.
    """
    try:
        photographs = _source(shard, image).photographs()
    except UserError as error:
        raise ShardError(str(error)) from error
    kept = rows_to_keep(rows, "parquet", model)
    done = {row.path for row in kept}
    missing = [photograph.name for photograph in photographs if photograph.name not in done]
    if not missing and is_finished(rows):
        return
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {rows}: {error.strerror or error}") from error
    with RowWriter(rows, "parquet", kept) as writer:
        read = partial(_read, shard, image)
        batches = score_items(missing, load(), model, name=str, read=read, batch_size=batch_size) if missing else ()
        for batch in batches:
            writer.add(batch)
            yield batch


@lru_cache(maxsize=4)
def _source(shard: Path, image: str) -> ParquetPhotos | WebDatasetPhotos:
    """The shard, opened once in each process that reads it."""
    if shard.suffix == ".parquet":
        return ParquetPhotos(str(shard), image or "image")
    return WebDatasetPhotos(str(shard), image)


def _read(shard: Path, image: str, name: str, side: int) -> "Image":
    return decode(_source(shard, image).read(name), name, max_side=side)


def _shards_at(path: str) -> list[Path]:
    if os.path.isdir(path):
        if next(walk_images(Path(path)), None) is not None:
            return []
        candidates = sorted(p for p in Path(path).rglob("*") if p.is_file())
    elif os.path.exists(path):
        candidates = [Path(path)]
    else:
        candidates = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
    return [p for p in candidates if p.suffix in SUFFIXES and not p.name.endswith(SCORES)]
