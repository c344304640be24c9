"""Open any photograph a person may have, as the upright RGB picture a viewer would show, or say in one line why not.

In: paths of files, folders, globs. Out: Pillow images in mode RGB. Foreign files are hostile: `redaes.decoding` says
what is done to them, and whatever it refuses becomes an `ImageError` that names the file.
"""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.decoding import MAX_PIXELS, DecodeError, decode_image, explain
from redaes.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

VIEW_SIDE = 1024
"""The longer side at which photographs are opened to be scored: twice the square that paper-size models look at."""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".jp2", ".avif", ".heic", ".heif"}
)
"""What counts as an image inside a folder; a file named by itself is opened whatever it is called."""


class ImageError(UserError):
    """An image that cannot be used. The message is one line that begins with its path.

    Args:
        path: the file.
        reason: what is wrong with it, and what would be right.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, max_side: int | None = None) -> "Image":
    """Load one image as upright RGB.

    Args:
        path: the file, of any format Pillow reads.
        max_pixels: images with more pixels than this in their header are refused undecoded. Pillow's own limit of
            179 million pixels holds whatever is given here.
        max_side: if given, the longer side of the result is at most this many pixels. JPEGs are then decoded at a
            half, a quarter or an eighth of their size, where that is at least one and a half times `max_side`, which
            is faster.

    Returns:
        The image, in mode RGB, never enlarged.

    Raises:
        ImageError: missing, a folder, empty, not an image, corrupt, truncated, or above the cap.
    """
    path = Path(path)
    _refuse_what_is_no_file(path)
    try:
        return decode_image(path, max_pixels=max_pixels, max_side=max_side)
    except DecodeError as error:
        raise ImageError(path, str(error)) from error


def list_images(paths: Iterable[str | Path]) -> list[Path]:
    """Every image the arguments name: files, folders (recursively, sorted), and globs.

    A file named by itself is taken as it is. In folders only files with an image's suffix count, hidden ones and
    links to folders are left out. The same file is listed once, at its first place.

    Args:
        paths: what a person typed. An existing path is never read as a pattern.

    Raises:
        UserError: a path that does not exist, a pattern without a match, a folder without an image, or no argument.
    """
    found = [file for path in paths for file in _expand(Path(path))]
    if not found:
        raise UserError("no images were named: give files, folders or patterns such as 'photos/*.jpg'")
    return list(dict.fromkeys(found))


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        return _images_under(path)
    if path.exists() or path.is_symlink():
        return [path]
    if not glob.has_magic(str(path)):
        raise UserError(f"no such file or folder: {path}")
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in matches if file.is_file()]
    if not files:
        raise UserError(f"no file matches the pattern {str(path)!r}")
    return files


def _images_under(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, n) for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES and not n.startswith(".")]
    if not files:
        raise UserError(f"no images in the folder {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(files)


def _refuse_what_is_no_file(path: Path) -> None:
    try:
        if not path.exists():
            raise ImageError(path, "no such file")
        if path.is_dir():
            raise ImageError(path, "is a folder, not an image")
        if not path.is_file():
            raise ImageError(path, "is not a regular file")
        if path.stat().st_size == 0:
            raise ImageError(path, "is empty (0 bytes)")
    except (OSError, ValueError) as error:  # no permission on a parent folder, a name too long, a NUL in it
        raise ImageError(path, explain(error)) from error
