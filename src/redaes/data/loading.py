"""What runs in the loader's processes: images off the disk, encoded for the model.

A file that cannot be decoded is found here, long after the batches were cut and on one process only, so it must not
change what the others do: a grey square takes its place, and the batch says so.
"""

import os
import signal
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from PIL import Image as PILImage
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from redaes.data.aescot import Aescot
from redaes.data.groups import Batching, Member
from redaes.data.images import ImageError
from redaes.data.manifest import Manifest
from redaes.data.samples import Sample
from redaes.models.processor import VisionTextBatch, VisionTextProcessor
from redaes.prompts import render


def leave_stopping_to_the_training(_worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: a request to stop that reaches all processes must not end the loader's.

    The training answers it after its step. SIGTERM itself is how a loader ends its own processes, so they leave the
    group of processes to which others send it.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.setpgid(0, 0)


@dataclass
class GroupBatch:
    """N images that see each other in the reward, or one process's share of them.

    Attributes:
        prompts: N encoded prompts, one image each.
        sets: N names; images of the same name are compared in the reward.
        positions: (N,) long, place of each image in the step's batch, which several processes may share.
        members: the N members. What they are rewarded by is no tensor: a trainer's precision would round it.
        unreadable: (N,) bool, images that could not be decoded; a grey square stands in for each.
    """

    prompts: VisionTextBatch
    sets: list[str]
    positions: Tensor
    members: list[Member]
    unreadable: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor | VisionTextBatch) else value
            for name, value in vars(self).items()
        }
        return type(self)(**moved)

    def pin_memory(self) -> Self:
        """The same batch with its prompts in page-locked memory (called by the data loader)."""
        return replace(self, prompts=self.prompts.pin_memory())


class ImageFiles:
    """Images of a dataset by path; each unreadable file is warned about once, whichever loader process meets it.

    Args:
        files: where they are, an open dataset or AesCoT file.
        paths: the images that may be asked for.
    """

    def __init__(self, files: Manifest | Aescot, paths: Iterable[str]) -> None:
        self.files = files
        self._numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
        self._warned = torch.zeros(len(self._numbers), dtype=torch.bool).share_memory_()

    def open(self, path: str) -> tuple[Image, bool]:
        """The image, and whether it could be read; a grey square if not."""
        try:
            return self.files.open(path), True
        except ImageError as error:
            if not self._warned[self._numbers[path]]:
                self._warned[self._numbers[path]] = True
                warnings.warn(f"unreadable image, nothing is learnt from it: {error}", stacklevel=2)
            return PILImage.new("RGB", (64, 64), (128, 128, 128)), False


class Samples(Dataset[tuple[list[tuple[Image, bool]], Sample]]):
    """Supervised samples with their images loaded."""

    def __init__(self, files: Manifest | Aescot, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.files = ImageFiles(files, (path for sample in samples for path in sample.images))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[list[tuple[Image, bool]], Sample]:
        sample = self.samples[index]
        return [self.files.open(path) for path in sample.images], sample


class Members(Dataset[tuple[Image, bool, Member, int]]):
    """Members of groups by (group index, member index, position in the step's batch)."""

    def __init__(self, files: Manifest | Aescot, groups: Sequence[Sequence[Member]]) -> None:
        self.groups = groups
        self.files = ImageFiles(files, (member.image for group in groups for member in group))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: tuple[int, int, int]) -> tuple[Image, bool, Member, int]:
        group, chosen, position = index
        member = self.groups[group][chosen]
        return *self.files.open(member.image), member, position


@dataclass(frozen=True)
class EncodeSamples:
    """Collation of `Samples`; a sample with an unreadable image has no label, so that it teaches nothing."""

    processor: VisionTextProcessor

    def __call__(self, items: Sequence[tuple[list[tuple[Image, bool]], Sample]]) -> VisionTextBatch:
        """Items of `Samples` -> a batch with labels."""
        opened, samples = zip(*items, strict=True)
        images = [[image for image, _ in files] for files in opened]
        batch = self.processor.batch(images, [s.question for s in samples], [s.answer for s in samples])
        assert batch.labels is not None
        batch.labels[[not all(readable for _, readable in files) for files in opened]] = -100
        return batch


@dataclass(frozen=True)
class EncodeMembers:
    """Collation of `Members`."""

    processor: VisionTextProcessor
    batching: Batching

    def __call__(self, items: Sequence[tuple[Image, bool, Member, int]]) -> GroupBatch:
        """Items of `Members` -> a batch of prompts."""
        images, readable, members, positions = zip(*items, strict=True)
        return GroupBatch(
            prompts=self.processor.batch([[i] for i in images], [render("score")] * len(images)),
            sets=[m.group if self.batching == "consistent" else "" for m in members],
            positions=torch.tensor(positions),
            members=list(members),
            unreadable=~torch.tensor(readable),
        )
