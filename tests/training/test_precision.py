"""Which pairs of weights and computation are sound, and what the unsound ones lose."""

import sys
import warnings

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, HalfPrecision

from redaes.data.loading import EncodeMembers, Members
from redaes.data.modules import CalibrationData, GroupData
from redaes.errors import UserError
from redaes.models.vlm import Backbone, Lora, open_processor
from redaes.training.base import Optimisation, make_optimizer
from redaes.training.calibration import Calibration
from redaes.training.grpo import GRPO
from redaes.training.precision import check_precision


def still(dtype, lr):
    """Share of a million weights of deviation 0.02 that one AdamW step at this rate leaves exactly where they were."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter((torch.randn(1_000_000, generator=generator) * 0.02).to(dtype))
    before = weights.detach().clone()
    weights.grad = torch.randn(weights.shape, generator=generator).to(dtype)
    make_optimizer(Optimisation(lr=lr), [weights]).step()
    return float((weights == before).float().mean())


def test_bfloat16_weights_lose_nearly_every_update_of_grpo_and_float32_ones_none():
    assert still(torch.bfloat16, 1e-6) > 0.95
    assert still(torch.bfloat16, 1e-5) > 0.75
    assert still(torch.float32, 1e-6) < 0.001


@pytest.mark.parametrize(
    ("backbone", "precision"),
    [
        (Backbone(dtype="float32"), "32-true"),
        (Backbone(dtype="float32"), "bf16-mixed"),
        (Backbone(dtype="bfloat16", lora=Lora()), "bf16-mixed"),
        (Backbone(dtype="float32", lora=Lora(), freeze_vision=False), "bf16-mixed"),
        (Backbone(dtype="bfloat16", lora=Lora(), quantization="4bit"), "32-true"),
    ],
)
def test_sound_pairs_pass_without_a_word(backbone, precision):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_precision(backbone, precision)


@pytest.mark.parametrize(
    ("backbone", "precision", "message"),
    [
        (Backbone(), "16-mixed", "trainer.precision=16-mixed is not supported: use bf16-mixed"),
        (Backbone(), "bf16-true", "rounds the weights that backbone.dtype=float32 keeps"),
        (Backbone(dtype="bfloat16"), "bf16-mixed", "set backbone.dtype=float32"),
    ],
)
def test_contradictions_are_refused_in_one_line(backbone, precision, message):
    with pytest.raises(UserError, match=message) as refused:
        check_precision(backbone, precision)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("backbone", "precision"),
    [
        (Backbone(dtype="bfloat16"), "32-true"),
        (Backbone(dtype="bfloat16"), "bf16-true"),
        (Backbone(dtype="bfloat16", lora=Lora()), "bf16-true"),
        (Backbone(dtype="bfloat16", lora=Lora(), freeze_vision=False), "bf16-mixed"),
        (Backbone(dtype="bfloat16", lora=Lora(), freeze_vision=False), "32-true"),
    ],
)
def test_trained_bfloat16_weights_are_warned_of_unless_the_strategy_keeps_masters(backbone, precision):
    with pytest.warns(UserWarning, match="bfloat16 weights lose small updates"):
        check_precision(backbone, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_precision(backbone, precision, masters=True)


def fit(backbone, dataset, root, optimisation, **options):
    module = Calibration(backbone, optimisation)
    options = {"max_steps": 3, "max_epochs": -1, "limit_val_batches": 0, **options}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(default_root_dir=root, accelerator="cpu", **quiet, **options)
    trainer.fit(module, CalibrationData(str(dataset), batch_size=4))
    return module, trainer


def test_bf16_mixed_computes_in_bfloat16_and_keeps_float32_weights(dataset, checkpoint, tmp_path):
    seen = set()
    module = Calibration(Backbone(str(checkpoint)), Optimisation())
    module.configure_model()
    layer = module.model.model.language_model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda _, inputs, output: seen.add(output.dtype))
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", precision="bf16-mixed", max_steps=2, max_epochs=-1,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, CalibrationData(str(dataset), batch_size=4))
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in module.model.parameters()} == {torch.float32}


def test_the_check_is_made_before_the_weights_are_opened(dataset, tmp_path):
    with pytest.raises(UserError, match="bf16-true rounds"):
        fit(Backbone("nano"), dataset, tmp_path, Optimisation(), precision="bf16-true")


@pytest.mark.filterwarnings("ignore:bfloat16 weights lose")
def test_what_images_are_compared_by_is_never_rounded(dataset, checkpoint, tmp_path):
    """Lightning rounds the floats of a batch with `bf16-true`, as with DeepSpeed, and makes bfloat16 the default."""
    seen = []

    def reward(inputs):
        seen.append(inputs)
        return inputs.scores.new_tensor([[float(len(text)) for text in row] for row in inputs.texts])

    module = GRPO(Backbone(str(checkpoint), dtype="bfloat16"), k=2, max_new_tokens=4, inner_epochs=2)
    module.reward = reward
    prepared = module._prepared
    module._prepared = lambda *arguments: seen.append(prepared(*arguments)) or seen[-1]
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", precision="bf16-true", max_steps=2, max_epochs=-1,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    data = GroupData(str(dataset), group_size=3)
    trainer.fit(module, data)
    inputs, sampled = seen
    exact = {torch.tensor(member.g).item() for group in data.groups("train") for member in group}
    assert set(inputs.g.tolist()) <= exact
    assert {x.dtype for x in (inputs.scores, inputs.g, inputs.source_scores, sampled.old)} == {torch.float32}


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers")
def test_every_optimiser_trains(dataset, checkpoint, tmp_path, name):
    pytest.importorskip("bitsandbytes")
    optimisation = Optimisation(lr=3e-3, schedule="constant", warmup=0.0, optimizer=name)
    _, trainer = fit(Backbone(str(checkpoint)), dataset, tmp_path, optimisation, max_steps=12)
    expected = {"adamw": "AdamW", "adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW"}
    assert type(trainer.optimizers[0]).__name__ == expected.get(name, "PagedAdamW8bit")
    assert trainer.callback_metrics["train/loss"] < 5.0
    states = [s for state in trainer.optimizers[0].state.values() for s in state.values() if torch.is_tensor(s)]
    assert any(s.dtype == torch.uint8 for s in states) == name.endswith("8bit")


@pytest.mark.parametrize("precision", [HalfPrecision("bf16-true"), DeepSpeedPrecision("bf16-mixed")])
def test_a_precision_rounds_the_pixels_of_a_group_and_not_what_its_images_are_rewarded_by(
    dataset, checkpoint, precision
):
    data = GroupData(str(dataset))
    data.setup("fit")
    groups = data.training_groups()
    items, encode = Members(data.manifest, groups), EncodeMembers(open_processor(str(checkpoint), None), "consistent")
    batch = precision.convert_input(encode([items[0, place, place] for place in range(len(groups[0]))]))
    assert batch.prompts.pixel_values.dtype == torch.bfloat16
    assert batch.members == groups[0]
    assert any(m.g != float(torch.tensor(m.g).bfloat16()) for m in batch.members)


def test_an_optimiser_without_its_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    weight = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(UserError, match=r"optimisation.optimizer=adamw_8bit needs bitsandbytes: pip install"):
        make_optimizer(Optimisation(optimizer="adamw_8bit"), [weight])


def test_nothing_to_train_is_an_error():
    with pytest.raises(UserError, match="nothing to train"):
        make_optimizer(Optimisation(), [])
