"""The ready configurations of the paper's models: every key is known, and they say what the paper says."""

from pathlib import Path

import pytest
import yaml

from redaes.cli import main
from redaes.pipeline import fingerprints, load_pipeline
from redaes.presets import configs_folder, resolve_config

SIZES = {
    "redaes-2b": ("Qwen/Qwen3-VL-2B-Instruct", 512),
    "redaes-3b": ("Qwen/Qwen2.5-VL-3B-Instruct", 504),
    "redaes-7b": ("Qwen/Qwen2.5-VL-7B-Instruct", 504),
}
STAGES = ["sft", "calibration", "grpo"]
VARIANTS = ["full", "lora", "qlora"]


def printed(capsys, *words):
    """A configuration after everything was read, checked and filled in; nothing is downloaded or trained."""
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, "--print_config"])
    shown = capsys.readouterr()
    assert stopped.value.code == 0, shown.err
    return yaml.safe_load(shown.out)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_what_the_paper_says(capsys, size, stage):
    read = printed(capsys, "--config", f"{size}/{stage}.yaml")
    path, image_size = SIZES[size]
    model, trainer, data = read["model"]["init_args"], read["trainer"], read["data"]["init_args"]
    assert model["backbone"]["image_size"] == image_size
    assert model["backbone"]["freeze_vision"] is True
    assert model["optimisation"]["weight_decay"] == 0.01
    assert model["max_new_tokens"] <= 256
    # Master weights: trained weights are float32, computation is bfloat16.
    assert (model["backbone"]["dtype"], trainer["precision"]) == ("float32", "bf16-mixed")
    if stage == "grpo":
        assert (model["k"], data["group_size"], data["batching"]) == (6, 8, "consistent")
        assert model["optimisation"]["lr"] == 1e-6
        assert model["reward"] == {"class_path": "rrc", "tau": 1.0}
    else:
        assert model["optimisation"]["lr"] == 1e-5
        assert int(trainer["devices"]) <= data["batch_size"] == 16 // trainer["accumulate_grad_batches"]
        assert trainer["max_epochs"] == (3 if stage == "sft" else 1)
    if stage == "sft":
        assert model["backbone"]["path"] == path
        assert data["objectives"] == ["compare", "predict_edit"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_lay_over_every_stage(capsys, size, variant):
    for stage in STAGES:
        read = printed(capsys, "--config", f"{size}/{stage}.yaml", "--config", f"{size}/{variant}.yaml")
        backbone = read["model"]["init_args"]["backbone"]
        assert (backbone["lora"] is None) == (variant == "full")
        assert backbone["quantization"] == ("4bit" if variant == "qlora" else "none")
        assert backbone["dtype"] == ("float32" if variant == "full" else "bfloat16")


def test_a_misspelt_key_would_be_refused(capsys, tmp_path):
    """The check above is worth something."""
    read = yaml.safe_load(resolve_config("redaes-7b/sft.yaml").read_text())
    read["model"]["init_args"]["backbone"]["image_sise"] = 504
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(read))
    assert main(["fit", "--config", str(tmp_path / "wrong.yaml"), "--print_config"]) == 2
    assert "image_sise" in capsys.readouterr().err


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pipeline_is_the_whole_chain_and_its_fits_can_be_read(capsys, size, variant):
    pipeline = load_pipeline(resolve_config(f"{size}/pipeline.yaml"), [f"variant={size}/{variant}.yaml"])
    assert [step.name for step in pipeline.steps][:4] == ["data", *STAGES]
    assert pipeline.steps[-1].name == "report"
    assert len(set(fingerprints(pipeline).values())) == len(pipeline.steps)
    for step in pipeline.steps[1:4]:
        read = printed(capsys, *step.command[1:])
        trainer, data = read["trainer"], read["data"]["init_args"]
        assert Path(trainer["default_root_dir"]) == pipeline.output / step.name
        if step.name != "grpo":
            assert int(trainer["devices"]) <= data["batch_size"] == 16 // trainer["accumulate_grad_batches"]
        assert Path(data["root"]) == pipeline.output / "data"


def test_every_ready_configuration_is_looked_at():
    folders = {p.parent.name for p in configs_folder().rglob("sft.yaml")}
    assert folders == {"nano", *SIZES}
