"""GRPO in pure functions: advantages (Eq. 7), the clipped objective with the KL penalty (Eq. 8), and its aggregation.

In flow the rewards of sampled outputs and log-probabilities of their tokens, out flows a loss; nothing here knows of
models. Shapes: N images with K completions each, B = N*K completions of at most T tokens.

    A_ik  = (r_ik - mean_k r_ik) / (std_k r_ik + 1e-4)             six outputs of one image against each other
    rho_t = exp(log pi_theta - log pi_old)                         per token, or one per sequence
    J_t   = min(rho_t A, clip(rho_t, 1 - clip_low, 1 + clip_high) A) - kl_coef (exp(d_t) - d_t - 1)
    d_t   = log pi_ref - log pi_theta
    w_t   = pi_old / pi_sampling, truncated: 1 unless another engine sampled; it multiplies the first term of J_t
    loss  = - mean over completions of the mean over tokens of J_t  (`grpo`, Eq. 8)

From the paper: these formulas. Not from the paper (its constants were lost): clip 0.2, kl_coef 0.04, and every option
beside the default. Loss and gradient equal those of TRL 1.16 over the grid of options (tests/reference/test_trl.py),
with its `use_bias_correction_kl=False`. Two departures, neither visible on healthy input: K equal rewards give exactly
zero advantage (six float32 rewards of 0.3 otherwise give 3e-4), and what stands at masked tokens, be it NaN, is inert.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
RatioLevel = Literal["token", "sequence"]
Aggregation = Literal["grpo", "dr_grpo", "dapo", "bnpo"]
SamplingCorrection = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

STD_EPSILON = 1e-4
EQUAL_REWARDS = 1e-6


def group_advantages(rewards: Tensor, scale: Scale = "group") -> tuple[Tensor, Tensor]:
    """Advantages of K completions of the same image relative to each other (Eq. 7).

    Args:
        rewards: (N, K), finite, K >= 1.
        scale: divide by the unbiased deviation of the image's own K rewards (`group`), of all N*K (`batch`), or by
            nothing (`none`); 1e-4 is added to the deviation.

    Returns:
        advantages (N, K), and a mask (N,) of images whose rewards differ by less than 1e-6: all their advantages are
        exactly 0.

    Raises:
        ValueError: a reward that is not finite, or an unknown scale.

    Example:
        >>> advantages, zero_std = group_advantages(torch.tensor([[0.0, 1.0, 2.0], [0.3, 0.3, 0.3]]), scale="none")
        >>> advantages.tolist(), zero_std.tolist()
        ([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [False, True])
    """
    known = get_args(Scale)
    _require(scale in known, f"scale is {scale!r}; it must be one of {', '.join(known)}")
    _require(bool(rewards.isfinite().all()), f"rewards must be finite, not {rewards[~rewards.isfinite()][:1].tolist()}")
    equal = rewards.amax(1) - rewards.amin(1) < EQUAL_REWARDS
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "group" and rewards.shape[1] > 1:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + STD_EPSILON)
    elif scale == "batch" and rewards.numel() > 1:
        advantages = advantages / (rewards.std() + STD_EPSILON)
    return advantages.masked_fill(equal[:, None], 0.0), equal


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: RatioLevel = "token") -> Tensor:
    """How much likelier the policy makes what was sampled: rho = pi_theta / pi_old.

    Args:
        logprobs: (B, T) of the policy.
        old_logprobs: (B, T) of the policy that sampled.
        mask: (B, T), 1 on completion tokens.
        level: one ratio per `token`, or one per `sequence`, the geometric mean over its tokens.

    Returns:
        (B, T), or (B, 1) at level `sequence`.

    Source: Eq. 8; `sequence` is GSPO's (arXiv 2507.18071).

    Example:
        >>> half = torch.tensor([[0.5, 0.25]]).log()
        >>> importance_ratio(half, torch.tensor([[0.5, 0.5]]).log(), torch.ones(1, 2))
        tensor([[1.0000, 0.5000]])
    """
    _require(level in get_args(RatioLevel), f"level is {level!r}; it must be token or sequence")
    log_ratio = logprobs - old_logprobs
    if level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).unsqueeze(-1)
    return log_ratio.exp()


def truncated_importance_weights(
    logprobs: Tensor,
    sampling_logprobs: Tensor,
    mask: Tensor,
    correction: SamplingCorrection = "token_truncate",
    cap: float = 3.0,
    floor: float = 0.0,
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Weights that correct for completions drawn by another engine than the trainer: w = pi_old / pi_sampling.

    Two engines with the same weights disagree a little on every token (kernels, precision, batch sizes), and a policy
    gradient over what one of them sampled is off-policy for the other. Not from the paper, which does not say what
    sampled its outputs.

    Args:
        logprobs: (B, T) of the trainer's policy as it was when it was sampled from, without gradient.
        sampling_logprobs: (B, T) of the engine that sampled; a NaN is a token it could not score and counts as equal.
        mask: (B, T), 1 on completion tokens.
        correction: one weight a `token`, or one a `sequence` (the product over its tokens); beyond the bounds it is
            brought to the bound (`truncate`) or is 0, which leaves token or sequence out of the policy term (`mask`).
            `none` only measures.
        cap: largest weight, > 0; 3.0 is TRL's default.
        floor: smallest weight, in [0, cap).

    Returns:
        weights (B, T), (B, 1) at the sequence's level or None for `none`; and scalars to log:
        `sampling_logp_difference_mean` and `_max`, of |log pi_old - log pi_sampling| over tokens, and
        `importance_sampling_ratio_mean`, `_min` and `_max`, of the weights.

    Raises:
        ValueError: an unknown correction, or bounds out of their range.

    Source: truncated importance sampling, Yao et al., Your efficient RL framework secretly brings you off-policy RL
    training, 2025; masking and the sequence's level are those of TRL's `vllm_importance_sampling_mode`.

    Example:
        >>> trainer, engine = torch.tensor([[0.8, 0.5]]).log(), torch.tensor([[0.2, 0.5]]).log()
        >>> weights, metrics = truncated_importance_weights(trainer, engine, torch.ones(1, 2), cap=2.0)
        >>> weights, round(float(metrics["sampling_logp_difference_max"]), 4)
        (tensor([[2., 1.]]), 1.3863)
    """
    known = get_args(SamplingCorrection)
    _require(correction in known, f"correction is {correction!r}; it must be one of {', '.join(known)}")
    _require(0 <= floor < cap, f"cap is {cap}, floor {floor}; they must be 0 <= floor < cap")
    difference = _inert(logprobs.detach() - sampling_logprobs, mask)
    scored = (mask != 0) & ~difference.isnan()
    metrics = _extremes("sampling_logp_difference", difference.abs()[scored], "mean", "max")
    if correction == "none":
        return None, metrics
    level, beyond = correction.split("_")
    log_ratio = difference.masked_fill(~scored, 0.0)
    ratio = (log_ratio.sum(-1, keepdim=True) if level == "sequence" else log_ratio).exp()
    weights = ratio.clamp(floor, cap)
    if beyond == "mask":
        weights = ratio.masked_fill(weights != ratio, 0.0)
    seen = weights.flatten() if level == "sequence" else weights[mask != 0]
    return weights, metrics | _extremes("importance_sampling_ratio", seen, "mean", "min", "max")


def clipped_objective(ratio: Tensor, advantages: Tensor, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A): no reward for moving further than the clip.

    Args:
        ratio: (B, T) or (B, 1).
        advantages: (B,).
        clip_low: epsilon below, >= 0.
        clip_high: epsilon above, >= 0; larger than clip_low is clip-higher (arXiv 2503.14476).

    Returns:
        Of the ratio's shape.

    Example:
        >>> clipped_objective(torch.tensor([[0.5, 1.5]]), torch.tensor([1.0]))
        tensor([[0.5000, 1.2000]])
    """
    a = advantages.unsqueeze(-1)
    return torch.min(ratio * a, ratio.clamp(1 - clip_low, 1 + clip_high) * a)


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(pi_theta || pi_ref) per token, exp(d) - d - 1 with d = log pi_ref - log pi_theta; >= 0.

    Args:
        logprobs: (B, T) of the policy, which sampled.
        ref_logprobs: (B, T) of the reference.

    Source: Schulman, Approximating KL divergence, 2020.

    Example:
        >>> kl_divergence(torch.tensor([-1.0]), torch.tensor([-1.0]))
        tensor([0.])
    """
    d = ref_logprobs - logprobs
    return d.exp() - d - 1


def aggregate(
    values: Tensor,
    mask: Tensor,
    how: Aggregation = "grpo",
    max_completion_length: int | None = None,
    token_count: Tensor | float | None = None,
) -> Tensor:
    """One number from token values.

    Args:
        values: (B, T).
        mask: (B, T), 1 on completion tokens.
        how: `grpo`: mean over completions of their token means (Eq. 8's 1/|o|), a long completion's token weighs less;
            `dr_grpo`: sum over tokens divided by B * max_completion_length, length carries no weight;
            `bnpo`: mean over the tokens of this batch;
            `dapo`: sum over tokens divided by token_count.
        max_completion_length: of `dr_grpo`, the longest completion that may be sampled; it needs one.
        token_count: of `dapo`, how many completion tokens one process has on average over all the batches of a
            step; None: this batch is the step, which makes it `bnpo`.

    Returns:
        A scalar.

    Raises:
        ValueError: an unknown `how`, or `dr_grpo` without max_completion_length.

    Source: arXiv 2402.03300 (grpo), 2503.20783 (dr_grpo), 2503.14476 (dapo); bnpo is TRL's name.

    Example:
        >>> values, mask = torch.tensor([[4.0, 0.0], [2.0, 6.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> [float(aggregate(values, mask, how, max_completion_length=3)) for how in ("grpo", "dr_grpo", "bnpo")]
        [4.0, 2.0, 4.0]
    """
    known = get_args(Aggregation)
    _require(how in known, f"aggregation is {how!r}; it must be one of {', '.join(known)}")
    total = (values * mask).sum()
    if how == "grpo":
        return ((values * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    if how == "dr_grpo":
        if max_completion_length is None:
            raise ValueError("aggregation dr_grpo divides by max_completion_length; give it")
        return total / (values.shape[0] * max_completion_length)
    if how == "dapo" and token_count is not None:
        return total / torch.as_tensor(token_count).clamp(min=1.0)
    return total / mask.sum().clamp(min=1.0)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.04,
    ratio_level: RatioLevel = "token",
    aggregation: Aggregation = "grpo",
    max_completion_length: int | None = None,
    token_count: Tensor | float | None = None,
    entropy: Tensor | None = None,
    sampling_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of Eq. 8 (the negated objective), and what to log of it.

    Args:
        logprobs: (B, T) of the policy, with gradient.
        old_logprobs: (B, T) of the policy that sampled; None means the policy itself: the ratio is 1, its gradient not.
        ref_logprobs: (B, T) of the frozen reference; may be None only if kl_coef is 0.
        advantages: (B,).
        mask: (B, T), 1 on completion tokens.
        clip_low: epsilon below, >= 0.
        clip_high: epsilon above, >= 0.
        kl_coef: beta >= 0.
        ratio_level: see `importance_ratio`.
        aggregation: see `aggregate`.
        max_completion_length: see `aggregate`.
        token_count: see `aggregate`.
        entropy: (B, T) of the policy's next-token distribution, to be logged only.
        sampling_weights: (B, T) or (B, 1) from `truncated_importance_weights`; they multiply the policy term and not
            the penalty.

    Returns:
        The scalar loss, and detached scalars: `ratio`, `clip_low` and `clip_high` (share of tokens, or
        of sequences at that ratio level, whose policy gradient the clip removes), `kl` and `entropy` (means over
        tokens, where there are any).

    Raises:
        ValueError: kl_coef > 0 without ref_logprobs, or an option out of its range.

    Example:
        >>> logprobs = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
        >>> mask = torch.tensor([[1, 1], [1, 0]])
        >>> loss, metrics = grpo_loss(logprobs, None, logprobs, torch.tensor([0.5, -1.5]), mask)
        >>> float(loss), float(metrics["ratio"]), float(metrics["kl"])
        (0.5, 1.0, 0.0)
    """
    _require(clip_low >= 0 and clip_high >= 0, f"clip_low is {clip_low}, clip_high {clip_high}; they must be >= 0")
    mask = mask.to(logprobs.dtype)
    logprobs = _inert(logprobs, mask)
    old = logprobs.detach() if old_logprobs is None else _inert(old_logprobs, mask)
    ratio = importance_ratio(logprobs, old, mask, ratio_level)
    objective = clipped_objective(ratio, advantages, clip_low, clip_high).expand_as(logprobs)
    if sampling_weights is not None:
        objective = objective * sampling_weights
    metrics = _ratio_metrics(ratio.detach(), advantages, mask, clip_low, clip_high)
    if kl_coef != 0:
        if ref_logprobs is None:
            raise ValueError(f"kl_coef is {kl_coef}, but there are no reference log-probabilities")
        kl = kl_divergence(logprobs, _inert(ref_logprobs, mask))
        objective = objective - kl_coef * kl
        metrics["kl"] = aggregate(kl.detach(), mask, "bnpo")
    if entropy is not None:
        metrics["entropy"] = aggregate(_inert(entropy.detach(), mask), mask, "bnpo")
    return -aggregate(objective, mask, aggregation, max_completion_length, token_count), metrics


def emd_loss(predicted: Tensor, votes: Tensor, r: float = 2.0) -> Tensor:
    """The earth mover's distance between ordered distributions: ( 1/K sum_k |P(k) - Q(k)|^r )^(1/r), P, Q cumulative.

    Args:
        predicted: (B, K) shares of K ordered scores, rows sum to 1.
        votes: (B, K) shares that people gave.
        r: > 0; 2 for training, 1 is the distance that is reported.

    Returns:
        The mean over the batch, in [0, 1]. Where a prediction is exact its gradient is 0.

    Raises:
        ValueError: other shapes, or r that is not positive.

    Source: Talebi & Milanfar, NIMA, arXiv 1709.05424, Eq. 1.

    Example:
        >>> emd_loss(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]), r=1)
        tensor(0.6667)
    """
    _require(predicted.shape == votes.shape, f"predicted is {tuple(predicted.shape)}, votes {tuple(votes.shape)}")
    _require(r > 0, f"r is {r}; it must be > 0")
    distance = (predicted.cumsum(-1) - votes.cumsum(-1)).abs().pow(r).mean(-1)
    # The root has no gradient at 0: exact rows are left out of it.
    exact = distance == 0
    return distance.masked_fill(exact, 1.0).pow(1 / r).masked_fill(exact, 0.0).mean()


def _inert(values: Tensor, mask: Tensor) -> Tensor:
    """Zeros where the mask is 0: multiplying by the mask would keep a NaN, and its gradient."""
    return values.masked_fill(mask == 0, 0.0)


def _ratio_metrics(ratio: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Means over tokens, or over sequences where the ratio is one per sequence."""
    a = advantages.unsqueeze(-1)
    events = {
        "ratio": ratio,
        "clip_low": (ratio < 1 - low) & (a < 0),
        "clip_high": (ratio > 1 + high) & (a > 0),
    }
    weights = mask if ratio.shape == mask.shape else torch.ones_like(ratio)
    return {name: aggregate(event.to(mask.dtype), weights, "bnpo") for name, event in events.items()}


def _extremes(name: str, values: Tensor, *measures: Literal["mean", "min", "max"]) -> dict[str, Tensor]:
    """Some measures of (n,) values; 0 where there are none."""
    if not len(values):
        values = values.new_zeros(1)
    return {f"{name}_{measure}": getattr(values, measure)() for measure in measures}


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)
