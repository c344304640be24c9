"""Batch samplers whose steps do not depend on how many processes share them, and that can begin in mid-epoch.

The samples of an optimiser step follow from (seed, epoch, index of the step) alone. A step may be cut into parts, whose
gradients accumulate, and each process takes its contiguous share of each part: one process and eight, with one part or
with eight, train on the same samples in the same order. A run that is continued begins at the step where it stopped,
on as many processes and in as many parts as there then are.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from redaes.errors import UserError

T = TypeVar("T")


def share(batch: Sequence[T], rank: int, world_size: int) -> list[T]:
    """The part of a step's batch that one of several processes works on; sizes differ by at most one.

    Example:
        >>> [share("abcde", rank, 2) for rank in range(2)]
        [['a', 'b'], ['c', 'd', 'e']]
    """
    return list(batch[rank * len(batch) // world_size : (rank + 1) * len(batch) // world_size])


class StepSampler(ABC, Generic[T]):
    """A batch sampler for `DataLoader(batch_sampler=...)`; what the two kinds of it share.

    Args:
        seed: of the order.
        rank: number of this process, from 0.
        world_size: how many processes share a step.
        epoch: the epoch to begin with.
        start: batches of that epoch to leave out, because they were trained on before.
    """

    def __init__(self, seed: int = 0, rank: int = 0, world_size: int = 1, epoch: int = 0, start: int = 0) -> None:
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = epoch
        self.start = start

    @property
    def sampler(self) -> "StepSampler[T]":
        """Itself: where Lightning looks for `set_epoch` of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch; only the first one may begin in its middle."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches in a whole epoch, whatever the start."""

    @abstractmethod
    def steps(self) -> Iterator[list[T]]:
        """The batches of this epoch over all processes, in order; a function of (seed, epoch)."""

    def __iter__(self) -> Iterator[list[T]]:
        for index, batch in enumerate(self.steps()):
            if index >= self.start:
                yield share(batch, self.rank, self.world_size)

    def order(self, items: Sequence[Any]) -> tuple[list[Any], random.Random]:
        """The items in this epoch's order, and the source of whatever else is random in it."""
        rng = random.Random(f"{self.seed}/{self.epoch}")
        shuffled = list(items)
        rng.shuffle(shuffled)
        return shuffled, rng


class ItemBatchSampler(StepSampler[T]):
    """Batches of single items.

    Args:
        items: what is drawn: indices of a dataset.
        step_size: items in an optimiser step, over all processes.
        shuffle: a new order every epoch, and an incomplete last step is left out, unless it is the only one. Without,
            every item comes once, in batches of nearly equal size.
        parts: batches that a step is cut into, whose gradients accumulate; the only step of a small dataset may have
            fewer.
        placement: seed, rank, world_size, epoch and start, see `StepSampler`.

    Raises:
        UserError: a batch smaller than the number of processes.
    """

    def __init__(self, items: Sequence[T], step_size: int, shuffle: bool, parts: int = 1, **placement: int) -> None:
        super().__init__(**placement)
        self.items = items
        self.step_size = step_size
        self.shuffle = shuffle
        self.parts = parts
        batch_size = step_size // parts
        smallest = min(batch_size, len(items))
        if smallest < self.world_size:
            raise UserError(
                f"a batch of {smallest} of {len(items)} samples cannot be shared by {self.world_size} processes; set "
                f"data.batch_size (now {batch_size}) to at least {self.world_size}, or use fewer devices"
            )

    def __len__(self) -> int:
        whole = len(self.items) // self.step_size
        # No batch may be smaller than the number of processes.
        most = len(self.items) // self.world_size
        if self.shuffle:
            return whole * self.parts if whole else min(self.parts, most)
        return min(math.ceil(len(self.items) / self.step_size) * self.parts, most)

    def steps(self) -> Iterator[list[T]]:
        """See `StepSampler.steps`."""
        items, count = self.items, len(self)
        if self.shuffle:
            # The whole steps; what is left over waits for another epoch's order.
            items = self.order(items)[0][: len(items) // self.step_size * self.step_size or len(items)]
        for index in range(count):
            yield self._cut(items, index, count)

    def _cut(self, items: Sequence[T], index: int, count: int) -> list[T]:
        """Batch `index` of `count`: every step is cut by itself, so that its parts are its own."""
        if not self.shuffle or count < self.parts:
            return share(items, index, count)
        step, part = divmod(index, self.parts)
        return share(items[step * self.step_size : (step + 1) * self.step_size], part, self.parts)
