"""Votes for training: a benchmark's training part in, photographs with distributions over the scores 1..10 out.

Sets that count votes (AVA) give them as they are. Of a set with a mean alone, the votes are a normal distribution
around the mean, cut into ten bins [ours: no paper fixes it]; its deviation is the setting `assumed_std`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from lightning.pytorch import LightningDataModule
from PIL.Image import Transpose
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from redaes.data.benchmarks import Benchmark, Item
from redaes.data.images import VIEW_SIDE, open_image
from redaes.errors import UserError
from redaes.models.nima import BINS, Nima
from redaes.registry import PluginSpec, create


@dataclass
class VoteBatch:
    """B photographs.

    Attributes:
        pixels: (B, 3, S, S) float, normalised.
        votes: (B, 10) float, shares of the scores 1..10; each row sums to 1.
        means: (B,) float, mean opinion scores on 1..10.
    """

    pixels: Tensor
    votes: Tensor
    means: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device`."""
        return type(self)(self.pixels.to(device), self.votes.to(device), self.means.to(device))


def normal_votes(mean: float, std: float) -> Tensor:
    """Ten shares of a normal distribution, the tails counted with the outer bins.

    Args:
        mean: on 1..10.
        std: in points, >= 0; 0 puts all votes on the nearest score.

    Returns:
        (10,) that sums to 1.

    Example:
        >>> normal_votes(3.2, 0.0).argmax().item(), round(normal_votes(5.5, 1.4).sum().item(), 5)
        (2, 1.0)
    """
    edges = torch.arange(1, BINS, dtype=torch.float64) + 0.5
    below = (edges > mean).double() if std == 0 else torch.special.ndtr((edges - mean) / std)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), below, torch.ones(1, dtype=torch.float64)])
    return cumulative.diff().float()


def votes_of(item: Item, benchmark: Benchmark, assumed_std: float) -> Tensor:
    """The votes on one photograph as shares of ten scores: as counted, or made of its mean.

    Raises:
        UserError: counted votes of another number of scores, none at all, or a mean out of the set's range.
    """
    if not item.votes:
        share = benchmark.normalised(item.mos)
        if not 0 <= share <= 1:
            low, high = benchmark.native_range
            raise UserError(f"{benchmark.name}: {item.id} has the score {item.mos}; it must be in [{low}, {high}]")
        return normal_votes(1 + 9 * share, assumed_std)
    counts = torch.tensor(item.votes, dtype=torch.float32)
    if len(counts) != BINS or counts.min() < 0 or counts.sum() <= 0:
        raise UserError(f"{benchmark.name}: {item.id} has the votes {item.votes}; they must be counts of ten scores")
    return counts / counts.sum()


class VoteData(LightningDataModule):
    """A benchmark's training part, some of it held out for validation.

    Args:
        benchmark: the plug-in, with its root and the split to train on.
        batch_size: photographs in a batch.
        validation_share: share held out, in (0, 1); which ones depends on `seed` alone.
        assumed_std: deviation of the votes, in points of 1..10, where the set tells a mean alone; 0: one-hot.
        augment: random crop (of 7/8 of the side, as 224 of 256 in the paper) and flip in training.
        num_workers: loader processes.
        seed: of the order, the split and the crops.
    """

    def __init__(
        self,
        benchmark: PluginSpec,
        batch_size: int = 32,
        validation_share: float = 0.05,
        assumed_std: float = 1.4,
        augment: bool = True,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; it must be between 0 and 1")
        if batch_size < 1 or assumed_std < 0:
            raise UserError(f"batch_size is {batch_size}, assumed_std {assumed_std}; they must be >= 1 and >= 0")
        self.benchmark = benchmark
        self.batch_size = batch_size
        self.validation_share = validation_share
        self.assumed_std = assumed_std
        self.augment = augment
        self.num_workers = num_workers
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Load the set and hold some of it out."""
        found: Benchmark = create("benchmarks", self.benchmark).load()
        if len(found.items) < 4:
            raise UserError(f"{found.name}: {len(found.items)} photographs were found; at least 4 are needed to train")
        votes = [votes_of(item, found, self.assumed_std) for item in found.items]
        order = torch.randperm(len(votes), generator=torch.Generator().manual_seed(self.seed)).tolist()
        held = min(max(2, round(len(order) * self.validation_share)), len(order) - 2)
        self.parts = [
            ([found.items[i] for i in part], [votes[i] for i in part]) for part in (order[held:], order[:held])
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, augmented."""
        return self._loader(*self.parts[0], training=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of what was held out."""
        return self._loader(*self.parts[1], training=False)

    def _loader(self, items: Sequence[Item], votes: Sequence[Tensor], training: bool) -> DataLoader[Any]:
        assert self.trainer is not None
        network: Nima = self.trainer.lightning_module.model
        return DataLoader(
            _Photographs(items, votes, network, training and self.augment),
            batch_size=self.batch_size,
            shuffle=training,
            num_workers=self.num_workers,
            collate_fn=_joined,
            generator=torch.Generator().manual_seed(self.seed),
        )


class _Photographs(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, items: Sequence[Item], votes: Sequence[Tensor], network: Nima, augment: bool) -> None:
        self.items, self.votes, self.augment = items, votes, augment
        self.normalised = network.normalised

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = open_image(self.items[index].path, max_side=VIEW_SIDE)
        if self.augment:
            width, height = image.size
            left, top, flip = torch.rand(3).tolist()
            box = (left * width / 8, top * height / 8, (left + 7) * width / 8, (top + 7) * height / 8)
            image = image.crop(tuple(round(edge) for edge in box))
            image = image.transpose(Transpose.FLIP_LEFT_RIGHT) if flip < 0.5 else image
        return self.normalised(image), self.votes[index]


def _joined(rows: Sequence[tuple[Tensor, Tensor]]) -> VoteBatch:
    pixels, votes = (torch.stack(part) for part in zip(*rows, strict=True))
    return VoteBatch(pixels, votes, votes @ torch.arange(1.0, BINS + 1))
