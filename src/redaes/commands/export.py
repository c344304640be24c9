"""`redaes export`: a plain Hugging Face directory from a training checkpoint or a model directory."""

from pathlib import Path
from typing import Any, Literal


def export(checkpoint: str, output: str, dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep") -> None:
    """Write a plain Hugging Face directory that opens without redaes (adapters are merged).

    Args:
        checkpoint: a model directory, or a checkpoint written by `redaes fit` with the run's config.yaml beside it or
            above it: a `.ckpt` file, or the folder of pieces that strategies fsdp2 and deepspeed leave.
        output: directory to write.
        dtype: of the stored weights; `keep` does not convert.
    """
    from redaes.models.vlm import Backbone, open_model
    from redaes.models.vlm import export as write

    path = Path(checkpoint)
    if path.suffix == ".ckpt" or (path / "meta.pt").is_file() or (path / "checkpoint").is_dir():
        model, processor = _from_training(path)
    else:
        model, processor = open_model(Backbone(path=checkpoint))
    print(f"exported to {write(model, processor, output, dtype=None if dtype == 'keep' else dtype)}")


def _from_training(checkpoint: Path) -> tuple[Any, Any]:
    import yaml

    from redaes.errors import UserError
    from redaes.models.vlm import Backbone, Lora, open_model

    if not checkpoint.exists():
        raise UserError(f"no checkpoint at {checkpoint}")
    configs = [p for p in (folder / "config.yaml" for folder in list(checkpoint.parents)[:2]) if p.is_file()]
    if not configs:
        raise UserError(f"no config.yaml beside {checkpoint}: it says which backbone the weights belong to")
    settings = dict(yaml.safe_load(configs[0].read_text(encoding="utf-8"))["model"]["init_args"]["backbone"])
    lora = settings.pop("lora", None)
    model, processor = open_model(Backbone(**settings, lora=Lora(**lora) if lora else None))
    weights = {k.removeprefix("model."): v for k, v in _state(checkpoint).items() if k.startswith("model.")}
    # Under an adapter only what was trained is taken: the rest is the backbone's, and may be quantised.
    names = {n for n, p in model.named_parameters() if p.requires_grad} if lora else model.state_dict().keys()
    missing = sorted(names - weights.keys())
    if missing:
        raise UserError(f"{checkpoint} has no {missing[0]!r}: it is of another model than {configs[0]} says")
    model.load_state_dict({name: weights[name] for name in names}, strict=lora is None)
    return model, processor


def _state(checkpoint: Path) -> dict[str, Any]:
    """Weights of the module by name, whole, on the CPU."""
    import torch

    if checkpoint.is_file():
        return dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    if (checkpoint / "meta.pt").is_file():
        return _fsdp_state(checkpoint)
    return _deepspeed_state(checkpoint)


def _fsdp_state(folder: Path) -> dict[str, Any]:
    """Read the weights and nothing else of a checkpoint in pieces; the optimiser's are twice their size."""
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(folder)
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if name.startswith("state_dict.model.") and isinstance(entry, TensorStorageMetadata)
    }
    load(state, storage_reader=reader, no_dist=True)
    return {name.removeprefix("state_dict."): weight for name, weight in state.items()}


def _deepspeed_state(folder: Path) -> dict[str, Any]:
    from redaes.errors import UserError

    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise UserError(f"{folder} was written by deepspeed: pip install deepspeed ({error})") from error
    state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag="checkpoint")
    return {name.removeprefix("_forward_module."): weight for name, weight in state.items()}
