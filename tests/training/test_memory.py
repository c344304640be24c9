"""Running out of memory is a line of advice, from the command line down to a real allocator that refuses."""

import pytest
import torch

from redaes.cli import main
from redaes.training.memory import is_out_of_memory, out_of_memory_advice

ABSURD = 1 << 50
HUNGRY = """
import torch
from redaes.training.calibration import Calibration
from redaes.training.grpo import GRPO

class HungryCalibration(Calibration):
    def training_step(self, batch, index):
        return torch.empty(1 << 50).sum()

class Broken(Calibration):
    def training_step(self, batch, index):
        raise RuntimeError("shapes do not match")

class HungryGRPO(GRPO):
    def training_step(self, batch, index):
        torch.empty(1 << 50)
"""


def refusal():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(ABSURD)
    return refused.value


def test_what_a_real_allocator_says_is_recognised():
    assert is_out_of_memory(refusal())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_knobs_come_in_order_with_their_present_values_and_without_those_that_are_turned():
    settings = {
        "trainer.strategy": "auto",
        "model.accumulate": 1,
        "model.backbone.gradient_checkpointing": True,
        "model.backbone.lora": None,
        "model.optimisation.optimizer": "adamw",
        "model.max_new_tokens": 256,
        "model.k": 6,
        "model.backbone.image_size": 504,
    }
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    assert out_of_memory_advice(error, settings) == (
        "out of memory (tried to allocate 2.00 GiB); in this order try model.accumulate=8 (now 1), "
        "model.backbone.lora={r: 16} (now null), model.optimisation.optimizer=paged_adamw_8bit (now adamw), "
        "model.max_new_tokens=128 (now 256), model.k=4 (now 6), model.backbone.image_size=336 (now 504), "
        "trainer.strategy=fsdp2 on more cards (now auto); docs/scaling.md says what each costs"
    )


@pytest.fixture
def hungry(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text(HUNGRY)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def words(dataset, checkpoint, root, model, data):
    return [
        "fit", f"--model=hungry.{model}", f"--model.backbone.path={checkpoint}", f"--data={data}",
        f"--data.root={dataset}", f"--trainer.default_root_dir={root}", "--trainer.max_steps=1",
        "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_checkpointing=false",
        "--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "data", "knobs"),
    [
        ("HungryCalibration", "CalibrationData", ["data.batch_size=8 with", "max_new_tokens=128 (now 256)"]),
        ("HungryGRPO", "GroupData", ["model.accumulate=8 (now 1)", "model.k=4 (now 6)"]),
    ],
)
def test_redaes_fit_says_in_one_line_what_to_turn(dataset, checkpoint, hungry, capsys, model, data, knobs):
    assert main(words(dataset, checkpoint, hungry / "run", model, data)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "out of memory (tried to allocate 4503599627370496 bytes)" in line
    places = [line.index(knob) for knob in [knobs[0], "gradient_checkpointing=true (now false)", knobs[1]]]
    assert places == sorted(places)


def test_other_errors_stay_what_they_are(dataset, checkpoint, hungry):
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(words(dataset, checkpoint, hungry / "run", "Broken", "CalibrationData"))
