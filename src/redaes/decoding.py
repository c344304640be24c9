"""Bytes that somebody else wrote, as the upright RGB picture a viewer would show, or one line on why not.

Foreign images are hostile: sizes are capped before a pixel is decoded, and whatever a decoder trips over becomes a
`DecodeError`. What is done:

- EXIF orientation is applied; an animation gives its first frame.
- Colours are brought to sRGB through the embedded profile (CMYK, Display P3, ...); without one, or with a broken one,
  Pillow's plain conversion is used.
- Transparency is composited on white, as paper and most browsers show it.
- Gray of 16 bits is scaled to 8, not clipped.
"""

import struct
from collections.abc import Sequence
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_000_000
"""The default cap, a little under Pillow's own warning level: some 270 MB of RGB."""

_ORIENTATION_TAG = 0x0112
_MODES_WITH_ALPHA = {"RGBA", "LA", "PA", "La", "RGBa"}


class DecodeError(ValueError):
    """An image that cannot be used; the message says what is wrong with it, such as `is truncated: ...`."""


def decode_image(
    file: Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_side: int | None = None,
    formats: Sequence[str] | None = None,
    verify: bool = False,
) -> "Image":
    """Decode one image as upright RGB.

    Args:
        file: where it is, or its bytes.
        max_pixels: images with more pixels than this in their header are refused undecoded. Pillow's own limit of
            179 million pixels holds whatever is given here.
        max_side: if given, the longer side of the result is at most this many pixels. JPEGs are then decoded at a
            half, a quarter or an eighth of their size, where that is at least one and a half times `max_side`, which
            is faster.
        formats: Pillow's names of the formats that may be read, such as `["PNG", "JPEG"]`; None: all it can. One that
            this Pillow was built without is not read.
        verify: check the checksums of formats that have them first; one damaged PNG in a hundred decodes otherwise.

    Returns:
        The image, in mode RGB, never enlarged.

    Raises:
        DecodeError: not an image of these formats, corrupt, truncated, or above the cap.
    """
    try:
        if verify:
            _verify(BytesIO(file) if isinstance(file, bytes) else file, formats)
        return _decode(BytesIO(file) if isinstance(file, bytes) else file, max_pixels, max_side, formats)
    except DecodeError:
        raise
    except Exception as error:
        # Decoders raise almost anything on hostile bytes; whatever it was, these cannot be used.
        raise DecodeError(explain(error)) from error


def _known(formats: Sequence[str] | None) -> list[str] | None:
    """Those that this Pillow has: AVIF is not in every one."""
    from PIL import Image

    if formats is None:
        return None
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def _verify(file: Path | BytesIO, formats: Sequence[str] | None) -> None:
    from PIL import Image

    with Image.open(file, formats=_known(formats)) as opened:
        opened.verify()


def _decode(file: Path | BytesIO, max_pixels: int, max_side: int | None, formats: Sequence[str] | None) -> "Image":
    from PIL import Image

    with Image.open(file, formats=_known(formats)) as opened:
        width, height = opened.size
        if width * height > max_pixels:
            limit = f"the limit of {max_pixels / 1e6:.3g} megapixels"
            raise DecodeError(f"is {width} x {height} pixels, above {limit}; make it smaller first")
        if max_side is not None:
            enough = min(1.0, 1.5 * max_side / max(width, height))
            opened.draft(None, (ceil(width * enough), ceil(height * enough)))  # nothing unless it is a JPEG
        opened.load()
        return _as_seen(opened, max_side)


def as_seen(image: "Image", max_side: int | None = None) -> "Image":
    """An image that Pillow has opened, or made, as `decode_image` would give it; the image itself is left as it is.

    Args:
        image: of any mode.
        max_side: if given, the longer side of the result is at most this many pixels.

    Returns:
        Upright RGB; the image itself if it is that already.

    Raises:
        DecodeError: an image opened lazily whose file cannot be decoded.
    """
    if image.mode == "RGB" and not image.info and (max_side is None or max(image.size) <= max_side):
        return image
    try:
        return _as_seen(image, max_side)
    except Exception as error:  # as in `decode_image`
        raise DecodeError(explain(error)) from error


def _as_seen(image: "Image", max_side: int | None) -> "Image":
    from PIL import Image

    orientation = _orientation(image)
    seen = _to_srgb(image)
    if max_side is not None:
        seen.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    seen = _upright(seen, orientation)
    seen.info = {}  # its orientation and its colour profile hold no longer
    return seen


def _orientation(image: "Image") -> int:
    """The EXIF orientation, 1 if there is none or the EXIF block is broken (viewers ignore it as well)."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1


def _upright(image: "Image", orientation: int) -> "Image":
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: "Image") -> "Image":
    """A new RGB image of the same size: sample depth, transparency and colour space resolved."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_gray_to_8_bits(image).convert("RGB")
    if image.mode in _MODES_WITH_ALPHA or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.mode in {"RGB", "CMYK"} and image.info.get("icc_profile"):
        return _through_profile(image, image.info["icc_profile"])
    return image.convert("RGB")


def _deep_gray_to_8_bits(image: "Image") -> "Image":
    """Gray of 16 or 32 bits: [0, 65535] (integers), [0, 1] (floats), or [0, brightest] where the file exceeds that."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    usual_white = 1.0 if image.mode == "F" else 65535.0
    white = max(usual_white, float(values.max()))
    return Image.fromarray(np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8))


def _on_white(image: "Image") -> "Image":
    from PIL import Image

    profile = image.info.get("icc_profile")
    opaque = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return _through_profile(opaque, profile) if profile else opaque


def _lab_to_rgb(image: "Image") -> "Image":
    from PIL import ImageCms

    return _converted(image, ImageCms.createProfile("LAB"))


def _through_profile(image: "Image", profile: bytes) -> "Image":
    from PIL import ImageCms

    try:
        embedded = ImageCms.ImageCmsProfile(BytesIO(profile))
        if image.mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(embedded):
            return image.convert("RGB")
        return _converted(image, embedded.profile)
    except (ImageCms.PyCMSError, OSError):  # a broken profile, or one for another colour space
        return image.convert("RGB")


def _converted(image: "Image", profile: object) -> "Image":
    from PIL import ImageCms

    result = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")  # type: ignore[arg-type]
    assert result is not None
    return result


def explain(error: BaseException) -> str:
    """What went wrong with an image, in one line that follows its name."""
    from PIL import Image, UnidentifiedImageError

    match error:
        case UnidentifiedImageError():
            return "is not an image in a format Pillow can read"
        case Image.DecompressionBombError():
            return f"is far larger than the limit of {MAX_PIXELS / 1e6:.3g} megapixels; make it smaller first"
        case PermissionError():
            return "cannot be read (permission denied)"
        case OSError() if "truncated" in str(error):
            return "is truncated: the file ends before the image does"
        case MemoryError():
            return "does not fit into memory"
    return f"cannot be decoded, it is damaged ({' '.join(str(error).split()) or type(error).__name__})"
