"""An instructor that measures pixels: finds the worst deficiency and asks for the edit that mends it.

A stand-in for the paper's vision-language instructor. `instruct` gives the targeted edit of a pre-training pair;
`diversify` the arbitrary ones of an RL group, drawn without replacement from the table of operations.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redaes.editors.operations import OPERATIONS, STRENGTHS
from redaes.judges import measures as m
from redaes.judges.measures import Pixels
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
    severity: Callable[[Pixels], float]
    remedies: tuple[str, ...]


def _above(measure: Callable[[Pixels], float], fine: float, wrong: float) -> Callable[[Pixels], float]:
    """0 at `fine`, 1 at `wrong`, linear between and beyond; `wrong` may lie below `fine`."""
    return lambda p: max(0.0, (p.value(measure) - fine) / (wrong - fine))


def _dull(p: Pixels) -> float:
    """A photograph without any colour is black and white on purpose."""
    return 0.0 if p.value(m.mean_saturation) < 0.03 else _above(m.balanced_saturation, 0.26, 0.10)(p)


DEFICIENCIES: tuple[Deficiency, ...] = (
    Deficiency("The photograph is too dark.", _above(m.middle_tone, 0.36, 0.22), ("brighten", "lift_shadows")),
    Deficiency("The photograph is too bright.", _above(m.middle_tone, 0.56, 0.68), ("darken",)),
    Deficiency("The highlights are harsh.", _above(m.burnt, 0.05, 0.25), ("recover_highlights",)),
    Deficiency(
        "The contrast is flat.",
        _above(m.tonal_range, 0.42, 0.20),
        ("raise_contrast", "stretch_levels", "local_contrast"),
    ),
    Deficiency("The colours are dull.", _dull, ("saturate",)),
    Deficiency("A colour cast covers the photograph.", _above(m.bright_cast, 0.45, 0.95), ("balance_white",)),
    Deficiency("The detail is soft.", _above(m.edge_sharpness, 1.75, 1.35), ("sharpen",)),
    Deficiency("Noise covers the detail.", _above(m.grain, 1.5, 4.5), ("denoise",)),
)

# What can be asked for where nothing is wrong, or where only content edits are wanted.
CONTENT_REMEDIES = {
    "straighten": "The photograph stands askew.",
    "crop": "The framing is loose.",
    "remove_object": "Something distracts from the subject.",
}


class PixelInstructor:
    """`pixel`: instructions from measurements.

    Args:
        orientations: kinds of edit to ask for (Tab. 3).
        content_share: share of targeted instructions that ask for a content edit, in [0, 1].
    """

    name = "pixel"

    def __init__(
        self, orientations: Sequence[Orientation] = ("quality", "content"), content_share: float = 0.15
    ) -> None:
        self.orientations = tuple(orientations)
        self.content_share = content_share

    def instruct(self, image: "Image", seed: int) -> Instruction:
        """One targeted, improving edit: mostly of the worst deficiency, sometimes of the second."""
        rng = random.Random(f"instruct/{seed}")
        content = self.orientations == ("content",) or (
            "content" in self.orientations and rng.random() < self.content_share
        )
        if content:
            category = rng.choice(list(CONTENT_REMEDIES))
            return _instruction(category, rng, CONTENT_REMEDIES[category])
        pixels = Pixels.of(image)
        worst = sorted(DEFICIENCIES, key=lambda d: -d.severity(pixels))[:3]
        chosen = rng.choices(worst, [6, 3, 2])[0]
        return _instruction(rng.choice(chosen.remedies), rng, chosen.analysis)

    def diversify(self, image: "Image", count: int, seed: int) -> list[Instruction]:
        """`count` different edits, improving or not; more than there are operations repeats them."""
        rng = random.Random(f"diversify/{seed}")
        names = [n for n, op in OPERATIONS.items() if op.orientation in self.orientations]
        chosen: list[str] = []
        while len(chosen) < count:
            chosen += rng.sample(names, min(len(names), count - len(chosen)))
        return [_instruction(name, rng, "") for name in chosen]


def _instruction(category: str, rng: random.Random, analysis: str) -> Instruction:
    operation = OPERATIONS[category]
    text = operation.request.format(rng.choice(list(STRENGTHS)))
    return Instruction(text=text, category=category, orientation=operation.orientation, analysis=analysis)
