"""A judge of a made-up world that will not answer about some photographs while a file called `sulk` is there."""

from pathlib import Path
from typing import Any

from benchmarks._worlds import Judge
from PIL import Image

from redaes.calls import Declined
from redaes.records import Verdict


class Stubborn(Judge):
    """Declines to score every picture whose first pixel is dark.

    Args:
        sulk: the file.
        settings: as `Judge`.
    """

    def __init__(self, sulk: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.sulk = Path(sulk)

    def score(self, image: Image.Image) -> Verdict:
        """A score, or none."""
        if self.sulk.exists() and image.tobytes()[0] < 64:
            raise Declined("not this one")
        return super().score(image)
