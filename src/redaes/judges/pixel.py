"""Three judges that measure pixels: a stand-in for human taste, not a model of it.

They let the whole method run offline, on photographs nobody has rated. Each has a speciality that weighs most and
glances at the rest with simpler measures of its own: `pixel/detail` (sharpness and noise), `pixel/tone` (exposure
and contrast), `pixel/colour` (colourfulness and balance). So they agree on what is plain and differ on what is
subtle, and the consensus has work to do. They see pixels only: never which edit was made, by whom, or why. They know
nothing of composition, content or meaning.

An aspect turns one measurement into a quality in [0, 1]. A judge's score is the weighted mean of its qualities, spread
over [0, 10]; its difference is the change of that mean, amplified since edits of one photograph differ less than
photographs do. Values are rounded to 0.01, so that they do not depend on the machine. Every weight and curve is our
choice, not from the paper.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from redaes.errors import UserError, nearest
from redaes.judges import measures as m
from redaes.judges.measures import Measure, Pixels
from redaes.records import Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

Curve = Callable[[float], float]


def rising(half: float, power: float) -> Curve:
    """Quality grows with a measurement >= 0: 0 at 0, 0.5 at `half`, towards 1; the steeper the higher the power."""
    return lambda x: x**power / (x**power + half**power) if x > 0 else 0.0


def falling(half: float, power: float) -> Curve:
    """Quality falls with a measurement >= 0: 1 at 0, 0.5 at `half`, never quite 0, so that worse stays worse."""
    return lambda x: 1 - rising(half, power)(x)


def around(best: float, width: float) -> Curve:
    """Quality is 1 at `best` and 0.5 one `width` away on either side, never quite 0."""
    return lambda x: 1 / (1 + ((x - best) / width) ** 2)


@dataclass(frozen=True)
class Aspect:
    """One thing a judge looks at.

    Attributes:
        subject: as a reason names it, e.g. `detail`.
        weight: in the judge's score; a judge's weights sum to 1.
        measure: of the pixels.
        curve: from the measurement to a quality in [0, 1].
        states: what is said of a low, a middling and a high quality.
        worse: what is said of a fall in quality.
        better: what is said of a rise.
    """

    subject: str
    weight: float
    measure: Measure
    curve: Curve
    states: tuple[str, str, str]
    worse: str
    better: str

    def quality(self, pixels: Pixels) -> float:
        """In [0, 1]."""
        return self.curve(pixels.value(self.measure))

    def state(self, quality: float) -> str:
        """The words for a quality."""
        return f"{self.subject} {self.states[min(2, int(quality * 3))]}"


def _detail(weight: float, measure: Measure, curve: Curve) -> Aspect:
    return Aspect("detail", weight, measure, curve, ("is soft", "is fair", "is crisp"), "is softer", "is crisper")


def _noise(weight: float, measure: Measure, curve: Curve) -> Aspect:
    return Aspect("noise", weight, measure, curve, ("is strong", "shows", "is low"), "is stronger", "is lower")


def _light(weight: float, measure: Measure, curve: Curve) -> Aspect:
    return Aspect(
        "light", weight, measure, curve, ("is off", "is fair", "is balanced"), "is worse", "is better balanced"
    )


def _contrast(weight: float, measure: Measure, curve: Curve) -> Aspect:
    return Aspect("contrast", weight, measure, curve, ("is flat", "is fair", "is strong"), "is flatter", "is stronger")


def _colour(weight: float, measure: Measure, curve: Curve) -> Aspect:
    return Aspect("colour", weight, measure, curve, ("is dull", "is fair", "is rich"), "is duller", "is richer")


def _balance(weight: float, measure: Measure, curve: Curve) -> Aspect:
    states = ("has a cast", "leans to a tint", "is neutral")
    return Aspect("balance", weight, measure, curve, states, "has more of a cast", "is more neutral")


class PixelJudge:
    """What the three judges share; a judge is its table of aspects.

    Args:
        gain: points of difference per tenth of quality gained, for small changes; large ones level off at 10.
        centre: the quality that scores 5, in (0, 1); None keeps the judge's.
        spread: how far apart the scores of two qualities lie; None keeps the judge's, at which crops of
            scikit-image's photographs score with a standard deviation of about 1.7.
        name: under which verdicts are recorded; None keeps the plug-in's.
        weights: another weight for some subjects, such as `{detail: 2}`; all are scaled to sum to 1.

    Raises:
        UserError: a subject there is not, or weights that are not positive.

    Example:
        >>> from PIL import Image
        >>> grey = Image.new("RGB", (112, 112), (120, 120, 120))
        >>> DetailJudge().score(grey).reasoning
        'Detail is soft; noise is low; colour is dull.'
        >>> DetailJudge().compare(grey, grey)
        Verdict(judge='pixel/detail', value=0.0, reasoning='The two look alike.')
    """

    name: str
    aspects: Sequence[Aspect]
    centre: float
    spread: float

    def __init__(
        self,
        gain: float = 6.0,
        centre: float | None = None,
        spread: float | None = None,
        name: str | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.gain = gain
        self.centre = self.centre if centre is None else centre
        self.spread = self.spread if spread is None else spread
        self.name = name or self.name
        if weights is not None:
            self.aspects = self._reweighted(weights)

    def _reweighted(self, weights: Mapping[str, float]) -> tuple[Aspect, ...]:
        subjects = [aspect.subject for aspect in self.aspects]
        for subject, weight in weights.items():
            if subject not in subjects:
                raise UserError(f"{self.name} has no aspect {subject!r} ({nearest(subject, subjects)})")
            if not weight > 0:
                raise UserError(f"{self.name}: the weight of {subject} is {weight}; it must be positive")
        chosen = [weights.get(aspect.subject, aspect.weight) for aspect in self.aspects]
        return tuple(replace(a, weight=w / math.fsum(chosen)) for a, w in zip(self.aspects, chosen, strict=True))

    def score(self, image: "Image") -> Verdict:
        """A score in [0, 10], with the state of the judge's speciality and of the weakest other aspect.

        Args:
            image: RGB, about 112 pixels a side; sharpness and noise are measured in pixels.
        """
        qualities = self._qualities(image)
        own, others = self._speciality()
        said = [*own, min(others, key=lambda k: qualities[k])]
        reasoning = "; ".join(self.aspects[k].state(qualities[k]) for k in said)
        quality = math.fsum(a.weight * q for a, q in zip(self.aspects, qualities, strict=True))
        value = 10 / (1 + math.exp(-self.spread * (quality - self.centre)))
        return Verdict(judge=self.name, value=round(value, 2), reasoning=_sentence(reasoning))

    def compare(self, source: "Image", edited: "Image") -> Verdict:
        """A difference in [-10, 10], naming the aspects that moved most, most first.

        Args:
            source: RGB.
            edited: RGB; positive if this one is better.
        """
        before, after = self._qualities(source), self._qualities(edited)
        moves = [a.weight * (y - x) for a, x, y in zip(self.aspects, before, after, strict=True)]
        value = 10 * math.tanh(self.gain * math.fsum(moves))
        order = sorted(range(len(moves)), key=lambda k: (-abs(moves[k]), k))
        named = [k for k in order[:3] if abs(moves[k]) >= max(0.003, abs(moves[order[0]]) / 5)]
        words = [f"{self.aspects[k].subject} {self._move(k, moves[k])}" for k in named]
        reasoning = _sentence("; ".join(words) or "the two look alike")
        return Verdict(judge=self.name, value=round(value, 2) + 0.0, reasoning=reasoning)

    def _move(self, index: int, change: float) -> str:
        return self.aspects[index].better if change > 0 else self.aspects[index].worse

    def _qualities(self, image: "Image") -> list[float]:
        pixels = Pixels.of(image)
        return [aspect.quality(pixels) for aspect in self.aspects]

    def _speciality(self) -> tuple[list[int], list[int]]:
        """Indices of the two heaviest aspects, and of the others."""
        order = sorted(range(len(self.aspects)), key=lambda k: (-self.aspects[k].weight, k))
        return sorted(order[:2]), sorted(order[2:])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


class DetailJudge(PixelJudge):
    """`pixel/detail`: sharpness and noise first."""

    name = "pixel/detail"
    centre = 0.60
    spread = 9.0
    aspects = (
        _detail(0.48, m.edge_contrast, rising(0.09, 1.8)),
        _noise(0.15, m.grain, falling(6.0, 1.3)),
        _light(0.14, m.brightness, around(0.46, 0.28)),
        _contrast(0.10, m.luma_deviation, rising(0.14, 1.8)),
        _colour(0.09, m.colour_variety, rising(0.25, 1.3)),
        _balance(0.04, m.middle_cast, falling(0.7, 1.5)),
    )


class ToneJudge(PixelJudge):
    """`pixel/tone`: exposure and contrast first."""

    name = "pixel/tone"
    centre = 0.61
    spread = 8.0
    aspects = (
        _light(0.37, m.middle_tone, around(0.48, 0.28)),
        _contrast(0.37, m.tonal_range, rising(0.55, 2.5)),
        _detail(0.09, m.edge_contrast, rising(0.09, 1.8)),
        _noise(0.05, m.luma_grain, falling(6.0, 1.3)),
        _colour(0.06, m.colour_variety, rising(0.25, 1.3)),
        _balance(0.06, m.bright_cast, falling(0.7, 1.5)),
    )


class ColourJudge(PixelJudge):
    """`pixel/colour`: colourfulness and balance first."""

    name = "pixel/colour"
    centre = 0.48
    spread = 9.0
    aspects = (
        _colour(0.48, m.colour_distance, rising(0.20, 1.6)),
        _balance(0.18, m.colour_cast, falling(0.7, 1.5)),
        _detail(0.09, m.edge_contrast, rising(0.09, 1.8)),
        _noise(0.07, m.chroma_grain, falling(6.0, 1.3)),
        _light(0.10, m.key, around(0.36, 0.28)),
        _contrast(0.08, m.quartile_range, rising(0.20, 1.8)),
    )
