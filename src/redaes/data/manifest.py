"""A dataset on disk: JSON lines of records with the image files beside them.

    dataset/
      manifest.json       schema version, seed, configuration, counts and statistics
      images/             every image, named by the record that owns it
      sources.jsonl       ScoreRecord: every source with its consensus score
      edits.jsonl         Edit: every edit that was made, kept or not (the audit trail)
      pairs.jsonl         PairRecord: pre-training samples (Eq. 3)
      groups.jsonl        GroupRecord: RL groups (Eq. 4), of every split
      calibration.jsonl   ScoreRecord: the calibration set (METHOD 2)

Lines are canonical JSON (sorted keys, no spaces), so that equal datasets are equal bytes.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from redaes.data.images import open_image, path_inside
from redaes.errors import UserError
from redaes.records import SCHEMA_VERSION, GroupRecord, PairRecord, Record, ScoreRecord, Split

if TYPE_CHECKING:
    from PIL.Image import Image

R = TypeVar("R", bound=Record)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value is always the same bytes.

    Example:
        >>> canonical_json({"b": 1, "a": 0.1})
        '{"a":0.1,"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Write a whole text file, or nothing: temporary name, fsync, rename.

    Args:
        path: the file.
        text: all of it, or piece by piece.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as canonical JSON lines, one by one."""
    write_atomically(path, (canonical_json(r.model_dump(mode="json")) + "\n" for r in records))


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Read records of one kind; a bad line is named by file and number."""
    if not path.is_file():
        raise UserError(f"no {path.name} in {path.parent}; is this a dataset written by `redaes data build`?")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield kind.model_validate_json(line)
            except ValueError as error:
                raise UserError(f"{path}:{number} is not a {kind.__name__}: {str(error).splitlines()[0]}") from error


class Manifest:
    """A dataset folder opened for reading.

    Args:
        root: the dataset folder.

    Raises:
        UserError: `root` holds no manifest, or one of another schema version.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        path = self.root / "manifest.json"
        if not path.is_file():
            raise UserError(f"no dataset at {self.root} (manifest.json is missing); make one with `redaes data build`")
        self.info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if self.info.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {self.info.get('schema_version')!r}; this redaes reads {SCHEMA_VERSION}"
            )

    def sources(self, split: Split) -> list[ScoreRecord]:
        """Scored sources of one split."""
        return [r for r in read_records(self.root / "sources.jsonl", ScoreRecord) if r.source.split == split]

    def pairs(self, split: Split) -> list[PairRecord]:
        """Pre-training pairs of one split."""
        return [r for r in read_records(self.root / "pairs.jsonl", PairRecord) if r.source.split == split]

    def groups(self, split: Split) -> list[GroupRecord]:
        """RL groups of one split."""
        return [r for r in read_records(self.root / "groups.jsonl", GroupRecord) if r.source.split == split]

    def calibration(self) -> list[ScoreRecord]:
        """The calibration samples, all from the training split."""
        return list(read_records(self.root / "calibration.jsonl", ScoreRecord))

    def path(self, image: str) -> Path:
        """The file of an image named by a record; never outside the dataset."""
        return path_inside(self.root, image, "the dataset folder")

    def has(self, image: str) -> bool:
        """Whether there is such an image."""
        return self.path(image).is_file()

    def open(self, image: str) -> "Image":
        """Load an image named by a record, as upright RGB.

        Raises:
            ImageError: it cannot be decoded.
        """
        return open_image(self.path(image))
