"""A folder of the user's own photographs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.data.images import ImageError, image_size, open_image, read_image_file, walk_images
from redaes.errors import UserError
from redaes.sources import Photograph
from redaes.sources.listing import EncodedPhotos, LeftOut, Photographs, inside, is_utf8, stamp_of

if TYPE_CHECKING:
    from PIL.Image import Image


class FolderPhotos(EncodedPhotos):
    """Every photograph under a folder, upright. Files whose header is no image's are reported and left out.

    Args:
        root: the folder, searched recursively.
        license: what is recorded as the licence of every photograph.
        report: a CSV file to name in what was left out and why; empty: the log names some.
    """

    def __init__(self, root: str, license: str = "your own", report: str = "") -> None:
        self.root = Path(root)
        self.license = license
        self.report = report

    def photographs(self) -> Photographs:
        """Names are paths relative to the root, in sorted order.

        Raises:
            UserError: the folder is missing or holds no readable image.
        """
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder; give the folder that holds the photographs")
        with LeftOut(str(self.root), self.report) as left_out:
            readable = Photographs(self._readable(left_out))
        self.left_out = left_out.counts
        if not readable:
            raise UserError(f"no readable photograph in {self.root}")
        return readable

    def _readable(self, left_out: LeftOut) -> Iterator[Photograph]:
        for name in walk_images(self.root):
            try:
                image_size(self.root / name, name)
            except ImageError as error:
                left_out.add(name, "unreadable", error.reason)
                continue
            if is_utf8(name):
                yield Photograph(name, self.license)
            else:
                left_out.add(name, "unreadable", "its name is not UTF-8")

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        return read_image_file(inside(self.root, name))

    def stamp(self, name: str) -> str:
        """Size and time of the file."""
        return stamp_of(inside(self.root, name))

    def open(self, name: str) -> "Image":
        """The photograph as an upright RGB image.

        Args:
            name: as `photographs` lists it. A link inside the folder may lead anywhere; a name may not.

        Raises:
            UserError: a name that leads out of the folder.
            ImageError: an image that cannot be read.
        """
        return open_image(inside(self.root, name))
