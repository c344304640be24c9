"""A runner and scorers for the tests of scoring on a cluster: modules that workers can import too."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ray
from PIL import Image

from redaes.inference import Score
from redaes.inference.asking import LoadedScorer
from redaes.inference.pools import RemoteImage
from redaes_ray.scoring import Placement, RayScorers, images, scorers


class OnCluster:
    """A runner that can score.

    Args:
        actors: of them.
        num_cpus: of each.
        address: of the cluster; None: the one that was joined, or RAY_ADDRESS.
    """

    def __init__(self, actors: int | None = 2, num_cpus: float | None = 0.5, address: str | None = None) -> None:
        self.placement, self.address = Placement(actors, num_cpus=num_cpus), address

    def map(self, job: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """In this process."""
        return map(job, items)

    def scorers(self, make: Callable[[], LoadedScorer]) -> AbstractContextManager[RayScorers]:
        """Of a cluster."""
        return scorers(make, self.placement, self.address)

    def images(self, urls: Sequence[str]) -> list[RemoteImage]:
        """Of object stores."""
        return images(urls)


class Brightness:
    """Red of the first pixel as a score; notes each image and its process in a file.

    Args:
        model: `LOG`, or `LOG|SECONDS`: the file, and how long each image takes.
        batch_size: at once.
        device: ignored.
    """

    def __init__(self, model: str, batch_size: int = 4, device: str | None = None) -> None:
        self.log, _, seconds = model.partition("|")
        self.seconds = float(seconds or 0)

    def score(self, images: Sequence[Image.Image]) -> list[Score]:
        """One each."""
        shades = [image.getpixel((0, 0))[0] for image in images]
        where = f"{os.getpid()} {ray.get_runtime_context().get_node_id()}"
        with Path(self.log).open("a") as file:
            file.write("".join(f"{shade} {where}\n" for shade in shades))
        time.sleep(self.seconds * len(images))
        return [self.said(shade) for shade in shades]

    def said(self, shade: int) -> Score:
        """Of one image."""
        return Score(shade / 25.5, f"red is {shade}", str(shade))


class Deadly(Brightness):
    """Its process does not survive images whose red is 13."""

    def said(self, shade: int) -> Score:
        """Of one image, if at all."""
        if shade == 13:
            os._exit(1)
        return super().said(shade)


class AlwaysDeadly(Brightness):
    """Its process survives no image."""

    def said(self, shade: int) -> Score:
        """Nothing."""
        os._exit(1)


class Fragile(Brightness):
    """Breaks on images whose red is 13, and has no answer about 14."""

    def said(self, shade: int) -> Score:
        """Of one image, if at all."""
        if shade == 13:
            raise RuntimeError("this one")
        return Score(None, "", "well") if shade == 14 else super().said(shade)


class NeverOpens:
    """A scorer whose process ends while it opens."""

    def __init__(self, model: str = "", batch_size: int = 4, device: str | None = None) -> None:
        os._exit(1)

    def score(self, images: Sequence[Image.Image]) -> list[Score]:
        """Never asked."""
        return []
