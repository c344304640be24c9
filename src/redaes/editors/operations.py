"""The table of edits that the offline demo knows: what each is called, what it is for, how it is done.

One row per operation: its family, whether it is quality- or content-oriented (Sec. 4.4), whether it is meant to
improve, how an instructor asks for it, and the operator, which is a library's where a library has it. Operators take
an RGB image, a strength (1 is a clear effect) and a random generator, and return an RGB image of the same size.
"""

import io
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageChops, ImageEnhance, ImageFilter, ImageOps
from PIL.Image import Image

from redaes.records import Instruction, Orientation

Family = Literal["tone", "colour", "detail", "geometry", "content"]
Operator = Callable[[Image, float, random.Random], Image]

STRENGTHS = {"slightly": 0.6, "clearly": 1.0, "strongly": 1.5}


def to_float(image: Image) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1]."""
    return np.asarray(image, dtype=np.float32) / 255.0


def to_image(values: NDArray[Any]) -> Image:
    """An RGB image from (H, W, 3) in [0, 1], clipped and rounded."""
    return PILImage.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


def _gamma(exponent: Callable[[float], float]) -> Operator:
    def operator(image: Image, strength: float, rng: random.Random) -> Image:
        from skimage.exposure import adjust_gamma

        return to_image(adjust_gamma(to_float(image), exponent(strength)))

    return operator


def _enhance(enhancer: Any, factor: Callable[[float], float]) -> Operator:
    return lambda image, strength, rng: enhancer(image).enhance(max(0.0, factor(strength)))


def _stretch(image: Image, strength: float, rng: random.Random) -> Image:
    stretched = ImageOps.autocontrast(image, cutoff=1.0 + strength, preserve_tone=True)
    return PILImage.blend(image, stretched, min(1.0, 0.6 + 0.3 * strength))


def _lift_shadows(image: Image, strength: float, rng: random.Random) -> Image:
    values = to_float(image)
    dark = (1 - values.max(-1, keepdims=True)) ** 2
    return to_image(values + 0.35 * strength * dark * (1 - values) * (values + 0.15))


def _recover_highlights(image: Image, strength: float, rng: random.Random) -> Image:
    values = to_float(image)
    return to_image(values - 0.40 * strength * np.maximum(values - 0.5, 0))


def _local_contrast(image: Image, strength: float, rng: random.Random) -> Image:
    return image.filter(
        ImageFilter.UnsharpMask(radius=0.09 * min(image.size), percent=round(70 * strength), threshold=0)
    )


def _channel_gains(red: float, green: float, blue: float) -> Operator:
    def operator(image: Image, strength: float, rng: random.Random) -> Image:
        gains = 1 + strength * np.array([red, green, blue], dtype=np.float32)
        return to_image(to_float(image) * gains)

    return operator


def _random_cast(image: Image, strength: float, rng: random.Random) -> Image:
    angle = rng.uniform(0, 2 * math.pi)
    shift = [0.22 * math.cos(angle + k * 2 * math.pi / 3) for k in range(3)]
    return _channel_gains(*shift)(image, strength * 1.3, rng)


def _white_balance(image: Image, strength: float, rng: random.Random) -> Image:
    """Grey world on the brighter half, where the light's tint shows."""
    values = to_float(image)
    luma = values.mean(-1)
    mean = values[luma >= np.median(luma)].mean(0)
    gains = (mean.mean() / np.maximum(mean, 0.05)) ** min(1.0, 0.6 * strength)
    return to_image(values * np.clip(gains, 0.4, 2.5))


def _teal_and_orange(image: Image, strength: float, rng: random.Random) -> Image:
    values = to_float(image)
    luma = values.mean(-1, keepdims=True)
    warm = np.array([0.10, 0.02, -0.10], dtype=np.float32)
    return to_image(values + strength * (luma * warm - (1 - luma) * warm))


def _sharpen(image: Image, strength: float, rng: random.Random) -> Image:
    return image.filter(ImageFilter.UnsharpMask(radius=1.2, percent=round(110 * strength), threshold=1))


def _denoise(image: Image, strength: float, rng: random.Random) -> Image:
    """Lee's local filter: towards the mean of the neighbours where brightness varies no more than noise does.

    As `scipy.signal.wiener`, with one weight for the three channels, at a third of its time.
    """
    from scipy.ndimage import uniform_filter

    luma, noise = np.asarray(image.convert("L"), dtype=np.float32) / 255, (0.05 * strength) ** 2
    variance = uniform_filter(luma * luma, 5, mode="nearest") - uniform_filter(luma, 5, mode="nearest") ** 2
    kept = np.maximum(variance - noise, 0) / np.maximum(variance, noise)
    mean = to_float(image.filter(ImageFilter.BoxBlur(2)))
    return to_image(mean + kept[..., None] * (to_float(image) - mean))


def _blur(image: Image, strength: float, rng: random.Random) -> Image:
    return image.filter(ImageFilter.GaussianBlur(1.1 * strength))


def _add_noise(image: Image, strength: float, rng: random.Random) -> Image:
    from skimage.util import random_noise

    generator = np.random.default_rng(rng.getrandbits(32))
    return to_image(random_noise(to_float(image), var=(0.055 * strength) ** 2, rng=generator))


def _jpeg(image: Image, strength: float, rng: random.Random) -> Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=max(3, round(14 - 6 * strength)))
    buffer.seek(0)
    return PILImage.open(buffer).convert("RGB")


def _rotate(image: Image, degrees: float) -> Image:
    """Rotate, then zoom until no corner is empty."""
    turned = image.rotate(degrees, PILImage.Resampling.BICUBIC)
    angle = math.radians(abs(degrees))
    keep = 1 / (math.cos(angle) + math.sin(angle))
    return _centre_crop(turned, keep, 0.5, 0.5)


def _centre_crop(image: Image, keep: float, x: float, y: float) -> Image:
    width, height = image.size
    w, h = width * keep, height * keep
    left, top = (width - w) * x, (height - h) * y
    return image.resize((width, height), PILImage.Resampling.BICUBIC, box=(left, top, left + w, top + h))


def _tilt(image: Image, strength: float, rng: random.Random) -> Image:
    return _rotate(image, rng.choice((-1, 1)) * 9 * strength)


def _straighten(image: Image, strength: float, rng: random.Random) -> Image:
    """Turn by the angle that brings the dominant edges nearest to upright and level."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    dy, dx = np.gradient(grey)
    angles, weights = np.arctan2(dy, dx), np.hypot(dx, dy)
    offset = np.degrees(np.angle(np.sum(weights * np.exp(4j * angles))) / 4)
    return _rotate(image, float(np.clip(offset, -10, 10)) * min(1.0, strength))


def _crop(image: Image, strength: float, rng: random.Random) -> Image:
    return _centre_crop(image, 1 - 0.16 * strength, rng.random(), rng.random())


def _vignette(image: Image, strength: float, rng: random.Random) -> Image:
    width, height = image.size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    falloff = 1 - min(0.9, 0.42 * strength) * np.clip(np.hypot(x, y) - 0.3, 0, 1) ** 1.5
    return to_image(to_float(image) * falloff[..., None].astype(np.float32))


def _remove(image: Image, strength: float, rng: random.Random) -> Image:
    """A clone stamp: the busiest of a few spots gives way to the patch that fits its border best, feathered in."""
    width, height = image.size
    side = max(6, round(min(width, height) * min(0.35, 0.2 * strength)))
    busy = np.asarray(image.convert("L").filter(ImageFilter.FIND_EDGES), dtype=np.float32)
    values = to_float(image)
    spots = [(rng.randrange(height - side + 1), rng.randrange(width - side + 1)) for _ in range(24)]
    target = max(spots[:8], key=lambda spot: float(_patch(busy, spot, side).sum()))
    patch = _patch(values, target, side)
    others = [s for s in spots if max(abs(s[0] - target[0]), abs(s[1] - target[1])) >= side] or spots[8:]
    source = min(
        (_patch(values, s, side) for s in others), key=lambda other: float(np.abs(_border(patch - other)).sum())
    )
    stamp = to_image(source + _border(patch - source).mean(0))
    mask = ImageOps.expand(PILImage.new("L", (side - 4, side - 4), 255), 2).filter(ImageFilter.GaussianBlur(1.5))
    edited = image.copy()
    edited.paste(stamp, (target[1], target[0]), mask)
    return edited


def _patch(values: NDArray[Any], spot: tuple[int, int], side: int) -> NDArray[Any]:
    return values[spot[0] : spot[0] + side, spot[1] : spot[1] + side]


def _border(patch: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels of a patch, (pixels, 3)."""
    return np.concatenate([patch[0], patch[-1], patch[:, 0], patch[:, -1]])


def _posterise(image: Image, strength: float, rng: random.Random) -> Image:
    return ImageOps.posterize(image, max(1, round(4 - strength)))


def _painterly(image: Image, strength: float, rng: random.Random) -> Image:
    """Broad strokes of few colours: flattened at half the size, then richer."""
    strokes = image.reduce(2).filter(ImageFilter.MedianFilter(3)).resize(image.size, PILImage.Resampling.BICUBIC)
    strokes = strokes.quantize(max(6, round(20 - 8 * strength)), PILImage.Quantize.FASTOCTREE).convert("RGB")
    return ImageEnhance.Color(PILImage.blend(image, strokes, min(1.0, 0.85 * strength))).enhance(1.3)


def _sepia(image: Image, strength: float, rng: random.Random) -> Image:
    toned = ImageOps.colorize(ImageOps.grayscale(image), (20, 10, 0), (255, 240, 205), (150, 110, 70))
    return PILImage.blend(image, toned, min(1.0, 0.75 * strength))


def _sketch(image: Image, strength: float, rng: random.Random) -> Image:
    return PILImage.blend(
        image, ImageChops.multiply(image, image.filter(ImageFilter.CONTOUR)), min(1.0, 0.8 * strength)
    )


@dataclass(frozen=True)
class Operation:
    """One kind of edit.

    Attributes:
        family: the editor that does it best.
        orientation: `quality` or `content` (Sec. 4.4).
        improving: meant to improve; otherwise meant to change or to harm.
        request: an instruction without its strength; `{}` stands for the word of strength.
        operator: does it.
    """

    family: Family
    orientation: Orientation
    improving: bool
    request: str
    operator: Operator


def _row(family: Family, orientation: Orientation, improving: bool, request: str, operator: Operator) -> Operation:
    return Operation(family, orientation, improving, request, operator)


OPERATIONS: dict[str, Operation] = {
    "brighten": _row("tone", "quality", True, "Brighten the photograph {}.", _gamma(lambda s: 1 / (1 + 0.55 * s))),
    "darken": _row("tone", "quality", True, "Darken the photograph {}.", _gamma(lambda s: 1 + 0.55 * s)),
    "raise_contrast": _row(
        "tone", "quality", True, "Raise the contrast {}.", _enhance(ImageEnhance.Contrast, lambda s: 1 + 0.45 * s)
    ),
    "stretch_levels": _row("tone", "quality", True, "Stretch the tones over the full range {}.", _stretch),
    "local_contrast": _row("tone", "quality", True, "Bring out local contrast {}.", _local_contrast),
    "lift_shadows": _row("tone", "quality", True, "Lift the shadows {}.", _lift_shadows),
    "recover_highlights": _row("tone", "quality", True, "Recover the highlights {}.", _recover_highlights),
    "flatten_contrast": _row(
        "tone", "quality", False, "Flatten the contrast {}.", _enhance(ImageEnhance.Contrast, lambda s: 1 - 0.45 * s)
    ),
    "overexpose": _row(
        "tone",
        "quality",
        False,
        "Overexpose the photograph {}.",
        _enhance(ImageEnhance.Brightness, lambda s: 1 + 0.8 * s),
    ),
    "underexpose": _row(
        "tone",
        "quality",
        False,
        "Underexpose the photograph {}.",
        _enhance(ImageEnhance.Brightness, lambda s: 1 - 0.5 * s),
    ),
    "saturate": _row(
        "colour", "quality", True, "Make the colours {} richer.", _enhance(ImageEnhance.Color, lambda s: 1 + 0.6 * s)
    ),
    "balance_white": _row("colour", "quality", True, "Correct the colour cast {}.", _white_balance),
    "warm": _row("colour", "quality", True, "Warm the light {}.", _channel_gains(0.12, 0.03, -0.12)),
    "cool": _row("colour", "quality", True, "Cool the light {}.", _channel_gains(-0.12, 0.0, 0.12)),
    "teal_and_orange": _row("colour", "quality", True, "Grade the colours {} in teal and orange.", _teal_and_orange),
    "desaturate": _row(
        "colour", "quality", False, "Make the colours {} duller.", _enhance(ImageEnhance.Color, lambda s: 1 - 0.65 * s)
    ),
    "oversaturate": _row(
        "colour", "quality", False, "Oversaturate the colours {}.", _enhance(ImageEnhance.Color, lambda s: 1 + 2.2 * s)
    ),
    "cast": _row("colour", "quality", False, "Tint everything {}.", _random_cast),
    "sharpen": _row("detail", "quality", True, "Sharpen the detail {}.", _sharpen),
    "denoise": _row("detail", "quality", True, "Remove the noise {}.", _denoise),
    "blur": _row("detail", "quality", False, "Blur the photograph {}.", _blur),
    "add_noise": _row("detail", "quality", False, "Add grain {}.", _add_noise),
    "compress": _row("detail", "quality", False, "Compress the photograph {}.", _jpeg),
    "straighten": _row("geometry", "content", True, "Straighten the photograph {}.", _straighten),
    "crop": _row("geometry", "content", True, "Crop the photograph {} tighter.", _crop),
    "tilt": _row("geometry", "content", False, "Tilt the photograph {}.", _tilt),
    "vignette": _row("geometry", "content", False, "Darken the corners {}.", _vignette),
    "remove_object": _row("content", "content", True, "Remove the distracting object {}.", _remove),
    "posterise": _row("content", "content", False, "Turn the photograph {} into a poster.", _posterise),
    "paint": _row("content", "content", False, "Turn the photograph {} into a painting.", _painterly),
    "sepia": _row("content", "content", False, "Give the photograph {} an old sepia look.", _sepia),
    "sketch": _row("content", "content", False, "Draw the outlines {} in ink.", _sketch),
}


def request(category: str, strength: str = "clearly", analysis: str = "") -> Instruction:
    """Ask for one operation.

    Args:
        category: a row of `OPERATIONS`.
        strength: a word of `STRENGTHS`.
        analysis: the deficiency that it mends.

    Example:
        >>> request("sharpen", "slightly").text
        'Sharpen the detail slightly.'
    """
    operation = OPERATIONS[category]
    text = operation.request.format(strength)
    return Instruction(text=text, category=category, orientation=operation.orientation, analysis=analysis)


def strength_of(text: str) -> float:
    """The strength an instruction asks for, by its word; 1 without one.

    Example:
        >>> strength_of("Sharpen the detail slightly.")
        0.6
    """
    words = text.lower().replace(".", " ").split()
    return next((value for word, value in STRENGTHS.items() if word in words), 1.0)
