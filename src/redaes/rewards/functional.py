"""The mathematics of the rewards: tensors in, tensors out.

In flow the scores that a policy gave to images of one comparison set and what is true of these images, out flows one
reward for every score. `redaes.rewards` wraps each function in a plug-in; METHOD: Sec. 3.2.3, Eq. 6 and its relatives.

Shapes: N images that are compared with each other, K sampled outputs each. `scores` is (N, K), NaN where an output
could not be parsed; a reward is (N, K), finite, without gradient, and 0 there: no score is ever made up. Truths are
(N,). Scores and truths are points in [0, 10].

Departures from the relatives' code: VisualQuality-R1 draws a random score for an unparsed output, Aes-R1 rounds its
terms to 4 decimals and adds 1e-5 to one of them. None of this is done here.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Weight = Literal["abs", "tanh", "uniform"]

EPSILON = 1e-6


def mean_scores(scores: Tensor) -> Tensor:
    """(N,) mean over each image's parsed outputs; NaN for an image with none.

    Example:
        >>> mean_scores(torch.tensor([[6.0, 8.0], [5.0, float("nan")]]))
        tensor([7., 5.])
    """
    return scores.masked_fill(~scores.isfinite(), torch.nan).nanmean(dim=1)


def true_differences(truths: Tensor) -> Tensor:
    """(N, N) delta_ij = truths_i - truths_j, exactly 0 for a tie.

    Differences that S + g cannot express in the tensor's type are rounding and count as ties [ours]: 32 times its
    epsilon bounds the error of two such sums at the top of the scale (4e-6 points in float32).

    Example:
        >>> true_differences(torch.tensor([0.0, 1.5, 1.5]))[1]
        tensor([1.5000, 0.0000, 0.0000])
    """
    delta = truths[:, None] - truths[None, :]
    return delta.masked_fill(delta.abs() < 32 * torch.finfo(delta.dtype).eps, 0.0)


def pair_weights(differences: Tensor, weight: Weight = "abs") -> Tensor:
    """How much each true difference counts; 0 where it is 0.

    Args:
        differences: (N, N) delta, in [-10, 10].
        weight: `abs` grows with the gap, `tanh` saturates at a few points, `uniform` only leaves ties out [ours].

    Raises:
        ValueError: unknown weight.

    Example:
        >>> pair_weights(torch.tensor([-2.0, 0.0]), "uniform")
        tensor([1., 0.])
    """
    size = differences.abs()
    if weight == "abs":
        return size
    if weight == "tanh":
        return size.tanh()
    if weight == "uniform":
        return (size > 0).to(size.dtype)
    raise ValueError(f"weight is {weight!r}; it must be one of {', '.join(get_args(Weight))}")


def _opponents(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N,), 0 for images without a parsed output, and (N, N): 1 where j is an opponent of i."""
    means = mean_scores(scores)
    others = means.isfinite()[None, :] & ~torch.eye(len(means), dtype=torch.bool, device=scores.device)
    return means.nan_to_num(0.0), others.to(scores.dtype)


def _gaps(scores: Tensor, means: Tensor) -> Tensor:
    """(N, K, N) own sample against every image's mean, s_ik - mean_j; finite where s_ik is unparsed."""
    return scores.masked_fill(~scores.isfinite(), 0.0)[:, :, None] - means


def _mean_over_opponents(values: Tensor, weights: Tensor) -> Tensor:
    """(N, K) mean of (N, K, N) values over opponents j with (N, N) weights; 0 where all weights are 0."""
    total = weights.sum(-1)
    share = weights / total.where(total > 0, 1.0)[:, None]
    return (values * share[:, None, :]).sum(-1)


@torch.no_grad()
def relative_ranking_consistency(scores: Tensor, truths: Tensor, tau: float = 1.0, weight: Weight = "abs") -> Tensor:
    """The Relative Ranking Consistency Reward (Eq. 6), a gap-weighted soft Kendall concordance.

        r_ik = sum_{j != i} w(delta_ij) sigmoid(sign(delta_ij) (s_ik - mean_j) / tau) / sum_{j != i} w(delta_ij)

    From the paper: own sample against the other images' means, gap-aware weight, sigmoid with temperature, ordinal
    direction. Not from the paper (its formula was lost): the weight's form, the division by the sum of weights, tau,
    what happens to ties and unparsed outputs.

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
    delta = true_differences(truths)
    means, others = _opponents(scores)
    concordance = torch.sigmoid(delta.sign()[:, None, :] * _gaps(scores, means) / tau)
    rewards = _mean_over_opponents(concordance, pair_weights(delta, weight) * others)
    return rewards.clamp(max=1.0).masked_fill(~scores.isfinite(), 0.0)


@torch.no_grad()
def thurstone_fidelity(scores: Tensor, truths: Tensor, tie: float = 0.5) -> Tensor:
    """VisualQuality-R1's reward: the fidelity between Thurstone's win probability and the true order.

        p_ikj = Phi((s_ik - mean_j) / sqrt(var_i + var_j + 1e-6)),   g_ij = 1, tie, 0 for truth_i >, =, < truth_j
        r_ik  = mean_{j != i} sqrt(p g + 1e-6) + sqrt((1 - p)(1 - g) + 1e-6)

    Args:
        scores: (N, K), K >= 2 for a variance (unbiased, over the parsed outputs; 0 with fewer than two).
        truths: (N,).
        tie: what a tie counts, 0.5; Aes-R1 takes 1.

    Returns:
        (N, K) in [0, 1.002]; 0 for an image without opponents.

    Source: arXiv 2505.14460, grpo_jsonl.py of TianheWu/VisualQuality-R1.

    Example:
        >>> collapsed = torch.full((2, 6), 5.0)  # equal predictions win half the time, whatever the truth
        >>> round(float(thurstone_fidelity(collapsed, torch.tensor([7.0, 3.0]))[0, 0]), 4)
        0.7081
    """
    means, others = _opponents(scores)
    parsed = scores.isfinite()
    squares = torch.where(parsed, (scores - means[:, None]) ** 2, 0.0).sum(1)
    variance = squares / (parsed.sum(1) - 1).clamp(min=1)
    p = torch.special.ndtr(_gaps(scores, means) / (variance[:, None] + variance + EPSILON).sqrt()[:, None, :])
    delta = true_differences(truths)
    g = torch.where(delta > 0, 1.0, torch.where(delta < 0, 0.0, tie)).to(scores.dtype)[:, None, :]
    fidelity = (p * g + EPSILON).sqrt() + ((1 - p) * (1 - g) + EPSILON).sqrt()
    return _mean_over_opponents(fidelity, others).masked_fill(~parsed, 0.0)


def _errors(scores: Tensor, truths: Tensor) -> Tensor:
    """(N, K) |s_ik - truth_i|, infinite where unparsed."""
    return (scores - truths[:, None]).abs().masked_fill(~scores.isfinite(), torch.inf)


@torch.no_grad()
def gaussian_accuracy(scores: Tensor, truths: Tensor, width: float = 1.0) -> Tensor:
    """Aes-R1's absolute term exp(-0.5 ((s - y) / width)^2).

    Args:
        scores: (N, K).
        truths: (N,).
        width: > 0, in points of score; Aes-R1's 0.1 on a [0, 1] scale is 1 point here.

    Returns:
        (N, K) in [0, 1].

    Source: arXiv 2509.21871, rapo.py of ssssmark/AesR1.

    Example:
        >>> gaussian_accuracy(torch.tensor([[6.0, 7.0, float("nan")]]), torch.tensor([6.0]))
        tensor([[1.0000, 0.6065, 0.0000]])
    """
    return torch.exp(-0.5 * (_errors(scores, truths) / width) ** 2)


@torch.no_grad()
def score_hit(scores: Tensor, truths: Tensor, threshold: float = 0.35) -> Tensor:
    """Q-Insight's reward: 1 if |s - y| < threshold with both on a 1-5 scale (a point there is 2.5 here), else 0.

    Args:
        scores: (N, K).
        truths: (N,).
        threshold: > 0, on the 1-5 scale; 0.35 there is 0.875 here.

    Returns:
        (N, K), 0 or 1.

    Source: arXiv 2503.22679, qinsight_multi_task.py of bytedance/Q-Insight.

    Example:
        >>> score_hit(torch.tensor([[6.0, 6.8, 6.9]]), torch.tensor([6.0]))
        tensor([[1., 1., 0.]])
    """
    return (_errors(scores, truths) * 0.4 < threshold).to(scores.dtype)


@torch.no_grad()
def absolute_accuracy(scores: Tensor, truths: Tensor) -> Tensor:
    """1 - |s - y| / 10, plain regression as a reward.

    Args:
        scores: (N, K).
        truths: (N,).

    Returns:
        (N, K) in [0, 1].

    Example:
        >>> absolute_accuracy(torch.tensor([[6.0, 8.5, float("nan")]]), torch.tensor([6.0]))
        tensor([[1.0000, 0.7500, 0.0000]])
    """
    return (1 - _errors(scores, truths) / 10).clamp(min=0.0)
