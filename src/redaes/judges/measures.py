"""What can be measured in the pixels of one photograph: sharpness, noise, exposure, contrast, colour.

Every function takes `Pixels` and returns one float. Several measure the same aspect in different ways, so that judges
built on them agree on what is plain and differ on what is subtle. Nothing here knows about edits.

Three confusions are kept apart on purpose. *Noise is not sharpness*: slopes are measured after a light smoothing, and
the slope that noise alone would leave is taken off. *Texture is not noise*: a picture's finest scale counts as noise
only as far as its slopes do not explain it. *A tint is not colour*: colour measures are blind to a gain that covers
the whole picture, and the casts are measured by themselves.

Sources: the noise kernel, Immerkaer 1996 (Fast Noise Variance Estimation); the grey-world assumption, Buchsbaum 1980.
The rest is elementary image statistics; the constants are ours.
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
Measure = Callable[["Pixels"], float]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# What independent noise in the channels leaves in brightness and in the two opponent planes, per unit of deviation.
_NOISE_IN_LUMA = 0.669
_NOISE_IN_OPPONENTS = (1.414, 1.225)
# Square of (finest scale / slope) that texture explains: the photographs of scikit-image without noise lie below it.
_TEXTURE = 0.36
# 95th percentile of the squared slope of unit noise after the light smoothing.
_NOISE_IN_SLOPE = 0.36
_BLOCK = 4
_SMALLEST = 8


class Pixels:
    """An RGB image as arrays and measurements, each computed when first asked for; values in [0, 1].

    Args:
        rgb: (H, W, 3) float32 in [0, 1]. Under 8 pixels a side, the border is repeated up to 8.
    """

    def __init__(self, rgb: Array) -> None:
        missing = [(0, max(0, _SMALLEST - side)) for side in rgb.shape[:2]]
        self.rgb: Array = np.pad(rgb, [*missing, (0, 0)], mode="edge") if any(m for _, m in missing) else rgb
        self._measured: dict[Measure, float] = {}

    @classmethod
    def of(cls, image: "Image") -> "Pixels":
        """The pixels of an image; the last few images are remembered, since several look at the same one."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return _remembered(rgb.tobytes(), rgb.size)

    def value(self, measure: Measure) -> float:
        """A measurement, taken once."""
        if measure not in self._measured:
            self._measured[measure] = measure(self)
        return self._measured[measure]

    @cached_property
    def luma(self) -> Array:
        """(H, W) brightness."""
        return self.rgb @ _LUMA

    @cached_property
    def smooth(self) -> Array:
        """Brightness after a light Gaussian: detail survives, single-pixel noise mostly does not."""
        return _gaussian(self.luma, 0.8)

    @cached_property
    def coarse(self) -> Array:
        """Brightness after a wide Gaussian."""
        return _gaussian(self.smooth, 1.83)

    @cached_property
    def slope(self) -> Array:
        """Squared gradient of `smooth`, in brightness a pixel."""
        return _squared_gradient(self.smooth)

    @cached_property
    def coarse_slope(self) -> Array:
        """Squared gradient of `coarse`, in brightness a pixel."""
        return _squared_gradient(self.coarse)

    @cached_property
    def finest(self) -> Array:
        """(H-2, W-2) Immerkaer's response of `luma`: of unit noise it has unit deviation."""
        return _immerkaer(self.luma)

    @cached_property
    def percentiles(self) -> Any:
        """Brightness of the blocks at 2, 25, 50, 75 and 98 per cent."""
        return np.percentile(self.block_luma, [2, 25, 50, 75, 98])

    @cached_property
    def blocks(self) -> Array:
        """(H/4, W/4, 3) mean colours of blocks: what is left of colour when noise and detail are averaged away."""
        height, width = (side - side % _BLOCK for side in self.luma.shape)
        whole = self.rgb[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, 3)
        means: Array = whole.mean((1, 3))
        return means

    @cached_property
    def block_luma(self) -> Array:
        """Brightness of the blocks."""
        return self.blocks @ _LUMA

    @cached_property
    def ratios(self) -> tuple[Array, Array]:
        """Logarithms of red to green and of yellow to blue of the blocks: a tint only shifts them."""
        logs = np.log(self.blocks + 0.06)
        return logs[..., 0] - logs[..., 1], 0.5 * (logs[..., 0] + logs[..., 1]) - logs[..., 2]

    @cached_property
    def saturation(self) -> Array:
        """HSV saturation of the blocks."""
        high, low = self.blocks.max(-1), self.blocks.min(-1)
        saturation: Array = (high - low) / (high + 0.02)
        return saturation


@lru_cache(maxsize=8)
def _remembered(data: bytes, size: tuple[int, int]) -> Pixels:
    return Pixels(np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3).astype(np.float32) / 255.0)


def _gaussian(values: Array, sigma: float) -> Array:
    smoothed: Array = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
    return smoothed


def _squared_gradient(values: Array) -> Array:
    dy, dx = np.gradient(values)
    return np.asarray(dx * dx + dy * dy, dtype=np.float32)


def _immerkaer(plane: Array) -> Array:
    rows = plane[:-2] - 2 * plane[1:-1] + plane[2:]
    return np.asarray((rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]) / 6, dtype=np.float32)


def _share(values: Array, per_cent: float) -> float:
    return float(np.percentile(values, per_cent))


def _root(value: float) -> float:
    """Square root of what a rounding error or a subtraction may have made negative."""
    return float(np.sqrt(max(0.0, value)))


def luma_grain(p: Pixels) -> float:
    """Noise in brightness, in points of 255: the finest scale that slopes do not explain, where there is least."""
    unexplained = ndimage.uniform_filter(p.finest**2 - _TEXTURE * p.slope[1:-1, 1:-1], 7, mode="nearest")
    return _root(_share(unexplained, 25)) * 255


def chroma_grain(p: Pixels) -> float:
    """Noise in colour, in points of 255 of brightness: channels of a clean picture share their detail, noise not."""
    found = [
        _root(_share(ndimage.uniform_filter(_immerkaer(plane) ** 2, 7, mode="nearest"), 25)) / unit
        for plane, unit in zip(_opponents(p.rgb), _NOISE_IN_OPPONENTS, strict=True)
    ]
    return float(sum(found) / 2 * _NOISE_IN_LUMA * 255)


def grain(p: Pixels) -> float:
    """Noise in brightness and in colour, averaged, in points of 255."""
    return 0.5 * (p.value(luma_grain) + p.value(chroma_grain))


def worst_grain(p: Pixels) -> float:
    """The larger of the noise in brightness and in colour, in points of 255."""
    return max(p.value(luma_grain), p.value(chroma_grain))


def edge_contrast(p: Pixels) -> float:
    """Steepest 5 % of slopes less what noise leaves in them, in brightness a pixel."""
    noise = p.value(worst_grain) / 255
    return _root(_share(p.slope, 95) - _NOISE_IN_SLOPE * noise**2)


def edge_sharpness(p: Pixels) -> float:
    """How steep the edges are: steepest 5 % of slopes relative to the same of a blurred copy; 1 is very soft."""
    return p.value(edge_contrast) / (_root(_share(p.coarse_slope, 95)) + 0.004)


def brightness(p: Pixels) -> float:
    """Mean brightness in [0, 1]."""
    return float(p.luma.mean())


def middle_tone(p: Pixels) -> float:
    """Median brightness in [0, 1]."""
    return float(p.percentiles[2])


def key(p: Pixels) -> float:
    """Brightness of the mean of logarithms in [0, 1]: the photographer's key, which shadows weigh down."""
    return float(np.exp(np.log(p.luma + 0.02).mean()) - 0.02)


def glare(p: Pixels) -> float:
    """Mean excess of brightness over 0.85, relative to the largest possible, in [0, 1]."""
    return float((np.maximum(p.luma - 0.85, 0) / 0.15).mean())


def tonal_range(p: Pixels) -> float:
    """Distance of the 2nd from the 98th percentile of brightness, in [0, 1]."""
    return float(p.percentiles[4] - p.percentiles[0])


def luma_deviation(p: Pixels) -> float:
    """Standard deviation of brightness, in [0, 0.5]."""
    return float(p.block_luma.std())


def quartile_range(p: Pixels) -> float:
    """Distance of the quartiles of brightness, in [0, 1]."""
    return float(p.percentiles[3] - p.percentiles[1])


def _beyond_noise(p: Pixels, spread: float) -> float:
    """A spread of the colour ratios, less what noise leaves in blocks."""
    noise = p.value(chroma_grain) / 255 / _NOISE_IN_LUMA / _BLOCK / (p.block_luma.mean() + 0.06)
    return _root(spread**2 - 3.5 * noise**2)


def colour_variety(p: Pixels) -> float:
    """Spread of the colour ratios: 0 for black and white, and unmoved by a tint."""
    rg, yb = p.ratios
    return _beyond_noise(p, float(np.hypot(rg.std(), yb.std())))


def colour_distance(p: Pixels) -> float:
    """Mean distance of the colour ratios from their medians: as `colour_variety`, less swayed by one vivid thing."""
    rg, yb = p.ratios
    return _beyond_noise(p, float(np.hypot(rg - np.median(rg), yb - np.median(yb)).mean()))


def balanced_saturation(p: Pixels) -> float:
    """Mean HSV saturation after a grey-world correction, in [0, 1]."""
    balanced = p.blocks / (p.blocks.mean((0, 1)) + 0.01)
    high, low = balanced.max(-1), balanced.min(-1)
    return float(((high - low) / (high + 0.05)).mean())


def mean_saturation(p: Pixels) -> float:
    """Mean HSV saturation, in [0, 1]."""
    return float(p.saturation.mean())


def _common_tint(p: Pixels, colour: Array) -> float:
    """How far a mean colour lies from grey, beside its brightness and how colourful it is: 0 to about 1.5."""
    chroma = float(np.hypot(*_opponents(p.blocks)).mean())
    return float(np.hypot(*_opponents(colour))) / (0.4 * chroma + 0.5 * (float(p.block_luma.mean()) + 0.05))


def _opponents(colours: Array) -> tuple[Array, Array]:
    red, green, blue = colours[..., 0], colours[..., 1], colours[..., 2]
    return red - green, 0.5 * (red + green) - blue


def colour_cast(p: Pixels) -> float:
    """Tint of the mean colour (grey world)."""
    return _common_tint(p, p.blocks.mean((0, 1)))


def bright_cast(p: Pixels) -> float:
    """Tint of the brighter half, where that of the light shows."""
    return _common_tint(p, p.blocks[p.block_luma >= p.percentiles[2]].mean(0))


def middle_cast(p: Pixels) -> float:
    """Tint of the channels' medians, which small vivid things do not move."""
    return _common_tint(p, np.median(p.blocks, (0, 1)))
