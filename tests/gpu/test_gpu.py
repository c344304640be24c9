"""What only a GPU can show: captured rollouts, FlexAttention, bfloat16, sharding over NCCL. Skipped without one.

`nox -s gpu` runs these alone. `REDAES_TEST_DEVICE=cpu` tries the tests themselves where there is no GPU.
"""

import gc
import os
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from redaes.data.modules import CalibrationData, GroupData
from redaes.inference.scorer import Scorer
from redaes.models.forward import answer_logprobs, branch_logprobs
from redaes.models.nano import build_nano
from redaes.models.vlm import Backbone, Lora, open_model
from redaes.prompts import render
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout
from redaes.training.base import Optimisation
from redaes.training.calibration import Calibration
from redaes.training.checkpoints import Checkpoints
from redaes.training.grpo import GRPO

DEVICE = torch.device(os.environ.get("REDAES_TEST_DEVICE", "cuda"))
ON_GPU = DEVICE.type == "cuda"
FAST = Optimisation(lr=1e-3, schedule="constant", warmup=0.0)

pytestmark = pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a GPU")
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")


@pytest.fixture(scope="module", autouse=True)
def whole_float32():
    """No TensorFloat-32, so that numbers can be compared with a CPU's."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def nano(request):
    model, processor = build_nano(["Sharp detail."], request.param, seed=1, hidden=256, layers=2, vision=64)
    return model.to(DEVICE).eval(), processor


def photographs(count):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (90, 130, 3), dtype=np.uint8)) for _ in range(count)]


def batch(processor):
    questions = [render("score"), render("predict_edit", "Blur it."), "Score?"]
    return processor.batch([[image] for image in photographs(3)], questions).to(DEVICE)


def sample(nano, k=4, temperature=0.9, most=24, cuda_graph=True):
    model, processor = nano
    sampling = Sampling(k=k, temperature=temperature, max_new_tokens=most)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a capture that failed
        return InProcessRollout(cuda_graph=cuda_graph)(model, processor, batch(processor), sampling, [1, 2, 3])


def assert_same(ours, theirs, tolerance=1e-4):
    assert ours.texts == theirs.texts
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=tolerance, rtol=0)


def test_captured_steps_sample_what_steps_one_by_one_do(nano):
    assert_same(sample(nano), sample(nano, cuda_graph=False))


def test_sampled_logprobs_are_those_of_the_training_pass(nano):
    model, processor = nano
    out = sample(nano)
    logps, _ = branch_logprobs(model, batch(processor), out.tokens, out.mask, temperature=0.9)
    on = out.mask.bool()
    torch.testing.assert_close(logps[on].detach(), out.logprobs[on], atol=1e-4, rtol=0)


def test_changed_weights_are_sampled_from(nano):
    before, (model, _) = sample(nano), nano
    kept = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
        after, plain = sample(nano), sample(nano, cuda_graph=False)
        model.lm_head.weight.copy_(kept)
    assert after.texts != before.texts
    assert_same(after, plain)


@pytest.mark.parametrize("kind", ["adapter", "bfloat16", "autocast"])
def test_captured_steps_of_other_policies(kind):
    backbone = Backbone(lora=Lora(r=4) if kind == "adapter" else None, dtype="float32")
    model, processor = open_model(backbone)
    model = model.to(DEVICE, torch.bfloat16 if kind == "bfloat16" else torch.float32).eval()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=kind == "autocast"):
        captured, again = (sample((model, processor), temperature=0) for _ in range(2))
        plain = sample((model, processor), temperature=0, cuda_graph=False)
    assert captured.texts == again.texts
    assert captured.logprobs[:, 0].equal(plain.logprobs[:, 0])  # of the prefill, which is the same pass
    # Sums over more columns are rounded otherwise, so that some row may take another turn.
    assert (captured.tokens[:, :4] == plain.tokens[:, :4]).float().mean() > 0.8


@needs_gpu
def test_graphs_do_not_pile_up(nano):
    for _ in range(2):
        sample(nano)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for _ in range(6):
        sample(nano)
    assert torch.cuda.memory_reserved() <= before + 2**21


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_packed_rows_equal_plain_rows(nano, attention):
    if attention == "flex_attention" and not ON_GPU:
        pytest.skip("FlexAttention's backward pass needs a GPU")
    model, processor = nano
    out = sample(nano, k=2, most=9)
    config = model.config.get_text_config()
    before = config._attn_implementation
    found = []
    try:
        for layout in ("cache", "packed"):
            config._attn_implementation = "sdpa" if layout == "cache" else attention
            logps, _ = branch_logprobs(model, batch(processor), out.tokens, out.mask, layout=layout)
            model.zero_grad()
            (logps * out.mask).sum().backward()
            found.append(
                (logps.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
            )
    finally:
        config._attn_implementation = before
        model.zero_grad()
    (expected, gradients), (logps, others) = found
    torch.testing.assert_close(logps, expected, atol=1e-4, rtol=0)
    off = sum((others[name] - gradient).double().square().sum() for name, gradient in gradients.items())
    assert (off / sum(gradient.double().square().sum() for gradient in gradients.values())).sqrt() < 1e-4


def test_a_gpu_and_a_cpu_compute_the_same(nano):
    model, processor = nano
    rows = processor.batch([[i] for i in photographs(2)], [render("score")] * 2, ["<answer>6.4</answer>"] * 2)
    here, _, mask = answer_logprobs(model, rows.to(DEVICE))
    there, _, _ = answer_logprobs(model.cpu(), rows)
    model.to(DEVICE)
    torch.testing.assert_close(here[mask].cpu(), there[mask.cpu()], atol=1e-4, rtol=0)


def fit(module, data, root, steps, precision="32-true", strategy="auto", callbacks=(), resume=None):
    trainer = Trainer(
        default_root_dir=root, accelerator="gpu" if ON_GPU else "cpu", devices=1, strategy=strategy,
        precision=precision, max_steps=steps, max_epochs=-1, num_sanity_val_steps=0, limit_val_batches=1,
        val_check_interval=1, check_val_every_n_epoch=None, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=bool(callbacks), callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    return trainer


def stage_3(checkpoint, backbone=None, **options):
    settings = {"k": 3, "max_new_tokens": 12, "reward": {"class_path": "benchmarks.resume.Brevity"}, **options}
    return GRPO(backbone or Backbone(str(checkpoint)), optimisation=FAST, **settings)


@pytest.mark.parametrize(
    ("backbone", "precision", "options"),
    [
        ({}, "32-true", {}),
        ({}, "bf16-mixed", {"inner_epochs": 2, "mini_batches": 2}),
        ({"dtype": "bfloat16", "lora": Lora(r=4)}, "bf16-mixed", {"accumulate": 2}),
        ({"gradient_checkpointing": True, "freeze_vision": False}, "bf16-mixed", {"aggregation": "dapo"}),
        ({"attention": "flex_attention"}, "32-true", {"kl_coef": 0.0}),
    ],
    ids=["float32", "bf16-mixed", "lora", "checkpointing", "flex"],
)
def test_stage_3_trains(dataset, checkpoint, tmp_path, backbone, precision, options):
    if backbone.get("attention") == "flex_attention" and not ON_GPU:
        pytest.skip("FlexAttention's backward pass needs a GPU")
    module = stage_3(checkpoint, Backbone(str(checkpoint), **backbone), **options)
    trainer = fit(module, GroupData(str(dataset), group_size=4), tmp_path, 2, precision)
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))
    assert float(trainer.callback_metrics["train/grad_norm"]) > 0
    assert next(module.parameters()).device.type == DEVICE.type


def test_a_first_step_on_a_gpu_is_that_of_a_cpu(dataset, checkpoint, tmp_path):
    here = fit(stage_3(checkpoint), GroupData(str(dataset), group_size=4), tmp_path, 1).callback_metrics
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    on_cpu = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_steps=1, limit_val_batches=0, **quiet)
    on_cpu.fit(stage_3(checkpoint), GroupData(str(dataset), group_size=4))
    for name in ("train/reward", "train/completion_length", "train/loss", "train/grad_norm"):
        assert float(here[name]) == pytest.approx(float(on_cpu.callback_metrics[name]), rel=1e-2, abs=1e-4), name


def test_a_training_is_taken_up_again_with_the_card_s_random_state(dataset, checkpoint, tmp_path):
    data = GroupData(str(dataset), group_size=4)
    fit(stage_3(checkpoint), data, tmp_path / "a", 1, callbacks=[Checkpoints(every_n_steps=1)])
    saved = next((tmp_path / "a").rglob("*.ckpt"))
    trainer = fit(stage_3(checkpoint), GroupData(str(dataset), group_size=4), tmp_path / "b", 2, resume=str(saved))
    assert trainer.global_step == 2


def test_supervised_steps_train(dataset, checkpoint, tmp_path):
    module = Calibration(Backbone(str(checkpoint)), FAST, max_new_tokens=12)
    trainer = fit(module, CalibrationData(str(dataset), batch_size=4), tmp_path, 2, "bf16-mixed")
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))


def test_cards_share_weights_by_fsdp2(dataset, checkpoint, tmp_path):
    module = Calibration(Backbone(str(checkpoint)), FAST, max_new_tokens=12)
    trainer = fit(module, CalibrationData(str(dataset), batch_size=4), tmp_path, 2, "bf16-mixed", "fsdp2")
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))


@needs_gpu
@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_stage_3_under_deepspeed(dataset, checkpoint, tmp_path, config):
    pytest.importorskip("deepspeed")
    module = stage_3(checkpoint, Backbone(str(checkpoint), dtype="bfloat16"))
    trainer = fit(module, GroupData(str(dataset), group_size=4), tmp_path, 2, "bf16-mixed", config)
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_weights_train_an_adapter_with_a_paged_optimiser(dataset, checkpoint, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    backbone = Backbone(str(checkpoint), dtype="bfloat16", lora=Lora(r=4), quantization=bits)
    module = stage_3(checkpoint, backbone)
    module.optimisation = Optimisation(lr=1e-3, optimizer="paged_adamw_8bit")
    trainer = fit(module, GroupData(str(dataset), group_size=4), tmp_path, 1)
    assert np.isfinite(float(trainer.callback_metrics["train/loss"]))


def test_the_scorer_says_on_a_gpu_what_it_says_on_a_cpu():
    images = photographs(5)
    here, there = (Scorer("nano", device=device).score(images) for device in (str(DEVICE), "cpu"))
    assert [s.text for s in here] == [s.text for s in there]


@needs_gpu
def test_nothing_is_left_on_the_card():
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() < 2**30
