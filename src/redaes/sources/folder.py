"""A folder of the user's own photographs."""

import logging
import os
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
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder; give the folder that holds the photographs")
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
        """The photograph as an upright RGB image.

        Args:
            name: as `photographs` lists it. A link inside the folder may lead anywhere; a name may not.

        Raises:
            UserError: a name that leads out of the folder, or an image that cannot be read.
        """
        path = Path(os.path.normpath(self.root / name))
        if not path.is_relative_to(os.path.normpath(self.root)):
            raise UserError(f"photograph {name!r} lies outside {self.root}")
        return open_image(path)
