"""Images by what they show: a picture and its hash, and the folder where edited images are kept under theirs.

    objects/ab/<sha256>.png    lossless; `ab` are the first two digits
    objects/unfinished/        files being written; a crash leaves them behind, the next build removes them

A file gets its name only when it is whole and on the disk, so a name that is there can be referred to by a ledger.
Every image is checked against its name when it is read.
"""

import hashlib
import logging
import os
import re
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

from redaes.data.images import ImageError, open_image
from redaes.engine.segments import sync
from redaes.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


def pixel_hash(image: "Image") -> str:
    """SHA-256, in hexadecimal, of an RGB image's size and pixels; file format and metadata do not matter."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def is_undamaged(file: "Path | IO[bytes]") -> bool:
    """Whether a PNG file has the right checksums; the pixels are not decoded."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):  # what Pillow raises on a broken PNG
        return False
    return True


class Picture(NamedTuple):
    """An RGB image, not to be changed in place, with its hash: computed once, used in many keys."""

    image: "Image"
    sha: str

    @classmethod
    def of(cls, image: "Image") -> "Picture":
        """The picture of an image of any mode."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return cls(rgb, pixel_hash(rgb))


class Objects(Protocol):
    """Where images are kept under the hash of their pixels; see `ObjectStore`."""

    def put(self, image: "Image | Picture", durable: bool = True) -> str:
        """Keep an image; returns its hash."""
        ...

    def get(self, sha: str) -> "Image | None":
        """The image of a hash, checked; None if it is not there."""
        ...

    def has(self, sha: str) -> bool:
        """Whether there is a file of this name; it is not read."""
        ...

    def is_whole(self, sha: str) -> bool:
        """Whether the file is there and undamaged; a damaged one goes."""
        ...

    def copy(self, sha: str, path: Path) -> None:
        """Copy the file as it is."""
        ...


class ObjectStore:
    """Images in a folder, named by their pixels. Threads and processes may share it.

    Args:
        folder: made when the first image comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unfinished = folder / "unfinished"

    def path(self, sha: str) -> Path:
        """Where an image is or would be.

        Raises:
            ValueError: `sha` is no SHA-256 in hexadecimal.
        """
        if not re.fullmatch("[0-9a-f]{64}", sha):
            raise ValueError(f"{sha!r} is not the name of an object; it has 64 hexadecimal digits")
        return self.folder / sha[:2] / f"{sha}.png"

    def has(self, sha: str) -> bool:
        """Whether there is a file of this name; it is not read."""
        return self.path(sha).is_file()

    def is_whole(self, sha: str) -> bool:
        """Whether the file is there with the right checksums; the pixels are not decoded. A damaged one goes."""
        path = self.path(sha)
        whole = is_undamaged(path)
        if not whole:
            path.unlink(missing_ok=True)
        return whole

    def copy(self, sha: str, path: Path) -> None:
        """Copy the file as it is.

        Raises:
            OSError: it is not there, or cannot be written.
        """
        shutil.copyfile(self.path(sha), path)

    def put(self, image: "Image | Picture", durable: bool = True) -> str:
        """Keep an image; it is on the disk, under its name, when this returns.

        Args:
            image: RGB, or of a mode to be made RGB.
            durable: False for what costs nothing to make again: a power cut may lose or damage it, which `get` notices.

        Returns:
            Its hash.

        Raises:
            UserError: it cannot be written.
        """
        picture = image if isinstance(image, Picture) else Picture.of(image)
        path = self.path(picture.sha)
        try:
            if self.get(picture.sha) is None:
                self._write(picture, path, durable)
            elif durable:
                sync(path)  # it may have come in a hurry
            if durable:
                sync(path.parent)  # also where another thread has just given the file its name
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        return picture.sha

    def get(self, sha: str) -> "Image | None":
        """The image of a hash; None if it is not there, or not what its name says. Such a file is set aside.

        Raises:
            ValueError: as `path`.
        """
        path = self.path(sha)
        if not path.is_file():
            return None
        try:
            image = open_image(path)
            cause = "" if pixel_hash(image) == sha else "its pixels are not those of its name"
        except ImageError as error:
            cause = error.reason
        if not cause:
            return image
        log.warning("%s is damaged (%s); it counts as missing", path, cause)
        with suppress(OSError):  # another thread was first, or nothing can be written here
            path.replace(path.with_suffix(".damaged"))
        return None

    def remove_unfinished(self) -> None:
        """Delete what crashes left behind; no other process may be writing."""
        for path in self._unfinished.glob("*.png"):
            path.unlink()

    def _write(self, picture: Picture, path: Path, durable: bool) -> None:
        for folder in (self._unfinished, path.parent):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                sync(self.folder)
                sync(self.folder.parent)
        unfinished = self._unfinished / f"{picture.sha}.{os.getpid()}.{threading.get_ident()}.png"
        try:
            with unfinished.open("wb") as file:
                picture.image.save(file, "PNG", compress_level=4)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
