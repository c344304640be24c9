"""The mathematics of the rewards: tensors in, tensors out.

Shapes: N images that are compared with each other, K outputs each. `scores` is (N, K) with NaN where an output could
not be parsed; a reward is (N, K), finite, and 0 there. Truths are (N,). Scores and truths are in [0, 10].
"""

from typing import Literal

import torch
from torch import Tensor

Weight = Literal["abs", "tanh", "uniform"]

EPSILON = 1e-6


def mean_scores(scores: Tensor) -> Tensor:
    """(N,) mean over each image's parsed outputs; NaN for an image with none."""
    return scores.nanmean(dim=1)


def pair_weights(differences: Tensor, weight: Weight = "abs") -> Tensor:
    """Weights of (N, N) true differences: |delta| grows with the gap, `tanh` saturates, `uniform` only drops ties [ours]."""
    size = differences.abs()
    if weight == "abs":
        return size
    return size.tanh() if weight == "tanh" else (size > 0).to(size.dtype)


def _weighted_opponents(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of (N, K, N) values over opponents j with (N, 1, N) weights; 0 where all weights are 0."""
    total = weights.sum(-1)
    return torch.where(total > 0, (values * weights).sum(-1) / total.clamp(min=1e-12), 0.0)


def _opponents(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N,) with 0 for images without a parsed output, and (N, N): 1 where j is an opponent of i."""
    means = mean_scores(scores)
    present = means.isfinite()
    others = present[None, :] & ~torch.eye(len(means), dtype=torch.bool, device=scores.device)
    return means.nan_to_num(0.0), others.to(scores.dtype)


def relative_ranking_consistency(scores: Tensor, truths: Tensor, tau: float = 1.0, weight: Weight = "abs") -> Tensor:
    """The Relative Ranking Consistency Reward (Eq. 6), a gap-weighted soft Kendall concordance.

        r_ik = sum_{j != i} w(delta_ij) sigmoid(sign(delta_ij) (s_ik - mean_j) / tau) / sum_{j != i} w(delta_ij)

    From the paper: own sample against the other images' means, gap-aware weight, sigmoid with temperature, ordinal
    direction. Ours: the weight's form, the division by the sum of weights, tau.

    Args:
        scores: (N, K) predictions, NaN where unparsed. Unparsed outputs get 0 and are left out of the means; an image
            without any parsed output is nobody's opponent.
        truths: (N,), only their differences delta_ij = truths_i - truths_j matter.
        tau: temperature > 0, in points of score.
        weight: see `pair_weights`.

    Returns:
        (N, K) in [0, 1]; 0 for an image without opponents of another truth.

    Example:
        >>> relative_ranking_consistency(torch.tensor([[8.0], [2.0]]), torch.tensor([1.0, 0.0])).round(decimals=3)
        tensor([[0.9980],
                [0.9980]])
    """
    delta = truths[:, None] - truths[None, :]
    means, others = _opponents(scores)
    gap = scores.nan_to_num(0.0)[:, :, None] - means
    concordance = torch.sigmoid(delta.sign()[:, None, :] * gap / tau)
    rewards = _weighted_opponents(concordance, (pair_weights(delta, weight) * others)[:, None, :])
    return rewards.masked_fill(scores.isnan(), 0.0)


def thurstone_fidelity(scores: Tensor, truths: Tensor, tie: float = 0.5) -> Tensor:
    """VisualQuality-R1's reward: the fidelity between Thurstone's win probability and the true order.

        p_ikj = Phi((s_ik - mean_j) / sqrt(var_i + var_j + 1e-6)),   g_ij = 1, tie, 0 for truth_i >, =, < truth_j
        r_ik  = mean_{j != i} sqrt(p g + 1e-6) + sqrt((1 - p)(1 - g) + 1e-6)

    Args:
        scores: (N, K), K >= 2 for a variance (unbiased, over the parsed outputs; 0 with fewer than two).
        truths: (N,).
        tie: what a tie counts, 0.5; Aes-R1 takes 1.

    Returns:
        (N, K), about [0, 1].
    """
    means, others = _opponents(scores)
    parsed = scores.isfinite()
    squares = torch.where(parsed, (scores - means[:, None]) ** 2, 0.0).sum(1)
    variance = squares / (parsed.sum(1) - 1).clamp(min=1)
    gap = scores.nan_to_num(0.0)[:, :, None] - means
    p = torch.special.ndtr(gap / (variance[:, None] + variance + EPSILON).sqrt()[:, None, :])
    delta = truths[:, None] - truths[None, :]
    g = torch.where(delta > 0, 1.0, torch.where(delta < 0, 0.0, tie))[:, None, :]
    fidelity = (p * g + EPSILON).sqrt() + ((1 - p) * (1 - g) + EPSILON).sqrt()
    return _weighted_opponents(fidelity, others[:, None, :]).masked_fill(~parsed, 0.0)


def gaussian_accuracy(scores: Tensor, truths: Tensor, width: float = 1.0) -> Tensor:
    """Aes-R1's absolute term exp(-0.5 ((s - y) / width)^2); its 0.1 on a [0, 1] scale is 1 point here."""
    error = scores - truths[:, None]
    return torch.exp(-0.5 * (error / width) ** 2).nan_to_num(0.0)


def score_hit(scores: Tensor, truths: Tensor, threshold: float = 0.35) -> Tensor:
    """Q-Insight's reward: 1 if |s - y| < threshold with both on a 1-5 scale (a point there is 2.5 here), else 0."""
    return ((scores - truths[:, None]).abs() * 0.4 < threshold).to(scores.dtype)


def negative_absolute_error(scores: Tensor, truths: Tensor) -> Tensor:
    """1 - |s - y| / 10, in [0, 1]; 0 where unparsed."""
    return (1 - (scores - truths[:, None]).abs() / 10).nan_to_num(0.0)
