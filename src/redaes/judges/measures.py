"""What can be measured in the pixels of one photograph: sharpness, noise, exposure, contrast, colour.

Every function takes `Pixels` and returns one float. Several measure the same aspect in different ways, so that judges
built on them agree on what is plain and differ on what is subtle. Nothing here knows about edits.

Sources: noise, Immerkaer 1996 (fast noise variance estimation); colourfulness, Hasler & Suesstrunk 2003; grey-world
balance, Buchsbaum 1980. The rest is elementary image statistics.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[np.float32]

_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class Pixels:
    """An RGB image as arrays and measurements, each computed when first asked for; values in [0, 1].

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
    """

    def __init__(self, rgb: Array) -> None:
        self.rgb = rgb
        self._measured: dict[Callable[[Pixels], float], float] = {}

    @classmethod
    def of(cls, image: "Image") -> "Pixels":
        """The pixels of an image; the last few images are remembered, since several look at the same one."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return _remembered(rgb.tobytes(), rgb.size)

    def value(self, measure: "Callable[[Pixels], float]") -> float:
        """A measurement, taken once."""
        if measure not in self._measured:
            self._measured[measure] = measure(self)
        return self._measured[measure]

    @cached_property
    def slope(self) -> Array:
        """Gradient magnitude of `smooth`, in brightness a pixel."""
        return _gradient(self.smooth)

    @cached_property
    def coarse_slope(self) -> Array:
        """Gradient magnitude of `coarse`, in brightness a pixel."""
        return _gradient(self.coarse)

    @cached_property
    def even(self) -> Any:
        """(H, W) True in the half of the picture where brightness changes least."""
        return self.coarse_slope <= np.median(self.coarse_slope)

    @cached_property
    def luma(self) -> Array:
        """(H, W) brightness."""
        return self.rgb @ _LUMA

    @cached_property
    def smooth(self) -> Array:
        """Brightness after a light Gaussian: detail survives, single-pixel noise mostly does not."""
        return self._gaussian(self.luma, 0.8)

    @cached_property
    def coarse(self) -> Array:
        """Brightness after a wide Gaussian."""
        return self._gaussian(self.luma, 2.0)

    @cached_property
    def opponents(self) -> tuple[Array, Array]:
        """Red-green and yellow-blue differences."""
        red, green, blue = self.rgb[..., 0], self.rgb[..., 1], self.rgb[..., 2]
        return red - green, 0.5 * (red + green) - blue

    @cached_property
    def saturation(self) -> Array:
        """(H, W) HSV saturation."""
        high, low = self.rgb.max(-1), self.rgb.min(-1)
        return (high - low) / np.maximum(high, 1e-3)

    @cached_property
    def percentiles(self) -> Any:
        """Brightness at 2, 25, 50, 75 and 98 per cent."""
        return np.percentile(self.luma, [2, 25, 50, 75, 98])

    @staticmethod
    def _gaussian(values: Array, sigma: float) -> Array:
        return ndimage.gaussian_filter(values, sigma, mode="nearest")


@lru_cache(maxsize=8)
def _remembered(data: bytes, size: tuple[int, int]) -> Pixels:
    return Pixels(np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3).astype(np.float32) / 255.0)


def _gradient(values: Array) -> Array:
    dy, dx = np.gradient(values)
    return np.hypot(dx, dy)


def noise_sigma(p: Pixels) -> float:
    """Immerkaer's noise deviation, taken where the picture is flat, in points of 255."""
    response = np.abs(ndimage.convolve(p.luma, _IMMERKAER, mode="nearest"))
    return float(np.sqrt(np.pi / 2) * response[p.even].mean() / 6 * 255)


def noise_median(p: Pixels) -> float:
    """Median deviation from a median-filtered copy, in points of 255."""
    return float(np.median(np.abs(p.luma - ndimage.median_filter(p.luma, 3))) * 255)


def chroma_noise(p: Pixels) -> float:
    """Mean step of the red-green and yellow-blue planes between neighbours, where brightness is even, x 255."""
    steps = [np.abs(plane - ndimage.uniform_filter(plane, 3, mode="nearest"))[p.even].mean() for plane in p.opponents]
    return float(sum(steps) * 255)


def edge_sharpness(p: Pixels) -> float:
    """How steep the edges are: strongest 5 % of slopes of the denoised picture relative to the blurred one."""
    return float(np.percentile(p.slope, 95) / (np.percentile(p.coarse_slope, 95) + 0.004))


def edge_contrast(p: Pixels) -> float:
    """Steepest 5 % of slopes of the denoised picture, in brightness a pixel."""
    return float(np.percentile(p.slope, 95))


def edge_decay(p: Pixels) -> float:
    """Share of the strongest slopes that a further blur leaves: near 1 for a soft picture, small for a crisp one."""
    return float(np.percentile(p.coarse_slope, 90) / (np.percentile(p.slope, 90) + 0.004))


def brightness(p: Pixels) -> float:
    """Mean brightness in [0, 1]."""
    return float(p.luma.mean())


def middle_tone(p: Pixels) -> float:
    """Median brightness in [0, 1]."""
    return float(p.percentiles[2])


def clear_share(p: Pixels) -> float:
    """Share of pixels neither in deep shadow nor near white, in [0, 1]."""
    return float(((p.luma > 0.12) & (p.luma < 0.92)).mean())


def clipped(p: Pixels) -> float:
    """Share of pixels at the ends of the scale in any channel, in [0, 1]."""
    return float(((p.rgb >= 0.992).any(-1) | (p.luma <= 0.012)).mean())


def tonal_range(p: Pixels) -> float:
    """Distance of the 2nd from the 98th percentile of brightness, in [0, 1]."""
    return float(p.percentiles[4] - p.percentiles[0])


def luma_deviation(p: Pixels) -> float:
    """Standard deviation of brightness, in [0, 0.5]."""
    return float(p.luma.std())


def quartile_range(p: Pixels) -> float:
    """Distance of the quartiles of brightness, in [0, 1]."""
    return float(p.percentiles[3] - p.percentiles[1])


def colourfulness(p: Pixels) -> float:
    """Hasler and Suesstrunk's M, in points of 255."""
    rg, yb = p.opponents
    return float((np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())) * 255)


def mean_saturation(p: Pixels) -> float:
    """Mean HSV saturation, in [0, 1]."""
    return float(p.saturation.mean())


def chroma_deviation(p: Pixels) -> float:
    """Spread of the opponent planes, in points of 255."""
    rg, yb = p.opponents
    return float((rg.std() + yb.std()) * 255)


def colour_cast(p: Pixels) -> float:
    """Distance of the mean colour from grey, in [0, 1]: large if one hue covers everything."""
    rg, yb = p.opponents
    return float(np.hypot(rg.mean(), yb.mean()))


def bright_cast(p: Pixels) -> float:
    """Distance from grey of the mean colour of the brighter half, where a light's tint shows, in [0, 1]."""
    bright = p.luma >= p.percentiles[2]
    rg, yb = p.opponents
    return float(np.hypot(rg[bright].mean(), yb[bright].mean()))


def garishness(p: Pixels) -> float:
    """Share of pixels that are both bright and almost fully saturated, in [0, 1]."""
    return float(((p.saturation > 0.85) & (p.luma > 0.25)).mean())
