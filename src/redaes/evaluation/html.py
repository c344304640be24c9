"""Pages that stand alone: templates filled in, everything escaped, pictures inside the file, no script, no network."""

import base64
import io
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.data.images import ImageError, open_image

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL.Image import Image

THUMBNAIL_SIDE = 320


def render(template: str, **values: Any) -> str:
    """Fill in a template of `redaes/evaluation/templates`; every value is escaped, a missing one is an error."""
    return _environment().get_template(template).render(**values)


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


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("redaes.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number)
    return environment


def _number(value: float | None, digits: int = 2) -> str:
    """A number for a reader: a dash where there is none, a true minus sign."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")
