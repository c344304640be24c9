"""Where the features of images are kept: in this process, or in a folder that several processes share.

A store maps (fingerprint of the tower, key of the image) to one tensor and holds at most so many bytes; the least
recently used entry goes first. `models.features` decides what is asked for and computes what is missing.
"""

import os
import re
import tempfile
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from redaes.errors import UserError

SHARE_PER_LOOK = 64
"""A process measures the folder again after it wrote the bound divided by this."""

ABANDONED = 3600
"""Age in seconds from which a draft belongs to a process that died."""


class FeatureStore(Protocol):
    """What holds features.

    Attributes:
        evictions: entries this process removed to stay within the bound.
    """

    evictions: int

    def get(self, fingerprint: str, key: str) -> Tensor | None:
        """The features kept for an image, on the CPU; None if there are none."""
        ...

    def put(self, fingerprint: str, key: str, features: Tensor) -> None:
        """Keep the features of an image."""
        ...


class MemoryStore:
    """Features in the memory of this process, page-locked where there is a GPU.

    Args:
        limit: bytes, > 0.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.evictions = 0
        self._kept: OrderedDict[tuple[str, str], Tensor] = OrderedDict()

    def get(self, fingerprint: str, key: str) -> Tensor | None:
        """The features kept for an image, on the CPU; None if there are none."""
        kept = self._kept.get((fingerprint, key))
        if kept is not None:
            self._kept.move_to_end((fingerprint, key))
        return kept

    def put(self, fingerprint: str, key: str, features: Tensor) -> None:
        """Keep the features of an image that is not kept yet, unless they alone exceed the bound."""
        if features.nbytes > self.limit:
            return
        while self.used + features.nbytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self.used -= oldest.nbytes
            self.evictions += 1
        features = features.cpu()
        self._kept[fingerprint, key] = features.pin_memory() if torch.cuda.is_available() else features
        self.used += features.nbytes


class DiskStore:
    """One safetensors file for each image, in one folder for each tower, read by memory mapping.

    Several processes may use a folder at the same time: a file appears whole or not at all, one that another process
    removed is a miss, and two that compute the same image write the same bytes. When an entry was last used is the
    file's time of modification. The folder is measured again after every 1/64 of the bound that a process writes; so
    one process alone stays within it, and each further one can overshoot by that much, or by one entry, until it looks.

    Args:
        root: the folder; made if it does not exist. Files that are no features are left alone.
        limit: bytes of all files together, whatever tower they are of, > 0.

    Attributes:
        corrupt: unreadable entries met so far; each counts as a miss and is replaced.
        unwritten: entries that could not be written, for instance because the disk is full.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit
        self.evictions = 0
        self.corrupt = 0
        self.unwritten = 0
        self._room = 0
        try:
            root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=root).close()
        except OSError as error:
            raise UserError(f"cannot keep features in {root}: {error.strerror}; set backbone.features.path") from error

    def get(self, fingerprint: str, key: str) -> Tensor | None:
        """The features kept for an image, on the CPU; None if there are none, or unreadable ones."""
        from safetensors import SafetensorError, safe_open

        path = self._path(fingerprint, key)
        try:
            os.utime(path)
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor("features")
                expected = (file.metadata() or {}).get("crc32")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            self._unreadable(path, str(error))
            return None
        # The format knows a file that is too short, not one whose numbers changed.
        if _checksum(features) != expected:
            self._unreadable(path, "its checksum is wrong")
            return None
        return features

    def put(self, fingerprint: str, key: str, features: Tensor) -> None:
        """Keep the features of an image, unless they alone exceed the bound or cannot be written."""
        from safetensors.torch import save

        features = features.cpu().contiguous()
        content = save({"features": features}, {"crc32": _checksum(features)})
        if len(content) > self.limit:
            return
        path = self._path(fingerprint, key)
        try:
            self._make_room(len(content))
            _write(path, content)
        except OSError as error:
            self.unwritten += 1
            if self.unwritten == 1:
                warnings.warn(f"cannot keep features in {path}: {error}; going on without", stacklevel=2)

    def _path(self, fingerprint: str, key: str) -> Path:
        return self.root / fingerprint / f"{key}.safetensors"

    def _unreadable(self, path: Path, reason: str) -> None:
        self.corrupt += 1
        if self.corrupt == 1:
            warnings.warn(f"{path} is unreadable and computed again: {reason}", stacklevel=3)

    def _make_room(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            self._room = self._evict(size) - size

    def _evict(self, size: int) -> int:
        """Remove what was not used for longest; returns how many bytes may be written until the next look."""
        step = max(size, self.limit // SHARE_PER_LOOK)
        found = sorted(self._entries())
        total = sum(taken for _, taken, _ in found)
        for used, taken, path in found:
            if total + step <= self.limit:
                break
            if path.suffix == ".tmp" and time.time() - used < ABANDONED:
                continue
            path.unlink(missing_ok=True)
            total -= taken
            self.evictions += 1
        return step

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When it was last used, size and path of every file of ours."""
        for path in self.root.glob("*/*"):
            if re.fullmatch(
                r"[0-9a-f]{32}/[0-9a-f]{32}\.(safetensors|\w+\.tmp)", path.relative_to(self.root).as_posix()
            ):
                try:
                    found = path.stat()
                except FileNotFoundError:  # another process removed it
                    continue
                yield found.st_mtime, found.st_size, path


def _checksum(features: Tensor) -> str:
    return f"{zlib.crc32(features.flatten().view(torch.uint8).numpy().data):08x}"


def _write(path: Path, content: bytes) -> None:
    """The whole file or nothing, whoever else is writing it."""
    path.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
