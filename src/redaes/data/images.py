"""Open any photograph a person may have, as the upright RGB picture a viewer would show, or say in one line why not.

In: paths of files, folders, globs. Out: Pillow images in mode RGB. Foreign files are hostile: `redaes.decoding` says
what is done to them, and whatever it refuses becomes an `ImageError` that names the file.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from io import BytesIO
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

MAX_BYTES = 1 << 30
"""No file larger than this is read whole; at the cap on pixels, even an uncompressed image of 16 bits is smaller."""

MAX_EXIF = 65_533
"""Bytes that a JPEG's segment has room for."""


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


def decode(data: bytes, name: str, *, max_side: int | None = None) -> "Image":
    """As `open_image`, of bytes that are already here.

    Args:
        data: the encoded image.
        name: what to call it in an error.
        max_side: as of `open_image`.

    Raises:
        ImageError: not an image, corrupt, truncated, or above the cap.
    """
    try:
        return decode_image(data, max_side=max_side)
    except DecodeError as error:
        raise ImageError(name, str(error)) from error


def image_size(file: Path | bytes, name: str) -> tuple[int, int]:
    """Width and height by the header alone: quick, and no proof that the rest is sound.

    Args:
        file: where it is, or its bytes.
        name: what to call it in an error.

    Returns:
        Pixels, before any EXIF orientation.

    Raises:
        ImageError: not an image, or above the cap on pixels.
    """
    from PIL import Image

    if isinstance(file, Path):
        _refuse_what_is_no_file(file)
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as opened:
            width, height = opened.size
    except Exception as error:  # as in decoding: hostile bytes make decoders raise almost anything
        raise ImageError(name, explain(error)) from error
    if width * height > MAX_PIXELS:
        raise ImageError(name, f"is {width} x {height} pixels, above the limit of {MAX_PIXELS / 1e6:.3g} megapixels")
    return width, height


def exif_of(path: str | Path) -> bytes:
    """What the camera wrote into a photograph, for a JPEG that is made of it.

    Args:
        path: an image that `open_image` has opened.

    Returns:
        An EXIF block in which the picture is upright, without the camera's thumbnail; empty if there is none, it cannot
        be read, or a JPEG cannot hold it.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as opened:
            exif = opened.getexif()
            if not exif:
                return b""
            exif[ExifTags.Base.Orientation] = 1
            written = exif.tobytes()
    except Exception:  # as in decoding: hostile bytes make decoders raise almost anything; the picture itself is sound
        return b""
    return written if len(written) <= MAX_EXIF else b""


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file, undecoded.

    Raises:
        ImageError: missing, no regular file, empty, unreadable, or larger than `MAX_BYTES`.
    """
    _refuse_what_is_no_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError(path, explain(error)) from error
    if len(data) > MAX_BYTES:
        raise ImageError(path, f"is larger than {MAX_BYTES >> 20} MiB")
    return data


def path_inside(root: Path, name: str, what: str) -> Path:
    """The file that a foreign name stands for, links followed; never outside a folder.

    Args:
        root: the folder.
        name: relative to it.
        what: the folder, as an error calls it.

    Raises:
        UserError: it leads out of the folder.
    """
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise UserError(f"image path {name!r} leaves {what} {root}")
    return path


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


def walk_images(folder: Path) -> Iterator[str]:
    """Files with an image's suffix under a folder, one by one, by their path relative to it, in the order of paths.

    Hidden files and folders and links to folders are left out.

    Raises:
        UserError: a folder that cannot be listed.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            for name in walk_images(folder / entry.name):
                yield f"{entry.name}/{name}"
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not entry.is_dir():
            yield entry.name


def _images_under(folder: Path) -> list[Path]:
    files = [folder / name for name in walk_images(folder)]
    if not files:
        raise UserError(f"no images in the folder {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return files


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
