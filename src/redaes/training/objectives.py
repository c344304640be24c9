"""GRPO in pure functions: advantages (Eq. 7), the clipped objective with the KL penalty (Eq. 8), and its aggregation.

Shapes: B completions of at most T tokens; N images with K completions each, B = N*K. Nothing here knows of models.

    A_ik   = (r_ik - mean_k r_ik) / (std_k r_ik + 1e-4)
    rho_t  = exp(log pi_theta - log pi_old)                       per token, or one per sequence
    J_t    = min(rho_t A, clip(rho_t, 1 - eps_low, 1 + eps_high) A) - beta (exp(d_t) - d_t - 1),  d = log pi_ref - log pi_theta
    loss   = - mean over completions of the mean over tokens of J_t                                (`grpo`, Eq. 8)

Loss and gradient equal TRL 1.16's over the grid of these options (tests/reference/test_trl.py). Departures: a group
of equal rewards gets exactly zero advantage (six float32 rewards of 0.3 otherwise give 3e-4).
"""

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
RatioLevel = Literal["token", "sequence"]
Aggregation = Literal["grpo", "dr_grpo", "dapo"]

STD_EPSILON = 1e-4
EQUAL_REWARDS = 1e-6


def group_advantages(rewards: Tensor, scale: Scale = "group") -> tuple[Tensor, Tensor]:
    """Advantages of K completions relative to each other (Eq. 7).

    Args:
        rewards: (N, K), K >= 1.
        scale: divide by the unbiased deviation of the image's own K rewards (`group`), of all N*K (`batch`), or by
            nothing (`none`).

    Returns:
        advantages (N, K), and a mask (N,) of images whose rewards are all equal: their advantage is exactly 0.
    """
    equal = rewards.amax(1) - rewards.amin(1) < EQUAL_REWARDS
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "group" and rewards.shape[1] > 1:
        centred = centred / (rewards.std(dim=1, keepdim=True) + STD_EPSILON)
    elif scale == "batch" and rewards.numel() > 1:
        centred = centred / (rewards.std() + STD_EPSILON)
    return centred.masked_fill(equal[:, None], 0.0), equal


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: RatioLevel = "token") -> Tensor:
    """pi_theta / pi_old, per token (B, T) or, GSPO's, the geometric mean over each sequence (B, 1)."""
    log_ratio = logprobs - old_logprobs
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).unsqueeze(-1)
    return log_ratio.exp()


def clipped_objective(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), with A (B,) broadcast over tokens."""
    a = advantages.unsqueeze(-1)
    return torch.min(ratio * a, ratio.clamp(1 - clip_low, 1 + clip_high) * a)


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(pi_theta || pi_ref) per token, exp(d) - d - 1 with d = log pi_ref - log pi_theta; >= 0."""
    d = ref_logprobs - logprobs
    return d.exp() - d - 1


def aggregate(values: Tensor, mask: Tensor, how: Aggregation, max_completion_length: int) -> Tensor:
    """One number from token values (B, T).

    Args:
        values: (B, T).
        mask: (B, T), 1 on completion tokens.
        how: `grpo`: mean over completions of their token means (Eq. 8); `dr_grpo`: sum over tokens divided by
            B * max_completion_length, so that length carries no weight; `dapo`: mean over all tokens.
        max_completion_length: T_max of `dr_grpo`.
    """
    if how == "grpo":
        return ((values * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    if how == "dr_grpo":
        return (values * mask).sum() / (values.shape[0] * max_completion_length)
    return (values * mask).sum() / mask.sum().clamp(min=1.0)


def grpo_loss(
    logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    old_logprobs: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.04,
    ratio_level: RatioLevel = "token",
    aggregation: Aggregation = "grpo",
    max_completion_length: int = 256,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of Eq. 8 (negated objective) and what to log of it.

    Args:
        logprobs: (B, T), of the policy, with gradient.
        advantages: (B,).
        mask: (B, T), 1 on completion tokens.
        old_logprobs: (B, T), of the policy that sampled; None means the policy itself (ratio 1).
        ref_logprobs: (B, T), of the frozen reference; may be None only if kl_coef is 0.
        clip_low: eps_low >= 0.
        clip_high: eps_high >= 0.
        kl_coef: beta >= 0.
        ratio_level: `token` or `sequence`.
        aggregation: see `aggregate`.
        max_completion_length: see `aggregate`.

    Returns:
        The scalar loss, and detached metrics: `kl` (mean per token), `clip_low` and `clip_high` (share of tokens
        whose gradient the clip removed), `ratio` (mean).

    Raises:
        ValueError: kl_coef > 0 without ref_logprobs.
    """
    mask = mask.to(logprobs.dtype)
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = importance_ratio(logprobs, old, mask, ratio_level)
    objective = clipped_objective(ratio, advantages, clip_low, clip_high).expand_as(logprobs)
    metrics = _clip_metrics(ratio.detach(), advantages, mask, clip_low, clip_high)
    if kl_coef != 0.0:
        if ref_logprobs is None:
            raise ValueError(f"kl_coef is {kl_coef}, but there are no reference log-probabilities")
        kl = kl_divergence(logprobs, ref_logprobs)
        objective = objective - kl_coef * kl
        metrics["kl"] = aggregate(kl.detach(), mask, "dapo", max_completion_length)
    return -aggregate(objective, mask, aggregation, max_completion_length), metrics


def _clip_metrics(ratio: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> dict[str, Tensor]:
    a = advantages.unsqueeze(-1)
    events = {"ratio": ratio, "clip_low": (ratio < 1 - low) & (a < 0), "clip_high": (ratio > 1 + high) & (a > 0)}
    return {k: aggregate(v.to(mask.dtype).expand_as(mask), mask, "dapo", 1) for k, v in events.items()}
