"""Loss, gradient, metrics and advantages equal TRL 1.16's, the de-facto reference of GRPO.

`GRPOTrainer._compute_loss` is called unbound on a bare object that holds fixed tensors where the trainer would run its
model. TRL's `use_bias_correction_kl` is False: the paper's KL term is not multiplied by the ratio.
"""

import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from redaes.training.objectives import group_advantages, grpo_loss

EXACT = 1e-12
B, T = 48, 7
MAX_COMPLETION_LENGTH = 9


@pytest.fixture(scope="module")
def trl():
    """TRL's trainer module and its utilities."""
    try:
        installed = version("trl")
    except PackageNotFoundError:
        pytest.skip("trl is not installed: pip install 'trl>=1.16,<1.17' (dependency group 'test')")
    if not installed.startswith("1.16."):
        pytest.skip(f"trl {installed} is installed; the reference is 1.16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchvision", None)  # a build for another torch breaks TRL's imports
        from trl.trainer import grpo_trainer, utils

        yield SimpleNamespace(compute_loss=grpo_trainer.GRPOTrainer._compute_loss, nanstd=utils.nanstd)


def _tensors(seed=0):
    """Log-probabilities far enough from each other that every clip and both signs of the advantage take effect."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -3 * torch.rand(B, T, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, T + 1, (B, 1), generator=generator)
    noise = torch.randn(4, B, T, generator=generator, dtype=torch.float64)
    return SimpleNamespace(
        logprobs=logprobs,
        old=logprobs + 0.4 * noise[0],
        ref=logprobs + 0.6 * noise[1],
        entropy=noise[2].abs(),
        advantages=noise[3, :, 0],
        mask=(torch.arange(T) < lengths).long(),
    )


def _reference_trl_loss(trl, x, *, loss_type, beta, clip, level, old_given, processes=1, steps=1):
    """TRL's loss of one of `steps` batches on one of `processes` machines that hold as many tokens each."""
    leaf = x.logprobs.clone().requires_grad_()
    metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, x.entropy, None),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=beta,
        loss_type=loss_type,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=steps,
        max_completion_length=MAX_COMPLETION_LENGTH,
        _entropy_bonus_enabled=False,
        aux_loss_enabled=False,
        accelerator=SimpleNamespace(num_processes=processes, gather=lambda t: t, reduce=lambda t, reduction: t),
        _metrics=metrics,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=steps),
    )
    prompt = torch.ones(B, 2, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": x.mask,
        "advantages": x.advantages,
        "num_items_in_batch": x.mask.sum() * processes * steps,
        "ref_per_token_logps": x.ref,
    }
    if old_given:
        inputs["old_per_token_logps"] = x.old
    loss = trl.compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.detach(), leaf.grad, {name: values[0] for name, values in metrics["train"].items()}


def _our_loss(x, *, loss_type, beta, clip, level, old_given, **extra):
    leaf = x.logprobs.clone().requires_grad_()
    loss, metrics = grpo_loss(
        leaf,
        x.old if old_given else None,
        x.ref if beta else None,
        x.advantages,
        x.mask,
        clip_low=clip[0],
        clip_high=clip[1],
        kl_coef=beta,
        ratio_level=level,
        aggregation=loss_type,
        max_completion_length=MAX_COMPLETION_LENGTH,
        entropy=x.entropy,
        **extra,
    )
    loss.backward()
    return loss.detach(), leaf.grad, metrics


GRID = [
    dict(zip(("loss_type", "beta", "clip", "level", "old_given"), values, strict=True))
    for values in product(
        ("grpo", "dr_grpo", "dapo", "bnpo"),
        (0.0, 0.04),
        ((0.2, 0.2), (0.2, 0.28)),
        ("token", "sequence"),
        (False, True),
    )
]


@pytest.mark.parametrize("options", GRID, ids=lambda o: "-".join(str(v) for v in o.values()))
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_equal_trls(trl, options, seed):
    x = _tensors(seed)
    loss, gradient, _ = _our_loss(x, **options)
    trl_loss, trl_gradient, _ = _reference_trl_loss(trl, x, **options)
    assert abs(loss - trl_loss) <= EXACT
    assert (gradient - trl_gradient).abs().max() <= EXACT
    assert trl_gradient.abs().max() > 1e-4  # the comparison is one of something


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_what_is_logged_equals_trls(trl, level):
    options = {"loss_type": "grpo", "beta": 0.04, "clip": (0.2, 0.28), "level": level, "old_given": True}
    _, _, ours = _our_loss(_tensors(), **options)
    _, _, theirs = _reference_trl_loss(trl, _tensors(), **options)
    pairs = {
        "kl": "kl",
        "entropy": "entropy",
        "clip_low": "clip_ratio/low_mean",
        "clip_high": "clip_ratio/high_mean",
    }
    for name, trl_name in pairs.items():
        assert float(ours[name]) == pytest.approx(theirs[trl_name], abs=1e-7), name  # TRL counts clips in float32
    assert 0 < ours["clip_low"] < 1
    assert 0 < ours["clip_high"] < 1


@pytest.mark.parametrize(("processes", "steps"), [(1, 1), (4, 1), (2, 3)])
def test_dapo_divides_by_the_tokens_of_the_whole_step(trl, processes, steps):
    x = _tensors()
    options = {"loss_type": "dapo", "beta": 0.04, "clip": (0.2, 0.2), "level": "token", "old_given": True}
    loss, gradient, _ = _our_loss(x, **options, token_count=steps * x.mask.sum())
    trl_loss, trl_gradient, _ = _reference_trl_loss(trl, x, **options, processes=processes, steps=steps)
    assert abs(loss - trl_loss) <= EXACT
    assert (gradient - trl_gradient).abs().max() <= EXACT


# TRL's `nanstd` divides its counts in float32; n / (n - 1) is exact there for n of 3 and 9, and 3e-8 off for 6 and 48.
@pytest.mark.parametrize(("shape", "tolerance"), [((3, 3), EXACT), ((8, 6), 1e-7)])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trls_formula(trl, scale, shape, tolerance):
    n, k = shape
    rewards = torch.rand(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantages, zero_std = group_advantages(rewards, scale)
    flat = rewards.flatten()
    deviation = {
        "group": trl.nanstd(rewards, dim=1).repeat_interleave(k),
        "batch": trl.nanstd(flat).expand_as(flat),
        "none": torch.full_like(flat, 1 - 1e-4),
    }[scale]
    expected = (flat - rewards.mean(1).repeat_interleave(k)) / (deviation + 1e-4)
    assert (advantages.flatten() - expected).abs().max() <= tolerance
    assert not zero_std.any()


def test_equal_rewards_are_where_we_depart_from_trls_formula(trl):
    rewards = torch.full((1, 6), 0.3)
    trls = (rewards - rewards.mean(1, keepdim=True)) / (trl.nanstd(rewards, dim=1, keepdim=True) + 1e-4)
    advantages, zero_std = group_advantages(rewards)
    assert trls.abs().max() > 1e-4
    assert advantages.tolist() == [[0.0] * 6]
    assert zero_std.tolist() == [True]
