"""The judge `pixel/thirds`: composition, measured as how much of the picture's detail lies on the lines of thirds.

A measurement, not taste: it knows nothing of what the picture shows. As the built-in pixel judges, it needs no network.
"""

from typing import TYPE_CHECKING

import numpy as np

from redaes.records import Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 96


class Thirds:
    """Scores the share of edges near the lines of thirds, against what evenly spread edges would have.

    Args:
        width: half the width of a line's neighbourhood, as a share of the picture's side, in (0, 1/6].
        gain: points of difference per point of score.
    """

    name = "pixel/thirds"

    def __init__(self, width: float = 0.06, gain: float = 2.0) -> None:
        if not 0 < width <= 1 / 6:
            raise ValueError(f"width is {width}; it is above 0 and at most 1/6")
        self.width = width
        self.gain = gain

    def score(self, image: "Image") -> Verdict:
        """A score in [0, 10]: 5 where edges are spread evenly, or where there are none."""
        value = self._value(image)
        words = "Detail lies on the thirds." if value > 6 else "Detail is off the thirds."
        return Verdict(judge=self.name, value=value, reasoning=words if abs(value - 5) > 1 else "Composition is even.")

    def compare(self, source: "Image", edited: "Image") -> Verdict:
        """A difference in [-10, 10]."""
        change = self.gain * (self._value(edited) - self._value(source))
        words = "Detail moved to the thirds." if change > 0 else "Detail moved off the thirds."
        value = round(max(-10.0, min(10.0, change)), 2)
        return Verdict(judge=self.name, value=value, reasoning=words if value else "The composition is the same.")

    def _value(self, image: "Image") -> float:
        grey = np.asarray(image.convert("L").resize((SIDE, SIDE)), dtype=np.float64)
        down, right = np.gradient(grey)
        edges = np.hypot(down, right)
        total = edges.sum()
        if total < 1e-9:
            return 5.0
        position = (np.arange(SIDE) + 0.5) / SIDE
        near = np.minimum(abs(position - 1 / 3), abs(position - 2 / 3)) <= self.width
        on_lines = near[:, None] | near[None, :]
        even = on_lines.mean()
        share = (edges * on_lines).sum() / total
        # Linear on both sides of `even`, so that evenly spread edges get 5.
        return round(float(5 * share / even if share <= even else 5 + 5 * (share - even) / (1 - even)), 2)
