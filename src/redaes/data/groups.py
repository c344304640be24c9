"""Group-whole batches for GRPO: one or more whole groups, or the shuffled ablation (Sec. 3.2.3, Tab. 2, Tab. 6).

A batch is N images that see each other in the reward. In a `consistent` batch they are the members of one group;
in a `shuffled` one they are members of different groups, each keeping its own g.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from redaes.data.batches import StepSampler, share
from redaes.errors import UserError
from redaes.records import GroupMember, GroupRecord, Orientation

Batching = Literal["consistent", "shuffled"]


class Member(NamedTuple):
    """One image of one group, flattened: what the sampler permutes.

    Attributes:
        group: id of the group it belongs to.
        image: path inside the dataset.
        g: consensus difference from the group's source, in [-10, 10].
        source_score: S(x) of the group's source, in [0, 10].
    """

    group: str
    image: str
    g: float
    source_score: float

    @property
    def truth(self) -> float:
        """The absolute score it stands for: S(x) + g, clipped to [0, 10]."""
        return min(10.0, max(0.0, self.source_score + self.g))


def select_members(
    groups: Sequence[GroupRecord], orientations: Sequence[Orientation], group_size: int | None
) -> list[list[Member]]:
    """Members of each group, the source first, restricted to edit kinds and to a size; groups of one are left out.

    Args:
        groups: RL groups.
        orientations: kinds of edit to keep (Tab. 3).
        group_size: at most this many members with the source (Tab. 6), the first ones; None keeps all.
    """

    def keep(member: GroupMember) -> bool:
        return member.edit is None or member.edit.instruction.orientation in orientations

    chosen = []
    for record in groups:
        members = [Member(record.id, m.image, m.g, record.score) for m in record.members if keep(m)]
        if len(members[:group_size]) > 1:
            chosen.append(members[:group_size])
    return chosen


class GroupBatchSampler(StepSampler[tuple[int, int, int]]):
    """Yields batches of (group index, member index, position in the step's batch); deterministic in (seed, epoch).

    Args:
        sizes: number of members of each group.
        groups_per_batch: whole groups in a step's batch, over all processes.
        batching: `consistent` keeps groups whole; `shuffled` permutes all images and cuts batches of the mean size.
        placement: seed, rank, world_size, epoch and start, see `StepSampler`.

    Raises:
        UserError: no group, or batches that can have fewer images than there are processes.
    """

    def __init__(
        self, sizes: Sequence[int], groups_per_batch: int = 1, batching: Batching = "consistent", **placement: int
    ) -> None:
        super().__init__(**placement)
        if not sizes:
            raise UserError("no RL group with two or more members; loosen the engine's filters or add sources")
        self.sizes = list(sizes)
        self.groups_per_batch = groups_per_batch
        self.batching = batching
        smallest = self._smallest_batch()
        if smallest < self.world_size:
            raise UserError(
                f"a batch may have only {smallest} images for {self.world_size} processes; raise data.groups_per_batch "
                f"(now {groups_per_batch}), or train on fewer devices"
            )

    def _smallest_batch(self) -> int:
        if self.batching == "shuffled":
            return sum(self.sizes) // len(self)
        return sum(sorted(self.sizes)[: len(self.sizes) // len(self)])

    def __len__(self) -> int:
        # Groups left over are spread, so that no batch is smaller than asked for.
        return max(1, len(self.sizes) // self.groups_per_batch)

    def steps(self) -> Iterator[list[tuple[int, int, int]]]:
        """See `StepSampler.steps`."""
        for images in self._batches():
            yield [(group, member, position) for position, (group, member) in enumerate(images)]

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        order, rng = self.order(range(len(self.sizes)))
        if self.batching == "consistent":
            for index in range(len(self)):
                chosen = share(order, index, len(self))
                yield [(group, member) for group in chosen for member in range(self.sizes[group])]
            return
        images = [(group, member) for group in order for member in range(self.sizes[group])]
        rng.shuffle(images)
        for index in range(len(self)):
            yield share(images, index, len(self))
