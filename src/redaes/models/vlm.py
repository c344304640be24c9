"""Open, freeze, adapt and export a vision-language model; one loader for nano and for 7B.

In: a `Backbone` (a path or hub id and how to use it). Out: the real transformers model class and its processor.
The paper freezes the vision encoder and trains the language part (Sec. 4.1); the nano presets start from random
weights and therefore train their tower in stage 1, then freeze it as well.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redaes.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from redaes.models.processor import VisionTextProcessor

SUPPORTED = ("qwen2_5_vl", "qwen3_vl")


@dataclass
class Lora:
    """A low-rank adapter on the language part.

    Attributes:
        r: rank.
        alpha: scale, applied as alpha / r.
        dropout: probability in [0, 1).
        targets: names of the linear layers to adapt.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass
class FeatureCaching:
    """Whether what a frozen vision tower says of an image is kept from step to step; all of it ours.

    Attributes:
        cache: null computes it in every step, `memory` keeps it in each process, `disk` in a folder that epochs, stages
            and processes share.
        path: the folder of a disk cache.
        max_gb: bound in 10^9 bytes, of a process's memory or of the whole folder; what was not used for longest goes.
        dtype: null keeps features as the tower gives them; `bfloat16` halves those of a float32 tower, and rounds.
    """

    cache: Literal["memory", "disk"] | None = None
    path: str | None = None
    max_gb: float = 4.0
    dtype: Literal["bfloat16"] | None = None


@dataclass
class Backbone:
    """Which model, and how it is used.

    Attributes:
        path: a checkpoint directory or a hub id of a Qwen2.5-VL or Qwen3-VL model; `nano` is the shipped checkpoint.
        image_size: side in pixels of the square every image is resized to (the paper's resolution was lost;
            512 is ours, 504 where the model's unit is 28). None: what the checkpoint was trained with.
        freeze_vision: keep the vision tower and its merger fixed (Sec. 4.1).
        dtype: of the weights in training.
        gradient_checkpointing: recompute activations in the backward pass.
        lora: train an adapter instead of the full weights.
        attention: attention implementation.
        features: how the image features of a frozen tower are kept.
    """

    path: str = "nano"
    image_size: int | None = None
    freeze_vision: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    features: FeatureCaching = field(default_factory=FeatureCaching)


def shipped_nano() -> Path:
    """The directory of the nano checkpoint inside the package."""
    return Path(__file__).parent.parent / "presets" / "nano"


def _check_directory(path: Path) -> None:
    config = path / "config.json"
    if not config.is_file():
        raise UserError(f"{path} is not a model checkpoint: it has no config.json")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config} is not valid JSON: {error}") from error
    if kind not in SUPPORTED:
        raise UserError(f"{path} holds a {kind!r} model; redaes opens {' and '.join(SUPPORTED)} checkpoints")
    if not any(path.glob("*.safetensors")):
        raise UserError(f"{path} holds no .safetensors weights (other weight formats are not opened)")


def checkpoint_path(path: str | Path) -> str:
    """Resolve `nano`, a directory or a hub id to what `from_pretrained` takes.

    Raises:
        UserError: a directory that is no checkpoint, or one of another kind; a path that does not exist.
    """
    if str(path) == "nano":
        return str(shipped_nano())
    directory = Path(path).expanduser()
    if directory.is_dir():
        _check_directory(directory)
        return str(directory)
    text = str(path)
    looks_local = text.startswith((".", "/", "~")) or text.count("/") != 1 or directory.exists()
    if looks_local:
        raise UserError(f"no checkpoint directory at {text} (give a directory, a hub id 'owner/name', or 'nano')")
    return text


def open_processor(path: str, image_size: int | None) -> "VisionTextProcessor":
    """The processor of a checkpoint; `image_size` None takes what `export` recorded, else 512 or the nearest below."""
    from transformers import AutoConfig

    from redaes.models.processor import VisionTextProcessor

    config = AutoConfig.from_pretrained(path)
    if image_size is None:
        unit = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        image_size = int(getattr(config, "redaes_image_size", None) or 512 // unit * unit)
    return VisionTextProcessor.from_pretrained(path, image_size)


def open_model(backbone: Backbone) -> "tuple[PreTrainedModel, VisionTextProcessor]":
    """Open a checkpoint for training or inference.

    Returns:
        The model (wrapped by peft if `lora` is set) and its processor.

    Raises:
        UserError: not a checkpoint, or one of another kind, or an image size that the model cannot take unresampled.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    path = checkpoint_path(backbone.path)
    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            path, dtype=getattr(torch, backbone.dtype), attn_implementation=backbone.attention
        )
        processor = open_processor(path, backbone.image_size)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot open the model {backbone.path!r}: {str(error).strip().splitlines()[0]}") from error
    model.model.visual.requires_grad_(not backbone.freeze_vision)
    if backbone.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if backbone.lora is not None:
        model = _adapt(model, backbone.lora, freeze_vision=backbone.freeze_vision)
    return model, processor


def _adapt(model: "PreTrainedModel", lora: Lora, *, freeze_vision: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        model,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=rf".*language_model.*\.({'|'.join(lora.targets)})",
            task_type="CAUSAL_LM",
        ),
    )
    if not freeze_vision:
        bare(adapted).model.visual.requires_grad_(True)
    return adapted


def bare(model: Any) -> Any:
    """The transformers model itself, without an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def export(model: Any, processor: "VisionTextProcessor", path: str | Path, *, dtype: str | None = None) -> Path:
    """Write a plain Hugging Face directory: merged if LoRA, loadable without redaes, whole or not at all.

    Args:
        model: a model from `open_model`; its weights are not changed.
        processor: its processor.
        path: the directory to write; an existing checkpoint there is replaced, its model card (README.md) kept.
        dtype: `bfloat16` or `float16` to store smaller weights; None keeps the model's.
    """
    import copy

    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    elif dtype is not None:
        model = copy.deepcopy(model)
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    model.config.redaes_image_size = processor.image_size
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        # Readable by others, as other files are; temporary folders and safetensors are made for their owner alone.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        if target.exists():
            if (card := target / "README.md").is_file():
                shutil.copy2(card, temporary)
            old = temporary.with_name(temporary.name + ".old")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
