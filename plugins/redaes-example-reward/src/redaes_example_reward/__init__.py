"""The reward `hinge_margin`: scores earn for being on the right side of the other images' means, up to a margin.

Where the paper's reward (Eq. 6) takes a sigmoid of the gap, which never stops rising, this one takes a straight line
that is 1 from the margin on: to be right by more than the margin earns nothing more. Pairs count by |delta|.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from redaes.rewards import RewardInputs


class HingeMargin:
    """Right by `margin` points or more: 1. Wrong by as much: 0. Between: straight.

    Args:
        margin: points of score, > 0.
    """

    def __init__(self, margin: float = 1.0) -> None:
        if margin <= 0:
            raise ValueError(f"margin is {margin}; it is above 0")
        self.margin = margin

    def __call__(self, inputs: "RewardInputs") -> "Tensor":
        """Rewards of shape (N, K) in [0, 1]; unparsed outputs (NaN scores) get 0 and are nobody's opponent."""
        delta = inputs.g[:, None] - inputs.g[None, :]
        means = inputs.scores.nanmean(dim=1)
        weights = (delta.abs() * means.isfinite())[:, None, :]
        gap = inputs.scores.nan_to_num(0.0)[:, :, None] - means.nan_to_num(0.0)
        right = (0.5 + delta.sign()[:, None, :] * gap / (2 * self.margin)).clamp(0, 1)
        rewards = (right * weights).sum(-1) / weights.sum(-1).clamp(min=1e-6)
        return rewards.masked_fill(inputs.scores.isnan(), 0.0)
