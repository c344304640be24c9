"""An instructor that measures pixels: finds the worst deficiency and asks for the edit that mends it.

A stand-in for the paper's vision-language instructor. `instruct` gives the targeted edit of a pre-training pair;
`diversify` the arbitrary ones of an RL group, drawn without replacement from the table of operations.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from redaes.editors.operations import OPERATIONS, STRENGTHS, request
from redaes.errors import UserError, nearest
from redaes.judges import measures as m
from redaes.judges.measures import Measure, Pixels
from redaes.records import Instruction, Orientation

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Deficiency:
    """Something that can be wrong with a photograph, and what mends it.

    Attributes:
        analysis: in words.
        severity: from the pixels; 0 is fine, 1 is plainly wrong, more is worse.
        remedies: operations that mend it.
    """

    analysis: str
    severity: Measure
    remedies: tuple[str, ...]


def _above(measure: Measure, fine: float, wrong: float) -> Measure:
    """0 at `fine`, 1 at `wrong`, linear between and beyond; `wrong` may lie below `fine`."""
    return lambda p: max(0.0, (p.value(measure) - fine) / (wrong - fine))


def _dull(p: Pixels) -> float:
    """A photograph without any colour is black and white on purpose."""
    return 0.0 if p.value(m.mean_saturation) < 0.005 else _above(m.balanced_saturation, 0.26, 0.10)(p)


DEFICIENCIES: tuple[Deficiency, ...] = (
    Deficiency("The photograph is too dark.", _above(m.middle_tone, 0.36, 0.22), ("brighten", "lift_shadows")),
    Deficiency("The photograph is too bright.", _above(m.middle_tone, 0.56, 0.68), ("darken",)),
    Deficiency("The highlights are harsh.", _above(m.glare, 0.05, 0.25), ("recover_highlights",)),
    Deficiency(
        "The contrast is flat.",
        _above(m.tonal_range, 0.48, 0.26),
        ("raise_contrast", "stretch_levels", "local_contrast"),
    ),
    Deficiency("The colours are dull.", _dull, ("saturate",)),
    Deficiency("A colour cast covers the photograph.", _above(m.bright_cast, 0.45, 0.95), ("balance_white",)),
    Deficiency("The detail is soft.", _above(m.edge_sharpness, 1.75, 1.35), ("sharpen",)),
    Deficiency("Noise covers the detail.", _above(m.grain, 1.5, 4.5), ("denoise",)),
)

NOTHING_WRONG = Deficiency(
    "Nothing is wrong; a little more punch would help.",
    lambda p: 0.0,
    ("raise_contrast", "local_contrast", "sharpen"),
)

CONTENT_REMEDIES = {
    "straighten": "The photograph stands askew.",
    "crop": "The framing is loose.",
    "remove_object": "Something distracts from the subject.",
}


class PixelInstructor:
    """`pixel`: instructions from measurements.

    Args:
        orientations: kinds of edit to ask for (Tab. 3).
        content_share: share of targeted instructions that ask for a content edit, in [0, 1], where both kinds may
            be asked for [not from the paper].

    Raises:
        UserError: an orientation there is not, or none.
    """

    name = "pixel"

    def __init__(
        self, orientations: Sequence[Orientation] = ("quality", "content"), content_share: float = 0.15
    ) -> None:
        known = get_args(Orientation)
        for orientation in orientations:
            if orientation not in known:
                raise UserError(f"unknown orientation {orientation!r} ({nearest(orientation, known)})")
        if not orientations:
            raise UserError(f"orientations: at least one of {', '.join(known)}")
        self.orientations = tuple(orientations)
        self.content_share = content_share

    def instruct(self, image: "Image", seed: int) -> Instruction:
        """One targeted, improving edit: of the worst deficiency, now and then of another that is nearly as bad."""
        rng = random.Random(f"instruct/{seed}")
        strength = rng.choice(list(STRENGTHS))
        content = self.orientations == ("content",) or (
            "content" in self.orientations and rng.random() < self.content_share
        )
        if content:
            category = rng.choice(list(CONTENT_REMEDIES))
            return request(category, strength, CONTENT_REMEDIES[category])
        pixels = Pixels.of(image)
        found = [(deficiency, deficiency.severity(pixels)) for deficiency in DEFICIENCIES]
        worst = max(severity for _, severity in found)
        plain = [(d, severity**2) for d, severity in found if severity > max(0.1, worst / 3)] or [(NOTHING_WRONG, 1.0)]
        chosen = rng.choices([d for d, _ in plain], [weight for _, weight in plain])[0]
        return request(rng.choice(chosen.remedies), strength, chosen.analysis)

    def diversify(self, image: "Image", count: int, seed: int) -> list[Instruction]:
        """`count` different edits, improving or not, drawn without replacement from the table of operations.

        Args:
            image: not looked at: diverse edits are not aimed at a deficiency.
            count: where it exceeds the operations, they are drawn again, in another strength.
            seed: of the draw.

        Raises:
            UserError: more edits than operations times strengths.
        """
        rng = random.Random(f"diversify/{seed}")
        names = [n for n, op in OPERATIONS.items() if op.orientation in self.orientations]
        if count > len(names) * len(STRENGTHS):
            raise UserError(f"{count} different edits asked for; there are {len(names) * len(STRENGTHS)}")
        strengths = {name: rng.sample(list(STRENGTHS), len(STRENGTHS)) for name in names}
        drawn = [name for _ in STRENGTHS for name in rng.sample(names, len(names))][:count]
        return [request(name, strengths[name].pop()) for name in drawn]
