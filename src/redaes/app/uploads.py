"""What a person dropped onto the page: opened as a photograph, or refused in one line that names the file.

A browser sends whatever it is given, whatever it is called: only the bytes say what a file is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from redaes.data.images import VIEW_SIDE
from redaes.decoding import DecodeError, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PHOTOGRAPHS = 100
"""Photographs scored at a time; what is more is left out, and said to be."""

MOST_BYTES = 50 << 20
"""Of one file: a JPEG of 89 megapixels is smaller."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
"""What photographs come in; formats whose readers call other programs, as EPS does, are not among them."""

KNOWN_FORMATS = ", ".join(name for name in FORMATS if name != "MPO")
"""As a person knows them: MPO is a JPEG with a second picture."""


class Upload(NamedTuple):
    """A file as it came in.

    Attributes:
        path: where the server put it.
        name: what its owner calls it.
    """

    path: str
    name: str


@dataclass(frozen=True)
class Photograph:
    """A file that is one.

    Attributes:
        name: what its owner calls it.
        image: upright RGB, at most `VIEW_SIDE` pixels wide and high.
    """

    name: str
    image: "Image"


@dataclass(frozen=True)
class Refused:
    """A file that cannot be used.

    Attributes:
        name: what its owner calls it.
        reason: one line that follows its name.
    """

    name: str
    reason: str


def opened(upload: Upload) -> Photograph | Refused:
    """The photograph in a file, or why there is none."""
    from PIL import UnidentifiedImageError

    path = Path(upload.path)
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            return Refused(upload.name, f"is larger than {MOST_BYTES >> 20} MB")
        if not size:
            return Refused(upload.name, "is empty")
        return Photograph(upload.name, decode_image(path, max_side=VIEW_SIDE, formats=FORMATS))
    except OSError:
        return Refused(upload.name, "is no longer there; drop it again")
    except DecodeError as error:
        unknown = isinstance(error.__cause__, UnidentifiedImageError)
        return Refused(
            upload.name, f"is not a photograph in a known format ({KNOWN_FORMATS})" if unknown else str(error)
        )


def within_limit(uploads: Sequence[Upload]) -> tuple[list[Upload], list[Refused]]:
    """The first `MOST_PHOTOGRAPHS` files, and the rest refused."""
    too_many = f"is left out: {MOST_PHOTOGRAPHS} photographs are scored at a time"
    return list(uploads[:MOST_PHOTOGRAPHS]), [Refused(u.name, too_many) for u in uploads[MOST_PHOTOGRAPHS:]]
