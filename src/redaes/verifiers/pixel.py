"""Two verifiers that measure pixels: stand-ins for VIEScore's two vision-language models, not human judgement.

Each gives VIEScore's two sub-scores of semantic consistency on [0, 10]: *editing success* (did what was asked for
happen, visibly and in the asked direction?) and *over-editing* (10: nothing else was touched). They know the
instruction, as VIEScore's models do, but not the editor.

- `pixel/success` follows the statistic that the instruction speaks of, and asks whether the structure of the picture
  is still there.
- `pixel/fidelity` asks whether the picture changed at all as much as such an edit changes it, and whether tint,
  brightness and edges stayed where the instruction gave no leave to move them.

What a clear edit does was measured: medians of every operation at strength 1 over crops of scikit-image's photographs
that an instructor would ask it for. All constants are ours, not from the paper.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from redaes.editors.operations import OPERATIONS, Family, Operation, strength_of
from redaes.errors import UserError, nearest
from redaes.judges import measures as m
from redaes.judges.measures import Array, Measure, Pixels
from redaes.records import Instruction, Verification

if TYPE_CHECKING:
    from PIL.Image import Image


def log_change(measure: Measure, floor: float, before: Pixels, after: Pixels) -> float:
    """Logarithm of how many times a measurement grew; `floor` keeps the almost nothing from counting."""
    return math.log((after.value(measure) + floor) / (before.value(measure) + floor))


@dataclass(frozen=True)
class Effect:
    """What a clear edit of one category does.

    Attributes:
        visible: mean absolute change of the pixels, in [0, 1].
        measure: the statistic that the instruction speaks of, if one does.
        change: `log_change` of it, negative downwards.
        floor: of that change, in the measure's units.
    """

    visible: float
    measure: Measure | None = None
    change: float = 0.0
    floor: float = 0.0

    def done(self, before: Pixels, after: Pixels) -> float:
        """The part of the effect that happened: 1 for a clear edit, negative in the wrong direction."""
        if self.measure is None:
            return visible_change(before, after) / self.visible
        return log_change(self.measure, self.floor, before, after) / self.change


def visible_change(before: Pixels, after: Pixels) -> float:
    """Mean absolute change of the pixels, in [0, 1]."""
    return float(np.abs(before.rgb - after.rgb).mean())


def tint_shift(before: Pixels, after: Pixels) -> float:
    """How far the mean colour ratios moved, in natural logarithms."""
    moves = [float(b.mean() - a.mean()) for a, b in zip(before.ratios, after.ratios, strict=True)]
    return math.hypot(*moves)


def brightness_shift(before: Pixels, after: Pixels) -> float:
    """How many times brighter or darker, as a natural logarithm without its sign."""
    return abs(log_change(m.brightness, 0.02, before, after))


def edge_shift(before: Pixels, after: Pixels) -> float:
    """How many times steeper or softer the edges are, as a natural logarithm without its sign."""
    return abs(log_change(m.edge_contrast, 0.01, before, after))


EFFECTS: dict[str, Effect] = {
    "brighten": Effect(0.13, m.brightness, 0.40, 0.02),
    "darken": Effect(0.11, m.brightness, -0.26, 0.02),
    "raise_contrast": Effect(0.036, m.luma_deviation, 0.31, 0.01),
    "stretch_levels": Effect(0.10, m.tonal_range, 0.57, 0.03),
    "local_contrast": Effect(0.045, m.edge_contrast, 0.47, 0.005),
    "lift_shadows": Effect(0.039, m.key, 0.15, 0.02),
    "recover_highlights": Effect(0.037, m.brightness, -0.095, 0.02),
    "flatten_contrast": Effect(0.09, m.luma_deviation, -0.55, 0.01),
    "overexpose": Effect(0.23, m.brightness, 0.46, 0.02),
    "underexpose": Effect(0.21, m.brightness, -0.65, 0.02),
    "saturate": Effect(0.030, m.mean_saturation, 0.33, 0.03),
    "balance_white": Effect(0.060, m.bright_cast, -0.59, 0.10),
    "warm": Effect(0.036),
    "cool": Effect(0.034),
    "teal_and_orange": Effect(0.025),
    "desaturate": Effect(0.045, m.mean_saturation, -0.70, 0.03),
    "oversaturate": Effect(0.10, m.mean_saturation, 0.55, 0.03),
    "cast": Effect(0.075),
    "sharpen": Effect(0.015, m.edge_contrast, 0.25, 0.005),
    "denoise": Effect(0.017, m.grain, -0.70, 0.5),
    "blur": Effect(0.027, m.edge_contrast, -0.30, 0.005),
    "add_noise": Effect(0.043, m.grain, 1.74, 1.0),
    "compress": Effect(0.040),
    "straighten": Effect(0.09),
    "crop": Effect(0.13),
    "tilt": Effect(0.105),
    "vignette": Effect(0.066),
    "remove_object": Effect(0.0028),
    "posterise": Effect(0.057),
    "paint": Effect(0.047),
    "sepia": Effect(0.060),
    "sketch": Effect(0.031),
}

# What an instruction of a family gives no leave to move, and the shift at which over-editing is 5 for it alone.
STILL: dict[Family, Mapping[Callable[[Pixels, Pixels], float], float]] = {
    "tone": {tint_shift: 0.30},
    "colour": {brightness_shift: 0.15, edge_shift: 0.22},
    "detail": {tint_shift: 0.12, brightness_shift: 0.12},
    "geometry": {tint_shift: 0.12, edge_shift: 0.35},
    "content": {edge_shift: 0.60},
}

_CLEAR_TO_PASS = 0.6
_VISIBLE_TO_PASS = 0.3


def success_score(done: float, to_pass: float) -> float:
    """From the part of an effect that happened to a score in [0, 10]: 0 at none of it, 7.5 at `to_pass`.

    Example:
        >>> [round(success_score(done, 0.6), 1) for done in (-1, 0, 0.3, 0.6, 1.2)]
        [0.0, 0.0, 5.0, 7.5, 9.4]
    """
    return 10 * (1 - math.pow(0.25, max(0.0, done) / to_pass))


def _structure(p: Pixels) -> Array:
    """Brightness with its local mean taken out and its local contrast divided out."""
    mean = ndimage.uniform_filter(p.smooth, 9, mode="nearest")
    variance = ndimage.uniform_filter(p.smooth * p.smooth, 9, mode="nearest") - mean * mean
    structure: Array = (p.smooth - mean) / (np.sqrt(np.maximum(variance, 0)) + 0.02)
    return structure


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-9))


class PixelVerifier:
    """What the two verifiers share.

    Args:
        name: under which verifications are recorded; None keeps the plug-in's.
    """

    name: str

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.name

    def verify(self, source: "Image", edited: "Image", instruction: Instruction) -> Verification:
        """Give the two sub-scores of one edit, rounded to 0.01.

        Args:
            source: RGB.
            edited: RGB, of the same size.
            instruction: its category is a row of the table of operations; its text gives the strength.

        Raises:
            UserError: a category this verifier does not know, or images of different sizes.
        """
        operation = OPERATIONS.get(instruction.category)
        if operation is None:
            known = nearest(instruction.category, OPERATIONS)
            raise UserError(f"{self.name} cannot verify {instruction.category!r} ({known})")
        if source.size != edited.size:
            raise UserError(f"an edit keeps the size of its source, {source.size}; got {edited.size}")
        before, after = Pixels.of(source), Pixels.of(edited)
        effect, strength = EFFECTS[instruction.category], strength_of(instruction.text)
        success = self._success(before, after, effect, strength)
        over_editing = self._over_editing(before, after, operation, effect, strength)
        return Verification(verifier=self.name, success=round(success, 2), over_editing=round(over_editing, 2))

    def _success(self, before: Pixels, after: Pixels, effect: Effect, strength: float) -> float:
        raise NotImplementedError

    def _over_editing(
        self, before: Pixels, after: Pixels, operation: Operation, effect: Effect, strength: float
    ) -> float:
        raise NotImplementedError


class SuccessVerifier(PixelVerifier):
    """`pixel/success`: the statistic that the instruction speaks of, and the structure of the picture."""

    name = "pixel/success"

    def _success(self, before: Pixels, after: Pixels, effect: Effect, strength: float) -> float:
        return success_score(effect.done(before, after) / strength, _CLEAR_TO_PASS)

    def _over_editing(
        self, before: Pixels, after: Pixels, operation: Operation, effect: Effect, strength: float
    ) -> float:
        """Structure kept by a quality edit, not lost by a content edit; and the asked effect not far overshot."""
        needed = -0.1 if operation.orientation == "content" else 0.65
        kept = _correlation(_structure(before), _structure(after))
        structure = min(1.0, max(0.0, (kept - needed + 0.3) / 0.4))
        overshoot = max(0.0, effect.done(before, after) / strength - 1.6) if effect.measure else 0.0
        return 10 * structure / (1 + overshoot**2)


class FidelityVerifier(PixelVerifier):
    """`pixel/fidelity`: the whole picture: did it change visibly, and did only that change which was asked for?"""

    name = "pixel/fidelity"

    def _success(self, before: Pixels, after: Pixels, effect: Effect, strength: float) -> float:
        return success_score(visible_change(before, after) / (effect.visible * strength), _VISIBLE_TO_PASS)

    def _over_editing(
        self, before: Pixels, after: Pixels, operation: Operation, effect: Effect, strength: float
    ) -> float:
        """10 if all that should be still is still; falls with each thing that moved."""
        shifts = [shift(before, after) / limit for shift, limit in STILL[operation.family].items()]
        return 10 / (1 + math.fsum(x * x for x in shifts))
