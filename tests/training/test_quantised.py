"""QLoRA through the stages, with the real bitsandbytes: trained, checkpointed, exported."""

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from redaes.commands.export import export as export_command
from redaes.data.modules import CalibrationData, GroupData
from redaes.errors import UserError
from redaes.models.vlm import Backbone, Lora, bare, open_model
from redaes.training.base import Optimisation
from redaes.training.calibration import Calibration
from redaes.training.callbacks import ExportCheckpoint
from redaes.training.grpo import GRPO

FAST = Optimisation(lr=3e-3, schedule="constant", warmup=0.0)


def trainer(root, steps, *callbacks):
    return Trainer(
        default_root_dir=root, accelerator="cpu", max_steps=steps, max_epochs=-1, limit_val_batches=0, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ModelCheckpoint(root / "checkpoints", save_last=True, save_top_k=0), *callbacks],
    )  # fmt: skip


def qlora(checkpoint, **options):
    pytest.importorskip("bitsandbytes")
    return Backbone(str(checkpoint), quantization="4bit", lora=Lora(r=4, alpha=8), **options)


def test_a_quantised_stage_trains_its_adapter_and_exports_the_same_from_the_end_and_from_a_checkpoint(
    dataset, checkpoint, tmp_path
):
    module = Calibration(qlora(checkpoint, gradient_checkpointing=True), FAST)
    trainer(tmp_path, 6, ExportCheckpoint()).fit(module, CalibrationData(str(dataset), batch_size=4))
    trained, _ = open_model(Backbone(str(tmp_path / "model")))
    base, _ = open_model(qlora(checkpoint))
    changed = [n for n, p in module.model.named_parameters() if "lora_B" in n and p.abs().max() > 0]
    assert len(changed) == 2 * 7
    assert torch.equal(trained.lm_head.weight, bare(base).lm_head.weight)

    backbone = {"path": str(checkpoint), "quantization": "4bit", "lora": {"r": 4, "alpha": 8}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": {"init_args": {"backbone": backbone}}}))
    last = tmp_path / "checkpoints" / "last.ckpt"
    export_command(str(last), str(tmp_path / "again"))
    again, _ = open_model(Backbone(str(tmp_path / "again")))
    for name, weight in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)

    config.write_text(yaml.safe_dump({"model": {"init_args": {"backbone": {"path": str(checkpoint)}}}}))
    with pytest.raises(UserError, match="it is of another model than"):
        export_command(str(last), str(tmp_path / "wrong"))


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_stage_is_taken_up_again_where_it_stopped(dataset, checkpoint, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    backbone = Backbone(str(checkpoint), quantization=bits, lora=Lora(r=4))

    def fitted(steps, resume=None):
        module = Calibration(backbone, Optimisation(lr=0.0 if resume else 3e-3, weight_decay=0.0))
        trainer(tmp_path, steps).fit(module, CalibrationData(str(dataset), batch_size=4), ckpt_path=resume)
        return {n: p.detach().clone() for n, p in module.model.named_parameters()}

    before = fitted(2)
    after = fitted(2, str(tmp_path / "checkpoints" / "last.ckpt"))
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_grpo_with_a_quantised_base_keeps_no_second_copy_for_the_reference(dataset, checkpoint, tmp_path):
    module = GRPO(
        qlora(checkpoint), reward={"class_path": "tests.training.rewards.Brevity"}, optimisation=FAST, k=4,
        max_new_tokens=10,
    )  # fmt: skip
    trainer(tmp_path, 3).fit(module, GroupData(str(dataset)))
    assert module._reference == ()
    assert {n for n, p in module.model.named_parameters() if p.grad is not None} <= {
        n for n, _ in module.model.named_parameters() if "lora_" in n
    }
    assert any(p.abs().max() > 0 for n, p in module.model.named_parameters() if "lora_B" in n)
