"""A dataset in a form that others open without redaes, with a card that says what it is.

    DEST/
      README.md         the dataset card; its header lets `datasets.load_dataset(DEST, "pairs")` find the tables
      export.json       what was written: format, rows and shards by table and split
      pairs/            train-00000.parquet ..., validation-00000.parquet ...; .tar, or folders with a metadata.jsonl
      groups/  sources/  calibration/  edits/

Images are the dataset's own files, byte for byte. Rows come one by one, so memory does not grow with the dataset. The
folder appears under its name only when it is whole.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from redaes import __version__
from redaes.data.export.card import card
from redaes.data.export.rows import TABLES, rows
from redaes.data.export.writers import (
    AescotShards,
    HuggingFaceShards,
    JsonLinesShards,
    ParquetShards,
    Shards,
    WebDatasetShards,
)
from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.registry import optional

Format = Literal["hf", "parquet", "webdataset", "jsonl", "aescot"]

WRITERS: dict[str, type[Shards]] = {
    "hf": HuggingFaceShards,
    "parquet": ParquetShards,
    "webdataset": WebDatasetShards,
    "jsonl": JsonLinesShards,
    "aescot": AescotShards,
}
MARK = "export.json"


def export(
    manifest: Manifest, destination: Path, format: Format, *, shard_bytes: int = 500_000_000, overwrite: bool = False
) -> dict[str, Any]:
    """Write every table of a dataset.

    Args:
        manifest: the dataset.
        destination: the folder to make.
        format: hf (parquet with the images of `datasets`), parquet (images as plain bytes), webdataset (tar files),
            jsonl (JSON lines with image files beside them), aescot (scored sources alone, as Aes-R1 trains on them).
        shard_bytes: a shard ends before it exceeds this; a single row is never cut.
        overwrite: replace an earlier export; anything else is never replaced.

    Returns:
        What `export.json` holds.

    Raises:
        UserError: the destination is taken or cannot be written, or a record or an image of the dataset is damaged.
    """
    destination = Path(os.path.abspath(destination))
    _check_free(destination, overwrite)
    if format in ("hf", "parquet"):
        optional("pyarrow.parquet")
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        written = _write(manifest, partial, format, shard_bytes)
        _put_in_place(partial, destination)
    except OSError as error:
        raise UserError(f"cannot write {destination}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _check_free(destination: Path, overwrite: bool) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not (destination / MARK).is_file():
        raise UserError(f"{destination} exists and is no export; choose another folder")
    if not overwrite:
        raise UserError(f"{destination} holds an export already; choose another folder or pass --overwrite")


def _write(manifest: Manifest, folder: Path, format: Format, shard_bytes: int) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    licenses: Counter[str] = Counter()
    for name in ("sources",) if format == "aescot" else TABLES:
        table = TABLES[name]
        writers: dict[str, Shards] = {}
        (folder / name).mkdir()
        for split, row in rows(manifest, name):
            if split not in writers:
                writers[split] = WRITERS[format](folder / name / split, table, manifest, shard_bytes)
            writers[split].add(row)
            if name == "sources":
                licenses[row["license"]] += 1
        for writer in writers.values():
            writer.close()
        tables[name] = {split: {"rows": w.rows, "shards": w.shards} for split, w in writers.items()}
    written = {"redaes": __version__, "format": format, "tables": tables}
    (folder / MARK).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(manifest.info, written, licenses), encoding="utf-8")
    return written


def _put_in_place(partial: Path, destination: Path) -> None:
    """From the temporary name to the final one, with everything on disk first."""
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    replaced = partial.with_suffix(".replaced")
    if destination.exists():
        destination.rename(replaced)
    partial.rename(destination)
    shutil.rmtree(replaced, ignore_errors=True)
