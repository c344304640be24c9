"""Three judges that measure pixels: a stand-in for human taste, not a model of it.

They let the whole method run offline, on photographs nobody has rated. Each has a speciality that weighs most and
glances at the rest with simpler measures of its own: `pixel/detail` (sharpness and noise), `pixel/tone` (exposure
and contrast), `pixel/colour` (colourfulness and balance). So they agree on what is plain and differ on what is
subtle, and the consensus has work to do. They see pixels only: never which edit was made, by whom, or why. They know
nothing of composition, content or meaning.

An aspect turns one measurement into a quality in [0, 1]; a judge's score is ten times the weighted mean of its
qualities, its difference the change of that score, amplified since edits of one photograph differ less than
photographs do. Values are rounded to 0.01, so that they do not depend on the machine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redaes.judges import measures as m
from redaes.judges.measures import Pixels
from redaes.records import Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

Curve = Callable[[float], float]


def rising(middle: float, width: float) -> Curve:
    """Quality grows with the measurement: 0.5 at `middle`, 0.73 one `width` above."""
    return lambda x: 1 / (1 + math.exp(-(x - middle) / width))


def falling(middle: float, width: float) -> Curve:
    """Quality falls with the measurement: 0.5 at `middle`."""
    return rising(middle, -width)


def around(best: float, width: float) -> Curve:
    """Quality is 1 at `best` and 0.61 one `width` away on either side."""
    return lambda x: math.exp(-0.5 * ((x - best) / width) ** 2)


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
    measure: Callable[[Pixels], float]
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


def _detail(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    return Aspect("detail", weight, measure, curve, ("is soft", "is fair", "is crisp"), "is softer", "is crisper")


def _noise(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    return Aspect("noise", weight, measure, curve, ("is strong", "shows", "is low"), "is stronger", "is lower")


def _light(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    return Aspect("light", weight, measure, curve, ("is off", "is fair", "is balanced"), "is worse", "is better balanced")


def _highlights(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    states = ("are clipped", "are partly clipped", "are intact")
    return Aspect("extremes", weight, measure, curve, states, "are more clipped", "are less clipped")


def _contrast(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    return Aspect("contrast", weight, measure, curve, ("is flat", "is fair", "is strong"), "is flatter", "is stronger")


def _colour(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    return Aspect("colour", weight, measure, curve, ("is dull", "is fair", "is rich"), "is duller", "is richer")


def _balance(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    states = ("has a cast", "leans to a tint", "is neutral")
    return Aspect("balance", weight, measure, curve, states, "has more of a cast", "is more neutral")


def _garish(weight: float, measure: Callable[[Pixels], float], curve: Curve) -> Aspect:
    states = ("is garish", "is bold", "is natural")
    return Aspect("saturation", weight, measure, curve, states, "is more garish", "is more natural")


class PixelJudge:
    """What the three judges share; a judge is its table of aspects.

    Args:
        gain: of differences: points of difference per point of score.
        name: under which verdicts are recorded; None keeps the plug-in's.
    """

    name: str
    aspects: Sequence[Aspect]

    def __init__(self, gain: float = 4.0, name: str | None = None) -> None:
        self.gain = gain
        self.name = name or self.name

    def score(self, image: "Image") -> Verdict:
        """A score in [0, 10], with the state of the judge's speciality and of the weakest other aspect."""
        qualities = self._qualities(image)
        own, others = self._speciality()
        said = [*own, min(others, key=lambda k: qualities[k])]
        reasoning = "; ".join(self.aspects[k].state(qualities[k]) for k in said)
        return Verdict(judge=self.name, value=round(self._total(qualities), 2), reasoning=_sentence(reasoning))

    def compare(self, source: "Image", edited: "Image") -> Verdict:
        """A difference in [-10, 10], naming the aspects that moved most, most first."""
        before, after = self._qualities(source), self._qualities(edited)
        moves = [a.weight * (y - x) for a, x, y in zip(self.aspects, before, after, strict=True)]
        value = 10 * math.tanh(self.gain * 10 * math.fsum(moves) / 10)
        order = sorted(range(len(moves)), key=lambda k: (-abs(moves[k]), k))
        named = [k for k in order[:3] if abs(moves[k]) >= max(0.01, abs(moves[order[0]]) / 5)]
        words = [f"{self.aspects[k].subject} {self._move(k, moves[k])}" for k in named]
        reasoning = _sentence("; ".join(words) or "the two look alike")
        return Verdict(judge=self.name, value=round(value, 2), reasoning=reasoning)

    def _move(self, index: int, change: float) -> str:
        return self.aspects[index].better if change > 0 else self.aspects[index].worse

    def _qualities(self, image: "Image") -> list[float]:
        pixels = Pixels.of(image)
        return [aspect.quality(pixels) for aspect in self.aspects]

    def _total(self, qualities: Sequence[float]) -> float:
        return 10 * math.fsum(a.weight * q for a, q in zip(self.aspects, qualities, strict=True))

    def _speciality(self) -> tuple[list[int], list[int]]:
        """Indices of the two heaviest aspects, and of the others."""
        order = sorted(range(len(self.aspects)), key=lambda k: (-self.aspects[k].weight, k))
        return sorted(order[:2]), sorted(order[2:])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


class DetailJudge(PixelJudge):
    """`pixel/detail`: sharpness and noise first."""

    name = "pixel/detail"
    aspects = (
        _detail(0.34, m.edge_sharpness, rising(1.5, 0.22)),
        _noise(0.22, m.noise_sigma, falling(9.0, 2.0)),
        _light(0.16, m.brightness, around(0.46, 0.17)),
        _contrast(0.14, m.luma_deviation, rising(0.13, 0.035)),
        _colour(0.14, m.mean_saturation, rising(0.22, 0.10)),
    )


class ToneJudge(PixelJudge):
    """`pixel/tone`: exposure and contrast first."""

    name = "pixel/tone"
    aspects = (
        _light(0.28, m.middle_tone, around(0.46, 0.15)),
        _contrast(0.22, m.tonal_range, rising(0.52, 0.12)),
        _highlights(0.08, m.clipped, falling(0.15, 0.05)),
        _detail(0.18, m.edge_contrast, rising(0.042, 0.012)),
        _noise(0.12, m.noise_median, falling(5.5, 1.2)),
        _colour(0.12, m.chroma_deviation, rising(22.0, 10.0)),
    )


class ColourJudge(PixelJudge):
    """`pixel/colour`: colourfulness and balance first."""

    name = "pixel/colour"
    aspects = (
        _colour(0.26, m.colourfulness, rising(26.0, 11.0)),
        _balance(0.16, m.bright_cast, falling(0.26, 0.09)),
        _garish(0.08, m.garishness, falling(0.18, 0.06)),
        _detail(0.18, m.edge_decay, falling(0.62, 0.06)),
        _noise(0.12, m.chroma_noise, falling(7.0, 1.6)),
        _contrast(0.10, m.quartile_range, rising(0.19, 0.07)),
        _light(0.10, m.clear_share, rising(0.62, 0.12)),
    )
