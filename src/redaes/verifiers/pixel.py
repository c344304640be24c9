"""Two verifiers that measure pixels: stand-ins for VIEScore's two vision-language models.

Each gives VIEScore's two sub-scores of semantic consistency on [0, 10]: *editing success* (did what was asked for
happen, visibly and in the asked direction?) and *over-editing* (10: nothing else was touched). `pixel/success` looks
at the statistic that the instruction speaks of; `pixel/fidelity` at the picture as a whole. They know the
instruction, as VIEScore's models do, but not the editor.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from redaes.editors.operations import OPERATIONS, strength_of
from redaes.judges import measures as m
from redaes.judges.measures import Array, Pixels
from redaes.records import Instruction, Verification

if TYPE_CHECKING:
    from PIL.Image import Image

Measure = Callable[[Pixels], float]

# category: (what should move, by how much for a clear edit; negative: downwards)
EXPECTED: dict[str, tuple[Measure, float]] = {
    "brighten": (m.brightness, 0.09),
    "darken": (m.brightness, -0.09),
    "raise_contrast": (m.luma_deviation, 0.035),
    "stretch_levels": (m.tonal_range, 0.10),
    "local_contrast": (m.edge_contrast, 0.008),
    "lift_shadows": (m.brightness, 0.03),
    "recover_highlights": (m.brightness, -0.015),
    "flatten_contrast": (m.luma_deviation, -0.04),
    "overexpose": (m.brightness, 0.20),
    "underexpose": (m.brightness, -0.15),
    "saturate": (m.mean_saturation, 0.09),
    "desaturate": (m.mean_saturation, -0.10),
    "oversaturate": (m.mean_saturation, 0.20),
    "balance_white": (m.bright_cast, -0.05),
    "sharpen": (m.edge_sharpness, 0.22),
    "denoise": (m.grain, -0.8),
    "blur": (m.edge_sharpness, -0.35),
    "add_noise": (m.grain, 5.0),
}

# category: mean change of the pixels in a clear edit, where it is not the 0.03 of the others.
VISIBLE = {"remove_object": 0.003, "straighten": 0.02, "sharpen": 0.012, "denoise": 0.012, "balance_white": 0.02}


def _sigmoid_score(ratio: float) -> float:
    """0 at no effect, 7.5 at 0.6 of the clear effect, towards 10 beyond."""
    return 10 * (1 - float(np.exp(-max(0.0, ratio) * 1.3863 / 0.6)))


def _visible(source: Pixels, edited: Pixels) -> float:
    """Mean absolute change of the pixels, in [0, 1]."""
    return float(np.abs(source.rgb - edited.rgb).mean())


def _normalised(luma: Array) -> Array:
    """Brightness with its local mean taken out and its local contrast divided out: the structure alone."""
    mean = ndimage.uniform_filter(luma, 9, mode="nearest")
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(luma**2, 9, mode="nearest") - mean**2, 0))
    return (luma - mean) / (deviation + 0.02)


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-9))


class _PixelVerifier:
    name: str

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.name

    def verify(self, source: "Image", edited: "Image", instruction: Instruction) -> Verification:
        """Sub-scores of one edit, rounded to 0.01."""
        before, after = Pixels.of(source), Pixels.of(edited)
        return Verification(
            verifier=self.name,
            success=round(self._success(before, after, instruction), 2),
            over_editing=round(self._over_editing(before, after, instruction), 2),
        )

    def _success(self, before: Pixels, after: Pixels, instruction: Instruction) -> float:
        raise NotImplementedError

    def _over_editing(self, before: Pixels, after: Pixels, instruction: Instruction) -> float:
        raise NotImplementedError


class SuccessVerifier(_PixelVerifier):
    """`pixel/success`: the statistic that the instruction speaks of, relative to the strength it asks for."""

    name = "pixel/success"

    def _success(self, before: Pixels, after: Pixels, instruction: Instruction) -> float:
        expected = EXPECTED.get(instruction.category)
        if expected is None:
            return _sigmoid_score(_visible(before, after) / _expected_change(instruction))
        measure, amount = expected
        return _sigmoid_score((after.value(measure) - before.value(measure)) / (amount * strength_of(instruction.text)))

    def _over_editing(self, before: Pixels, after: Pixels, instruction: Instruction) -> float:
        """Structure kept; a quality edit must keep nearly all of it, a content edit some."""
        kept = _correlation(_normalised(before.smooth), _normalised(after.smooth))
        needed = 0.0 if _is_content(instruction) else 0.75
        return 10 * min(1.0, max(0.0, (kept - needed + 0.3) / 0.4))


class FidelityVerifier(_PixelVerifier):
    """`pixel/fidelity`: the whole picture: is a change visible at all, and is it still the same picture?"""

    name = "pixel/fidelity"

    def _success(self, before: Pixels, after: Pixels, instruction: Instruction) -> float:
        return _sigmoid_score(_visible(before, after) / (0.7 * _expected_change(instruction)))

    def _over_editing(self, before: Pixels, after: Pixels, instruction: Instruction) -> float:
        """Outlines kept and not too much blown out."""
        kept = _correlation(ndimage.gaussian_filter(before.luma, 3), ndimage.gaussian_filter(after.luma, 3))
        lost = max(0.0, after.value(m.clipped) - before.value(m.clipped))
        limit, moved = (0.5, 0.4) if _is_content(instruction) else (0.25, 0.0)
        return 10 * min(1.0, max(0.0, kept + moved)) * max(0.0, 1 - max(0.0, lost - limit / 2) / limit)


def _expected_change(instruction: Instruction) -> float:
    return VISIBLE.get(instruction.category, 0.03) * strength_of(instruction.text)


def _is_content(instruction: Instruction) -> bool:
    operation = OPERATIONS.get(instruction.category)
    return operation is not None and operation.orientation == "content"
