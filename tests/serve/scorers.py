"""Scorers without a model: a picture's brightness, quick, slow, or broken in some way."""

import threading
import time
from collections.abc import Sequence

import numpy as np
from PIL.Image import Image

from redaes.inference import Difference, Score


class Brightness:
    """The mean of all samples, 0 to 10; it also compares. A plug-in by its class path."""

    seconds = 0.0

    def __init__(self, model: str = "", batch_size: int = 16, device: str | None = None) -> None:
        self.batches: list[int] = []

    def score(self, images: Sequence[Image]) -> list[Score]:
        self.batches.append(len(images))
        time.sleep(self.seconds)
        return [Score(self.of(image), "It is so bright.", "") for image in images]

    def compare_pairs(self, pairs: Sequence[tuple[Image, Image]]) -> list[Difference]:
        self.batches.append(len(pairs))
        return [Difference(self.of(b) - self.of(a), "One is brighter.", "") for a, b in pairs]

    @staticmethod
    def of(image: Image) -> float:
        return float(np.asarray(image).mean()) / 25.5


class Slow(Brightness):
    """Half a second for a batch."""

    seconds = 0.5


class Held(Brightness):
    """Answers once `go` is set; `begun` says that it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def score(self, images: Sequence[Image]) -> list[Score]:
        self.begun.set()
        assert self.go.wait(20)
        return super().score(images)


class AfraidOfTheDark(Brightness):
    """Fails on black images, with words that must not get out."""

    def score(self, images: Sequence[Image]) -> list[Score]:
        if any(self.of(image) == 0 for image in images):
            raise RuntimeError("secret-of-the-scorer at /home/somebody/weights")
        return super().score(images)


class OutOfRange(Brightness):
    """White is beyond the scale, black is no number at all; gray cannot be read."""

    def score(self, images: Sequence[Image]) -> list[Score]:
        values = {0.0: float("nan"), 10.0: 11.0}
        return [Score(values.get(self.of(image)), "", "") for image in images]


class Forgetful(Brightness):
    """Never answers to the last of several."""

    def score(self, images: Sequence[Image]) -> list[Score]:
        return super().score(images)[: max(1, len(images) - 1)]
