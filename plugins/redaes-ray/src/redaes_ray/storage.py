"""A place for files: a folder, a bucket, or whatever else pyarrow or fsspec can reach. Files are written whole.

    Storage.of("runs/photos.ledger")            a folder, also a shared one (NFS, Lustre)
    Storage.of("s3://bucket/photos.ledger")     Amazon S3 and what speaks its protocol; `gs://` likewise (pyarrow.fs)
    Storage.of("abfs://container/photos")       any other scheme that fsspec knows, with the package it names

A file gets its name when all of it is there, and is durable when `write` returns. In a folder that is a file of another
name, synced, renamed, and the folder synced; in an object store it is one PUT. Of an object store it is expected that
what was written is listed and read by everybody at once, as S3 promises since 2020.

Keys come from the environment, as the vendors' own tools read them (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`,
`GOOGLE_APPLICATION_CREDENTIALS`, ...). A URL with a key in it is refused, for URLs are written into files. An endpoint
other than Amazon's is `s3://bucket/path?endpoint_override=HOST:PORT&scheme=http`, or `AWS_ENDPOINT_URL`.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import pyarrow
import pyarrow.fs as pafs

from redaes.engine.segments import sync
from redaes.errors import UserError
from redaes.redaction import BLOT, keep_secret, redact

AT_ONCE = 16
"""Requests to an object store at a time, of one process."""

UNFINISHED = "unfinished"
"""The folder of files that are being written."""

_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING")
_SETTINGS = ("region", "scheme", "endpoint_override", "allow_delayed_open", "force_virtual_addressing")
_PUT_WHOLE = ("s3", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory")
"""Schemes whose files appear when they are closed, and not before."""

T = TypeVar("T")
R = TypeVar("R")
_numbers = count()


class Missing(UserError):
    """There is no such file."""


class Stored(NamedTuple):
    """A file that was listed: its name below the storage's root, its bytes, when it was written in ns since 1970."""

    name: str
    size: int
    modified: int


class Storage:
    """Files under a root. Any thread may use it. Make one with `Storage.of`.

    Args:
        url: of the root, without keys.
        filesystem: pyarrow's.
        root: the root's path in it.
        renames: new files are written under another name and renamed; else they appear when they are whole.

    Attributes:
        url: as above.
        folder: the root, if it is a local folder.
    """

    def __init__(self, url: str, filesystem: pafs.FileSystem, root: str, renames: bool = False) -> None:
        self.url = url
        self.folder = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None
        self._files = filesystem
        self._root = root.rstrip("/")
        self._renames = renames
        self._known: set[str] = set()

    @classmethod
    def of(cls, url: str | Path) -> "Storage":
        """The storage of a path or URL; nothing is made or asked yet, as far as the vendor's library allows that.

        Args:
            url: a path, or `SCHEME://...`.

        Raises:
            UserError: the URL holds a key, nothing knows its scheme, or it is no URL of its scheme.
        """
        scheme, colon, place = str(url).partition("://")
        if not colon or isinstance(url, Path):
            path = os.path.abspath(url)
            return cls(path, pafs.LocalFileSystem(), path)
        if not place.partition("?")[0].strip("/"):
            raise UserError(f"{url} names no place; write {scheme}://BUCKET/PATH")
        url = str(url).rstrip("/")
        label = without_keys(url)
        if label != url:
            raise UserError(f"{label} has a key in it; leave it out, and set it in the environment")
        for variable in _SECRETS:
            keep_secret(variable)
        try:
            filesystem, root = _filesystem(scheme, url)
        except ImportError as error:
            raise UserError(f"{label} needs a package that is not installed: {error}") from error
        except (ValueError, OSError, pyarrow.ArrowException) as error:
            raise UserError(f"cannot use {label}: {_one_line(error)}") from error
        if isinstance(filesystem, pafs.LocalFileSystem):
            return cls(root, filesystem, root)
        return cls(label, filesystem, root, renames=scheme not in _PUT_WHOLE)

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file, or replace it; readers see the old one or the new one.

        Args:
            name: below the root, with `/`.
            data: all of it.
            durable: False for what costs nothing to make again: a power cut may lose it where the root is a folder.

        Raises:
            UserError: it cannot be written.
        """
        with self._explaining("write", name):
            if self.folder is not None:
                self._write_locally(self.folder, name, data, durable)
                return
            path = self._path(name)
            if self._renames:
                self._make_room(str(PurePosixPath(path).parent))
                self._make_room(self._path(UNFINISHED))
            target = self._path(f"{UNFINISHED}/{_unique(name)}") if self._renames else path
            with self._files.open_output_stream(target) as file:
                file.write(data)
            if self._renames:
                self._files.move(target, path)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, those that are there; in no order.

        Raises:
            UserError: one cannot be deleted.
        """
        self.in_parallel(self._delete, list(names))

    def remove_unfinished(self) -> None:
        """Delete files that crashes have left half written, an hour ago or more.

        Raises:
            UserError: one cannot be deleted.
        """
        old = time.time() - 3600
        unfinished = self._list(UNFINISHED, False, pafs.FileType.File)
        self.delete(name for name, info in unfinished if info.mtime_ns is not None and info.mtime_ns < old * 1e9)

    def _delete(self, name: str) -> None:
        with self._explaining("delete", name):
            try:
                self._files.delete_file(self._path(name))
            except FileNotFoundError:
                return

    def _write_locally(self, root: Path, name: str, data: bytes, durable: bool) -> None:
        path, unfinished = os.path.join(root, name), os.path.join(root, UNFINISHED, _unique(name))
        try:
            _put(unfinished, path, data, durable)
        except FileNotFoundError:  # a folder is missing, which is seldom and is not looked for each time
            for file in (path, unfinished):
                _make_durably(Path(file).parent)
            _put(unfinished, path, data, durable)

    def _make_room(self, path: str) -> None:
        if path not in self._known:
            self._files.create_dir(path, recursive=True)
            self._known.add(path)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """All of a file.

        Raises:
            Missing: there is none.
            UserError: it cannot be read.
        """
        with self._explaining("read", name), self._files.open_input_stream(self._path(name)) as file:
            return bytes(file.read())

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A file to read parts of, as pyarrow's NativeFile; errors of reading are explained as those of `read`."""
        with self._explaining("read", name), self._files.open_input_file(self._path(name)) as file:
            yield file

    def exists(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            UserError: nobody can tell.
        """
        with self._explaining("read", name):
            return bool(self._files.get_file_info(self._path(name)).type == pafs.FileType.File)

    def files(self, prefix: str, recursive: bool = False) -> list[Stored]:
        """The files of a folder, sorted by name; none where there is no such folder.

        Raises:
            UserError: it cannot be listed.
        """
        return [
            Stored(name, info.size, info.mtime_ns or 0)
            for name, info in self._list(prefix, recursive, pafs.FileType.File)
        ]

    def folders(self, prefix: str) -> list[str]:
        """The names, below the root, of a folder's folders.

        Raises:
            UserError: it cannot be listed.
        """
        return [name for name, _ in self._list(prefix, False, pafs.FileType.Directory)]

    def download(self, name: str, path: Path) -> None:
        """Copy a file to a local path.

        Raises:
            Missing: there is none.
            UserError: it cannot be read.
            OSError: `path` cannot be written.
        """
        path.write_bytes(self.read(name))

    def _list(self, prefix: str, recursive: bool, kind: Any) -> list[tuple[str, Any]]:
        where = self._path(prefix)
        with self._explaining("list", prefix):
            selector = pafs.FileSelector(where, allow_not_found=True, recursive=recursive)
            found = self._files.get_file_info(selector)
        return sorted((f"{prefix}/{info.path[len(where) :].strip('/')}", info) for info in found if info.type == kind)

    # --- both ---------------------------------------------------------------------------------------------------------

    def in_parallel(self, function: Callable[[T], R], some: Sequence[T]) -> Iterator[R]:
        """Apply a function that waits for the storage to many things, several at a time; the results in their order."""
        if len(some) < 2:
            return iter([function(one) for one in some])
        with ThreadPoolExecutor(min(AT_ONCE, len(some))) as pool:
            return iter(list(pool.map(function, some)))

    def where(self, name: str) -> str:
        """A file's full name, for messages."""
        url, query, settings = self.url.partition("?")
        return f"{url}/{name}{query}{settings}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _explaining(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Missing(f"cannot {verb} {self.where(name)}: there is none") from error
        except OSError as error:
            raise UserError(f"cannot {verb} {self.where(name)}: {_one_line(error)}") from error


def without_keys(url: str) -> str:
    """A URL as it may be shown: names, passwords and settings that nobody knows are blotted out.

    Example:
        >>> without_keys("s3://AKIA123:pass@bucket/photos?region=eu-west-1&secret_key=x")
        's3://[redacted]@bucket/photos?region=eu-west-1&secret_key=[redacted]'
    """
    url = re.sub(r"^([\w.+-]+://)[^/?#]*@", rf"\1{BLOT}@", url)
    place, question, settings = url.partition("?")
    pairs = [pair.partition("=") for pair in settings.split("&")]
    shown = "&".join(
        pair if name in _SETTINGS else f"{name}={BLOT}" for name, _, value in pairs for pair in [f"{name}={value}"]
    )
    return redact(place) + (f"?{shown}" if question else "")


def _filesystem(scheme: str, url: str) -> Any:
    """pyarrow's own file system of a URL, else fsspec's, and the path in it."""
    if scheme == "s3":
        # Without this a PUT of a small file would be three requests of a multipart upload.
        return pafs.FileSystem.from_uri(f"{url}{'&' if '?' in url else '?'}allow_delayed_open=true")
    if scheme in ("file", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"):
        return pafs.FileSystem.from_uri(url)
    import fsspec  # type: ignore[import-untyped]

    filesystem, path = fsspec.core.url_to_fs(url)
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def _unique(name: str) -> str:
    """A name that no other thread or process gives to an unfinished file."""
    return f"{name.rpartition('/')[2]}.{os.getpid()}.{threading.get_ident()}.{next(_numbers)}"


def _put(unfinished: str, path: str, data: bytes, durable: bool) -> None:
    """Write a file beside its place, and put it there."""
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
    if durable:
        sync(os.path.dirname(path))


def _make_durably(folder: Path) -> None:
    """Make a folder and those above it, each entry on the disk."""
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        _make_durably(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def _one_line(error: BaseException) -> str:
    said = getattr(error, "strerror", None) or str(error)
    return redact(" ".join(str(said).split()))[:500] or type(error).__name__
