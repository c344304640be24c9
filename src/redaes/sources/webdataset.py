"""Photographs in tar shards of WebDataset form: files that share a name up to its first dot are one sample.

The offsets of a shard's images are found by one pass over its headers and kept, so that any photograph is one seek
away. Nothing is ever unpacked.
"""

import json
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from redaes.data.images import IMAGE_SUFFIXES, MAX_BYTES, ImageError
from redaes.errors import UserError
from redaes.sources import Photograph
from redaes.sources.listing import EncodedPhotos, LeftOut, Photographs, is_utf8, shards_of, stamp_of

MAX_JSON_BYTES = 1 << 20

# The library's rule: the key is the path up to the first dot of the file's name.
_MEMBER = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]*)$", re.DOTALL)


@dataclass(frozen=True)
class _Index:
    """The images of one shard: key and licence, offset and size in bytes."""

    photographs: Photographs
    offsets: "array[int]"
    sizes: "array[int]"


@dataclass
class _Sample:
    offset: int = -1
    size: int = 0
    license: str = ""


class WebDatasetPhotos(EncodedPhotos):
    """Photographs of uncompressed tar shards, called by shard and key, such as `00000.tar/000000012`.

    Args:
        root: a shard, or a folder that is searched recursively for `*.tar`.
        image: the extension of the image in a sample, such as `jpg`; empty: the first that is an image's.
        license_field: where the licence stands in a sample's `json`; dots lead into objects.
        license: the licence of photographs without one of their own.
        report: a CSV file to name in what was left out and why; empty: the log names some.

    Raises:
        UserError: no such shards.
    """

    def __init__(
        self,
        root: str,
        image: str = "",
        license_field: str = "license",
        license: str = "not stated",
        report: str = "",
    ) -> None:
        self.root = Path(root)
        self.image = image.removeprefix(".")
        self.license_field = license_field
        self.license = license
        self.report = report
        self._shards = shards_of(root, ".tar")
        self._indexes: dict[Path, _Index] = {}
        self._lock = Lock()

    def photographs(self) -> Photographs:
        """Shard by shard in sorted order, in the order of the shard.

        Raises:
            UserError: a shard that is no plain tar file; no photograph at all.
        """
        with LeftOut(str(self.root), self.report) as left_out:
            listed = Photographs(self._listed(left_out))
        self.left_out = left_out.counts
        if not listed:
            raise UserError(f"no photograph in the tar files of {self.root}")
        return listed

    def _listed(self, left_out: LeftOut) -> Iterator[Photograph]:
        for relative, path in self._shards.items():
            self._indexes[path] = self._scan(path, left_out)
            for key, license in self._indexes[path].photographs:
                yield Photograph(f"{relative}/{key}", license)

    def _scan(self, path: Path, left_out: LeftOut) -> _Index:
        """One pass over the headers of a shard, and over its small JSON members."""
        samples: dict[str, _Sample] = {}
        length = path.stat().st_size
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    self._take(tar, member, samples, length, f"{path.name}/", left_out)
                    tar.members = []  # type: ignore[attr-defined]  # it would keep a record of every file
        except (tarfile.TarError, OSError) as error:
            if not samples:
                raise UserError(f"{path} is no plain tar file ({error}); unpack compressed shards first") from error
            left_out.add(path.name, "rest of a damaged shard", str(error))
        complete = {key: s for key, s in samples.items() if s.offset >= 0}
        for key in samples.keys() - complete.keys():
            left_out.add(f"{path.name}/{key}", "no image")
        return _Index(
            Photographs(Photograph(key, s.license or self.license) for key, s in complete.items()),
            array("Q", (s.offset for s in complete.values())),
            array("Q", (s.size for s in complete.values())),
        )

    def _take(
        self,
        tar: tarfile.TarFile,
        member: tarfile.TarInfo,
        samples: dict[str, _Sample],
        length: int,
        prefix: str,
        left_out: LeftOut,
    ) -> None:
        """Note one member of a shard."""
        parts = _MEMBER.match(member.name)
        if not parts or not member.isreg():
            return
        key, extension = parts.groups()
        if not is_utf8(key):
            left_out.add(prefix + key, "unreadable", "its name is not UTF-8")
            return
        sample = samples.setdefault(key, _Sample())
        if extension == "json":
            sample.license = self._license(tar, member)
        elif self._is_image(extension):
            if sample.offset >= 0:
                if self.image:
                    left_out.add(prefix + key, "name occurs twice")
            elif member.sparse or member.size > MAX_BYTES or member.offset_data + member.size > length:
                left_out.add(prefix + key, "unreadable", "is truncated, sparse or too large")
            else:
                sample.offset, sample.size = member.offset_data, member.size

    def _is_image(self, extension: str) -> bool:
        if self.image:
            return extension == self.image
        return f".{extension.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES

    def _license(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
        """The field of a sample's JSON; empty where there is none."""
        file = tar.extractfile(member) if member.size <= MAX_JSON_BYTES else None
        try:
            value: Any = json.loads(file.read()) if file else None
        except (ValueError, RecursionError):  # damaged JSON says nothing of the licence
            return ""
        for part in self.license_field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return str(value) if value is not None else ""

    def _find(self, name: str) -> tuple[Path, int, int]:
        """Shard, offset and size of a photograph."""
        for end in re.finditer("/", name):  # folders and keys may hold slashes
            path = self._shards.get(name[: end.start()])
            if path is not None:
                index = self._index(path)
                (position,) = index.photographs.positions([name[end.end() :]])
                if position >= 0:
                    return path, index.offsets[position], index.sizes[position]
        raise ImageError(name, f"is no shard and key of {self.root}")

    def _index(self, path: Path) -> _Index:
        with self._lock:
            if path not in self._indexes:
                self._indexes[path] = self._scan(path, LeftOut(""))  # in a worker; the plan has reported
            return self._indexes[path]

    def read(self, name: str) -> bytes:
        """The bytes of the image in its shard."""
        path, offset, size = self._find(name)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise ImageError(name, f"cannot be read ({error.strerror or error})") from error
        return data

    def stamp(self, name: str) -> str:
        """Of its shard."""
        return stamp_of(self._find(name)[0])
