"""Edited images of a ledger on any storage, named and laid out as the core's: `objects/ab/<sha256>.png`."""

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.data.images import ImageError, decode
from redaes.engine.objects import ObjectStore, Picture, is_undamaged, pixel_hash
from redaes_ray.storage import Missing, Storage

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


class BlockObjects:
    """Images by the hash of their pixels. Threads and processes may share them.

    Args:
        storage: of the ledger.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def name(self, sha: str) -> str:
        """Where an image is or would be, below the storage's root.

        Raises:
            ValueError: `sha` is no SHA-256 in hexadecimal.
        """
        return ObjectStore(Path("objects")).path(sha).as_posix()

    def put(self, image: "Image | Picture", durable: bool = True) -> str:
        """Keep an image; it is in the storage, under its name, when this returns.

        Args:
            image: RGB, or of a mode to be made RGB.
            durable: False for what costs nothing to make again: where the storage is a folder a power cut may lose it.

        Returns:
            Its hash.

        Raises:
            UserError: it cannot be written.
        """
        picture = image if isinstance(image, Picture) else Picture.of(image)
        if durable or self.get(picture.sha) is None:
            # Durably again if need be: it may have come in a hurry.
            file = io.BytesIO()
            picture.image.save(file, "PNG", compress_level=4)
            self._storage.write(self.name(picture.sha), file.getvalue(), durable)
        return picture.sha

    def get(self, sha: str) -> "Image | None":
        """The image of a hash; None if it is not there, or not what its name says. Such a file is set aside.

        Raises:
            ValueError: as `name`.
            UserError: the storage cannot be read.
        """
        name = self.name(sha)
        try:
            data = self._storage.read(name)
        except Missing:
            return None
        try:
            image = decode(data, self._storage.where(name))
            cause = "" if pixel_hash(image) == sha else "its pixels are not those of its name"
        except ImageError as error:
            cause = error.reason
        if not cause:
            return image
        log.warning("%s is damaged (%s); it counts as missing", self._storage.where(name), cause)
        self._storage.write(name.removesuffix(".png") + ".damaged", data)
        self._storage.delete([name])
        return None

    def has(self, sha: str) -> bool:
        """Whether an image's file is there; it is not opened.

        Raises:
            ValueError: as `name`.
            UserError: nobody can tell.
        """
        return self._storage.exists(self.name(sha))

    def copy(self, sha: str, path: Path) -> None:
        """Copy an image's PNG file to a local path.

        Raises:
            ValueError: as `name`.
            UserError: it is not there, or cannot be read.
            OSError: `path` cannot be written.
        """
        self._storage.download(self.name(sha), path)

    def is_whole(self, sha: str) -> bool:
        """Whether an image's file is there with the right checksums; the pixels are not decoded. A damaged one goes.

        Raises:
            ValueError: as `name`.
            UserError: the storage cannot be read.
        """
        try:
            whole = is_undamaged(io.BytesIO(self._storage.read(self.name(sha))))
        except Missing:
            return False
        if not whole:
            self._storage.delete([self.name(sha)])
        return whole
