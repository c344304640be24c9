"""Scorers of a third party, by pixels alone, for `redaes evaluate`; some are slow, some draw, some break."""

import os
import time
from pathlib import Path

from redaes.inference import Score


def shade(image) -> int:
    return image.convert("L").resize((1, 1)).getpixel((0, 0))


class Brightness:
    """Notes every image it is asked about in a file, if there is one."""

    def __init__(self, model="", batch_size=4, device=None, log="", seconds=0.0):
        self.batch_size, self.device, self.log, self.seconds = batch_size, device, log, seconds

    def score(self, images):
        time.sleep(self.seconds * len(images))
        if self.log:
            with Path(self.log).open("a") as file:
                file.write("".join(f"{shade(image)} {os.getpid()} {self.device}\n" for image in images))
        return [Score(shade(image) / 25.5, "", str(shade(image))) for image in images]


class Darkness(Brightness):
    def score(self, images):
        return [Score(10 - score.value, "", "") for score in super().score(images)]


class Drawing(Brightness):
    """Draws several answers: the mean and their deviation."""

    def __init__(self, model="", batch_size=4, device=None, samples=1):
        super().__init__(model, batch_size, device)
        self.samples = samples
        self.fingerprint = f"drawing-{samples}"

    def score(self, images):
        spread = None if self.samples == 1 else 0.5
        return [Score(score.value, "", f"of {self.samples}", spread) for score in super().score(images)]


class OneDraw(Brightness):
    """Draws one answer a call, and cannot draw more."""

    deterministic = False
    calls = 0

    def score(self, images):
        type(self).calls += 1
        return [Score(float(type(self).calls), "", "") for _ in images]


class Broken(Brightness):
    """Breaks on every image from the given one on."""

    def __init__(self, model="", batch_size=4, device=None, log="", after=0):
        super().__init__(model, batch_size, device, log)
        self.left = after

    def score(self, images):
        if self.left < len(images):
            super().score(images)
            raise RuntimeError("no more")
        self.left -= len(images)
        return super().score(images)
