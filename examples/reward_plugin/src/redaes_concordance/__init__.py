"""The reward `concordance`: the share of the other images' samples that a sampled score stands on the right side of.

This is Kendall's tau as a reward: with one sample of each image and no ties, the mean of a group's rewards is exactly
(1 + tau) / 2. The paper's reward (Eq. 6) pays by a sigmoid for the distance from the others' means, so that scores far
apart earn more and may drift to both ends of the scale; this one counts right and wrong only, and asks nothing of pairs
that the judges could hardly tell apart.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from redaes.rewards import RewardInputs


class Concordance:
    """Right order 1, the same score 1/2, wrong order 0, averaged over the samples of the other images.

    Args:
        apart: points by which two images must truly differ to be a pair that counts, at least 0.
    """

    def __init__(self, apart: float = 0.25) -> None:
        if apart < 0:
            raise ValueError(f"apart is {apart}; it is at least 0")
        self.apart = apart

    def __call__(self, inputs: "RewardInputs") -> "Tensor":
        """Rewards of shape (N, K) in [0, 1]; unparsed outputs (NaN scores) get 0 and are nobody's opponent."""
        scores = inputs.scores
        delta = inputs.g[:, None] - inputs.g[None, :]  # (N, N)
        gap = scores[:, :, None, None] - scores[None, None]  # (N, K, N, K): every sample against every other
        counts = (delta.abs() > self.apart)[:, None, :, None] & gap.isfinite()
        right = (1 + delta.sign()[:, None, :, None] * gap.nan_to_num(0.0).sign()) / 2
        return (right * counts).sum((2, 3)) / counts.sum((2, 3)).clamp(min=1)
