"""The picture that a far side sent as its edit: what every paid editor, ours or a third party's, takes and refuses.

In: bytes of anybody's making, and the source they are to be an edit of. Out: RGB at the source's size, or
`UnusableAnswer`, upon which the engine asks again.
"""

from io import BytesIO
from math import log
from typing import TYPE_CHECKING

from redaes.calls import UnusableAnswer
from redaes.decoding import DecodeError, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
"""What image models answer in, by Pillow's names; nothing else is opened."""

MAX_ANSWER_PIXELS = 36_000_000
"""Twice the 4096 x 4096 that the largest of today's editors make [O]."""

MAX_ANSWER_BYTES = 64 * 2**20
"""Of an answer with its picture in base64: a PNG of 4000 x 4000 fits, whatever its pixels [O]."""

ASPECT_TOLERANCE = 0.03
"""Models round sides to multiples of 16 to 64 pixels; beyond this share the framing was changed [O]."""

SMALLEST_SHARE = 0.25
"""An answer with a side below this share of the source's is no edit of it, however it is enlarged [O]."""


def read_answer(data: bytes, source: "Image") -> "Image":
    """The edited picture, at the source's size.

    Args:
        data: an encoded picture as it came.
        source: what was edited.

    Returns:
        RGB. Same aspect in another size is resized (Lanczos).

    Raises:
        UnusableAnswer: not a picture, of another format than `FORMATS`, damaged, too large to be decoded, of another
            aspect than the source, or far smaller.
    """
    try:
        edited = decode_image(data, max_pixels=MAX_ANSWER_PIXELS, formats=FORMATS, verify=True)
    except DecodeError as error:
        raise UnusableAnswer(f"the picture it sent {str(error).partition(';')[0]}") from error
    sizes = (
        f"the picture it sent is {edited.width} x {edited.height} pixels, the source {source.width} x {source.height}"
    )
    if min(edited.width / source.width, edited.height / source.height) < SMALLEST_SHARE:
        raise UnusableAnswer(sizes)
    if not same_aspect(edited.size, source.size):
        raise UnusableAnswer(f"{sizes}: another aspect")
    return at_size(edited, source.size)


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have the same ratio of width to height, to `ASPECT_TOLERANCE` or the pixel it was rounded to.

    Example:
        >>> same_aspect((1024, 1024), (512, 512)), same_aspect((1536, 1024), (512, 512))
        (True, False)
    """
    rounding = 0.5 / min(*one, *other)
    return abs(log(one[0] * other[1] / (one[1] * other[0]))) <= max(ASPECT_TOLERANCE, rounding)


def at_size(image: "Image", size: tuple[int, int]) -> "Image":
    """The image in RGB at this size in pixels, untouched where it has it."""
    from PIL.Image import Resampling

    image = image.convert("RGB")
    return image if image.size == size else image.resize(size, Resampling.LANCZOS)


def png(image: "Image") -> bytes:
    """The image as a PNG, to be sent."""
    data = BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()
