"""Pages that stand alone: templates filled in, everything escaped, pictures inside the file, no network.

A page either has no script or one of ours, which its content security policy names by hash: nothing that came in with
the data could run even if it were not escaped.
"""

import base64
import hashlib
import io
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.data.images import ImageError, open_image
from redaes.data.manifest import write_atomically
from redaes.errors import UserError
from redaes.evaluation.words import signed

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from PIL.Image import Image

THUMBNAIL_SIDE = 320
LONGEST_TEXT = 2000
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]+")


def render(template: str, *, package: str = "redaes.evaluation", **values: Any) -> str:
    """Fill in a template; every value is escaped, a missing one is an error.

    Args:
        template: its file's name.
        package: whose folder `templates` it is in; what it includes may also be in that of `redaes.evaluation`.
        values: by the names the template has for them.
    """
    return _environment(package).get_template(template).render(**values)


def refuse_unwritable(page: Path) -> None:
    """Say that a page cannot be written before the work for it is done.

    Raises:
        UserError: its name is a folder's, or it is to lie in one that does not exist.
    """
    if page.is_dir() or not page.parent.is_dir():
        reason = "is a folder" if page.is_dir() else f"the folder {page.parent} does not exist"
        raise UserError(f"cannot write --html {page}: {reason}")


def write_page(page: Path, text: str) -> None:
    """Write a page, whole or not at all, and say on stderr how large it is.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_atomically(page, text)
    except OSError as error:
        raise UserError(f"cannot write --html {page}: {error.strerror or error}") from error
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)


def thumbnail(image: "Path | Image", side: int = THUMBNAIL_SIDE) -> str:
    """A picture as a `data:` address to put into a page.

    Args:
        image: a file, or an RGB image.
        side: the longer side of the thumbnail, in pixels.

    Returns:
        The address; empty if the file can no longer be read.
    """
    from PIL.Image import Resampling

    try:
        small = open_image(image, max_side=side) if isinstance(image, Path) else image.copy()
    except ImageError:
        return ""
    small.thumbnail((side, side), Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


class Album:
    """Thumbnails until a page is full.

    Args:
        limit: bytes of all addresses together.
        place: the file of an image by its name.
    """

    def __init__(self, limit: int, place: Callable[[str], Path] = Path) -> None:
        self.room = limit
        self.left_out = 0
        self._place = place

    def picture(self, image: str, side: int = THUMBNAIL_SIDE) -> str:
        """A `data:` address; empty if there is no picture, it is gone or damaged, or the page is full."""
        address = thumbnail(self._place(image), side) if image else ""
        if len(address) > self.room:
            self.left_out += 1
            return ""
        self.room -= len(address)
        return address


def script(name: str) -> "tuple[Markup, str]":
    """A script of `redaes/evaluation/templates`, and the source by which a content security policy allows just it."""
    from markupsafe import Markup

    text = (files("redaes.evaluation") / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return Markup(text), f"'sha256-{digest}'"


def readable(text: str, longest: int = LONGEST_TEXT) -> str:
    """A model's text for a page: control characters and runs of blank lines gone, its length bounded.

    Example:
        >>> readable("a\\r\\n\\n\\nb\\x1b[31m")
        'a\\nb [31m'
        >>> readable("abcdef", 3)
        'abc… [6 characters in all]'
    """
    clean = re.sub(r"\s*\n\s*", "\n", _CONTROLS.sub(" ", text)).strip()
    return clean if len(clean) <= longest else f"{clean[:longest]}… [{len(clean):,} characters in all]"


@cache
def _environment(package: str) -> "Environment":
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("redaes.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, count=_count, short=_short, signed=signed, readable=readable)
    return environment


def _number(value: float | None, digits: int = 2) -> str:
    """A number for a reader: a dash where there is none, a true minus sign."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _count(value: float, digits: int = 0) -> str:
    """A number with its thousands apart."""
    return f"{value:,.{digits}f}"


def _short(name: str, longest: int = 60) -> str:
    """A name, cut where it is too long for its place."""
    clean = " ".join(_CONTROLS.sub(" ", name).split())
    return clean if len(clean) <= longest else f"{clean[: longest - 1]}…"
