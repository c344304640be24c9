"""`redaes export`: a plain Hugging Face directory from a training checkpoint or a model directory."""

from pathlib import Path
from typing import Literal


def export(checkpoint: str, output: str, dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep") -> None:
    """Write a plain Hugging Face directory that opens without redaes (adapters are merged).

    Args:
        checkpoint: a model directory, or a Lightning `.ckpt` file written by `redaes fit` with its config.yaml
            beside it.
        output: directory to write.
        dtype: of the stored weights; `keep` does not convert.
    """
    from redaes.models.vlm import Backbone, open_model
    from redaes.models.vlm import export as write

    if Path(checkpoint).suffix == ".ckpt":
        model, processor = _from_lightning(Path(checkpoint))
    else:
        model, processor = open_model(Backbone(path=checkpoint))
    print(f"exported to {write(model, processor, output, dtype=None if dtype == 'keep' else dtype)}")


def _from_lightning(checkpoint: Path):  # type: ignore[no-untyped-def]
    import torch
    import yaml

    from redaes.errors import UserError
    from redaes.models.vlm import Backbone, Lora, open_model

    if not checkpoint.is_file():
        raise UserError(f"no checkpoint file at {checkpoint}")
    configs = [p for p in (checkpoint.parent / "config.yaml", checkpoint.parent.parent / "config.yaml") if p.is_file()]
    if not configs:
        raise UserError(f"no config.yaml beside {checkpoint}: it says which backbone the weights belong to")
    settings = dict(yaml.safe_load(configs[0].read_text(encoding="utf-8"))["model"]["init_args"]["backbone"])
    lora = settings.pop("lora", None)
    model, processor = open_model(Backbone(**settings, lora=Lora(**lora) if lora else None))
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    model.load_state_dict(weights)
    return model, processor
