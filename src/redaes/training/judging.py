"""What a step's outputs earn: scores, rewards and advantages of all images of the step, whichever process has them.

The reward compares the images of a group, and the images of a step may be spread over processes. So the outputs' texts
are gathered first; then every process computes the same few numbers for the whole step and takes its own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redaes.data.groups import Member
from redaes.data.modules import GroupBatch
from redaes.models.sharding import is_distributed
from redaes.rewards import Reward, RewardInputs
from redaes.training.base import scores_of
from redaes.training.objectives import Scale, group_advantages


@dataclass(frozen=True)
class Judged:
    """The images of a whole step, in the order of their positions; tensors on the CPU.

    Attributes:
        members: N images.
        texts: for each image its K outputs.
        scores: (N, K), NaN where the parser finds none.
        rewards: (N, K).
        advantages: (N, K), 0 where `left_out`.
        zero_std: (N,) bool, whether an image's rewards are all equal.
        left_out: (N,) bool, whether an image of the comparison set could not be read: none of the set is trained on.
        own: the images of this process.
    """

    members: list[Member]
    texts: list[list[str]]
    scores: Tensor
    rewards: Tensor
    advantages: Tensor
    zero_std: Tensor
    left_out: Tensor
    own: slice

    def metrics(self) -> dict[str, Tensor]:
        """What to log of the step: the same on every process."""
        scores = self.scores[self.scores.isfinite()]
        return {
            "reward": self.rewards.mean(),
            "reward_std": self.rewards.std(dim=1).mean(),
            "advantage_abs": self.advantages.abs().mean(),
            "frac_zero_std": self.zero_std.float().mean(),
            "parse_failure_rate": self.scores.isnan().float().mean(),
            "score_mean": scores.mean(),
            "score_std": scores.std() if len(scores) > 1 else torch.zeros(()),
            "left_out": self.left_out.float().sum(),
        }


def judge(batch: GroupBatch, texts: list[str], reward: Reward, scale: Scale) -> Judged:
    """Compute the rewards of a step (Eq. 6 or another) and the advantages of its outputs (Eq. 7).

    Args:
        batch: this process's images.
        texts: K consecutive outputs for each of them.
        reward: compares the images of a set with each other.
        scale: see `group_advantages`.
    """
    k = len(texts) // len(batch.members)
    images = [
        (*image, texts[i * k : (i + 1) * k])
        for i, image in enumerate(zip(batch.sets, batch.members, batch.unreadable.tolist(), strict=True))
    ]
    everything, own = gather(images)
    names, members, unreadable, outputs = zip(*everything, strict=True)
    scores = scores_of([text for row in outputs for text in row]).view(len(outputs), k)
    rewards, left_out = torch.zeros_like(scores), torch.zeros(len(outputs), dtype=torch.bool)
    for name in dict.fromkeys(names):
        rows = [row for row, other in enumerate(names) if other == name]
        if any(unreadable[row] for row in rows):
            left_out[rows] = True
            continue
        g, sources = scores.new_tensor([(members[row].g, members[row].source_score) for row in rows]).unbind(1)
        rewards[rows] = reward(RewardInputs(scores[rows], g, sources, [outputs[row] for row in rows]))
    kept = ~left_out
    advantages, zero_std = torch.zeros_like(rewards), torch.zeros_like(left_out)
    if kept.any():
        advantages[kept], zero_std[kept] = group_advantages(rewards[kept], scale)
    return Judged(
        members=list(members),
        texts=list(outputs),
        scores=scores,
        rewards=rewards,
        advantages=advantages,
        zero_std=zero_std,
        left_out=left_out,
        own=own,
    )


def gather(own: list[Any]) -> tuple[list[Any], slice]:
    """Lists of all processes in the order of their ranks, and where this process's is among them."""
    if not is_distributed():
        return own, slice(0, len(own))
    lists: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lists, own)
    before = sum(len(values) for values in lists[: torch.distributed.get_rank()])
    return [value for values in lists for value in values], slice(before, before + len(own))
