"""A folder of the user's own photographs."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.data.images import ImageError, list_images, open_image
from redaes.errors import UserError
from redaes.sources import Photograph

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


class FolderPhotos:
    """Every readable photograph under a folder, upright; unreadable ones are reported and left out.

    Args:
        root: the folder, searched recursively.
        license: what is recorded as the licence of every photograph.

    Raises:
        UserError: the folder is missing or holds no readable image.
    """

    def __init__(self, root: str, license: str = "your own") -> None:
        self.root = Path(root)
        self.license = license

    def photographs(self) -> list[Photograph]:
        """Names are paths relative to the root, in sorted order."""
        readable = []
        for path in list_images([self.root]):
            try:
                open_image(path, max_side=64)
            except ImageError as error:
                log.warning("left out: %s", error)
                continue
            readable.append(Photograph(path.relative_to(self.root).as_posix(), self.license))
        if not readable:
            raise UserError(f"no readable photograph in {self.root}")
        return readable

    def open(self, name: str) -> "Image":
        """The photograph as an upright RGB image."""
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise UserError(f"photograph {name!r} lies outside {self.root}")
        return open_image(path)
