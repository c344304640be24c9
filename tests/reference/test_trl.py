"""Loss, gradient, metrics, advantages and sampling weights equal TRL 1.16's, the de-facto reference of GRPO.

`GRPOTrainer._compute_loss` is called unbound on a bare object that holds fixed tensors where the trainer would run its
model. The weights that correct for another engine's sampling are made in the middle of a method that generates: its
two blocks of source that concern them are run alone. TRL's `use_bias_correction_kl` is False: the paper's KL term is
not multiplied by the ratio.
"""

import ast
import inspect
import sys
import textwrap
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from redaes.training.objectives import group_advantages, grpo_loss, truncated_importance_weights

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

        yield SimpleNamespace(
            compute_loss=grpo_trainer.GRPOTrainer._compute_loss,
            nanstd=utils.nanstd,
            sampling_weights=_blocks_on_sampling_weights(grpo_trainer),
        )


def _blocks_on_sampling_weights(grpo_trainer):
    """Runs the statements of TRL's generation that make the weights and log them, on given local variables."""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    condition = "self.use_vllm and self.vllm_importance_sampling_correction"
    blocks = [
        node
        for node in ast.walk(ast.parse(textwrap.dedent(source)))
        if isinstance(node, ast.If) and ast.unparse(node.test) == condition
    ]
    blocks = sorted(blocks, key=lambda node: node.lineno)[:2]
    code = compile(ast.Module(blocks, []), "<TRL>", "exec")

    def run(**variables):
        exec(code, vars(grpo_trainer), variables)
        return variables["vllm_importance_sampling_ratio"]

    return run


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
        sampling=logprobs + 0.3 * noise[2] * noise[1],
        entropy=noise[2].abs(),
        advantages=noise[3, :, 0],
        mask=(torch.arange(T) < lengths).long(),
    )


def _reference_trl_loss(trl, x, *, loss_type, beta, clip, level, old_given, processes=1, steps=1, weights=None):
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
        use_vllm=weights is not None,
        vllm_importance_sampling_correction=weights is not None,
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
        "importance_sampling_ratio": weights,
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


CORRECTIONS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
BOUNDS = [(3.0, 0.0), (1.2, 0.0), (1.2, 0.8), (float("inf"), 0.5)]


def _reference_trl_weights(trl, x, correction, cap, floor):
    """TRL's weights, and what it logs of them."""
    metrics = {"train": defaultdict(list)}
    weights = trl.sampling_weights(
        self=SimpleNamespace(
            use_vllm=True,
            vllm_importance_sampling_correction=True,
            vllm_importance_sampling_mode=correction,
            vllm_importance_sampling_clip_max=cap if cap < float("inf") else None,
            vllm_importance_sampling_clip_min=floor or None,
            accelerator=SimpleNamespace(gather=lambda t: t),
            _metrics=metrics,
        ),
        old_per_token_logps=x.logprobs,
        sampling_per_token_logps=x.sampling,
        completion_mask=x.mask,
        tool_mask=None,
        mode="train",
        device="cpu",
    )
    return weights, {name.removeprefix("sampling/").replace("/", "_"): v[0] for name, v in metrics["train"].items()}


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("unscored", [False, True])
def test_sampling_weights_and_what_is_logged_of_them_equal_trls(trl, correction, bounds, unscored):
    x = _tensors()
    if unscored:
        x.sampling[:5, 0] = float("nan")
    weights, metrics = truncated_importance_weights(x.logprobs, x.sampling, x.mask, correction, *bounds)
    trl_weights, trl_metrics = _reference_trl_weights(trl, x, correction, *bounds)
    assert weights.shape == trl_weights.shape
    assert (weights - trl_weights).abs().max() <= EXACT
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(trl_metrics, abs=EXACT)
    assert len({round(float(w), 6) for w in weights.flatten()}) > 10  # the comparison is one of something
    if bounds != BOUNDS[0]:
        untouched, _ = truncated_importance_weights(x.logprobs, x.sampling, x.mask, correction, float("inf"))
        assert not torch.equal(weights, untouched)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_corrected_loss_and_its_gradient_equal_trls(trl, correction, loss_type, beta, level):
    x = _tensors()
    options = {"loss_type": loss_type, "beta": beta, "clip": (0.2, 0.28), "level": level, "old_given": True}
    weights, _ = truncated_importance_weights(x.old, x.sampling, x.mask, correction, 1.3)
    loss, gradient, _ = _our_loss(x, **options, sampling_weights=weights)
    trl_loss, trl_gradient, _ = _reference_trl_loss(trl, x, **options, weights=weights)
    assert abs(loss - trl_loss) <= EXACT
    assert (gradient - trl_gradient).abs().max() <= EXACT
    assert abs(loss - _our_loss(x, **options)[0]) > 1e-4  # the weights matter
