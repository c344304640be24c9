"""The ledger of a build on a cluster: parquet files on any file system instead of SQLite on one disk.

(Signatures for those who code against them; the bodies follow.)
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from redaes.engine.database import Total
from redaes.engine.ledger import CallRecord
from redaes.engine.objects import Picture

if TYPE_CHECKING:
    from PIL.Image import Image


class Snapshot:
    """Where every call of a ledger is, as sorted numpy arrays: pickled without a copy, so that workers share one."""


class BlockObjects:
    """Edited images by their hash, as `redaes.engine.objects.ObjectStore`, on any storage."""

    def put(self, image: "Image | Picture", durable: bool = True) -> str:
        """Keep an image; its hash."""
        raise NotImplementedError

    def get(self, sha: str) -> "Image | None":
        """The image; None if it is not there or damaged (it is then set aside)."""
        raise NotImplementedError

    def has(self, sha: str) -> bool:
        """Whether its file is there; it is not opened."""
        raise NotImplementedError

    def copy(self, sha: str, path: Path) -> None:
        """Copy its PNG file to a local path. Raises UserError if it is not there."""
        raise NotImplementedError

    def is_whole(self, sha: str) -> bool:
        """Whether its file is there with the right checksums; a damaged one goes (as redaes.engine.assembly.is_whole)."""
        raise NotImplementedError


def is_block_ledger(folder: str | Path) -> bool:
    """Whether there is a ledger of this kind: a folder, or a URL such as `s3://bucket/photos.ledger`."""
    raise NotImplementedError


class BlockLedger:
    """A ledger that is open. Any thread may use it.

    Attributes:
        folder: its path or URL, without keys; what `join` takes.
        objects: its edited images.
        damaged: rows that did not match their checksum and count as missing.
    """

    folder: str
    objects: BlockObjects
    damaged: int

    @classmethod
    def create_or_open(cls, url: str | Path, name: str = "") -> "BlockLedger":
        """Open for the driver of a build, or make an empty one. Takes the lock. Raises UserError as the core's."""
        raise NotImplementedError

    @classmethod
    def join(cls, url: str | Path, snapshot: Snapshot, writer_id: str) -> "BlockLedger":
        """Open for a worker of a build whose driver holds the lock. `writer_id` need not be unique (it is made so)."""
        raise NotImplementedError

    @classmethod
    def open_for_reading(cls, url: str | Path, name: str = "") -> "BlockLedger":
        """Open to look at, also while a build is writing. Raises UserError: there is none, or it is damaged."""
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        """Everything that is durable now, for `join`. Reads the storage again (`reload`)."""
        raise NotImplementedError

    def reload(self) -> None:
        """Take in all that other writers have committed. The driver calls it when its workers are through."""
        raise NotImplementedError

    def refresh(self, sources: Iterable[str], build: str = "") -> None:
        """Take in what other writers have committed about these sources: calls, and results of `build` if given."""
        raise NotImplementedError

    def compact(self) -> None:
        """Fold small files into sorted ones. For the driver, while no worker writes. A kill at any instant is safe."""
        raise NotImplementedError

    def find(self, key: str) -> CallRecord | None:
        """As `redaes.engine.ledger.Ledger.find`."""
        raise NotImplementedError

    def put(self, record: CallRecord, wait: bool = True) -> None:
        """As `redaes.engine.ledger.Ledger.put`."""
        raise NotImplementedError

    def put_many(self, records: Iterable[CallRecord]) -> None:
        """As `redaes.engine.ledger.Ledger.put_many`."""
        raise NotImplementedError

    def failures(self) -> Iterator[CallRecord]:
        """As `redaes.engine.ledger.Ledger.failures`."""
        raise NotImplementedError

    def forget_failures(self, keys: Iterable[str] | None = None) -> int:
        """As `redaes.engine.ledger.Ledger.forget_failures`."""
        raise NotImplementedError

    def totals(self) -> list[Total]:
        """As `redaes.engine.ledger.Ledger.totals`: as of the last opening or `reload`, and of this process's own."""
        raise NotImplementedError

    def put_result(self, build: str, source: str, text: str) -> None:
        """As `redaes.engine.ledger.Ledger.put_result`."""
        raise NotImplementedError

    def result(self, build: str, source: str) -> str | None:
        """As `redaes.engine.ledger.Ledger.result`: of this process, of what was refreshed, and as of the opening."""
        raise NotImplementedError

    def results_count(self, build: str) -> int:
        """As `redaes.engine.ledger.Ledger.results_count`."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of threads and lock. What was put is durable already."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
