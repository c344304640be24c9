"""Open, freeze, adapt and export a vision-language model; one loader for nano and for 7B.

In: a `Backbone` (a path or hub id and how to use it). Out: the real transformers model class and its processor.
The paper freezes the vision encoder and trains the language part (Sec. 4.1); the nano presets start from random
weights and therefore train their tower in stage 1, then freeze it as well.
"""

import json
import os
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redaes.errors import UserError
from redaes.importing import uncollected
from redaes.models.adapters import adapt, keep_quantised, merged_state, quantisation_config
from redaes.models.lean_import import lean

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
        rslora: scale by alpha / sqrt(r) instead, which keeps the size of an update the same at any rank
            (Kalajdzievski 2023, arXiv 2312.03732).
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    rslora: bool = False


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
        dtype: of the weights in training. Full fine-tuning needs float32, with `trainer.precision=bf16-mixed` for
            speed: bfloat16 weights lose small updates. Under an adapter bfloat16 is sound, as the adapter is float32
            and the tower frozen.
        gradient_checkpointing: recompute activations in the backward pass.
        lora: train an adapter instead of the full weights.
        quantization: store the frozen language part under an adapter in 4 bits (NF4 with double quantisation: QLoRA,
            arXiv 2305.14314) or 8 bits (LLM.int8, arXiv 2208.07339); tower, merger, embeddings and head stay as they
            are. Needs bitsandbytes.
        attention: attention implementation; `flex_attention`, of the language part alone, needs a GPU.
        features: how the image features of a frozen tower are kept.
    """

    path: str = "nano"
    image_size: int | None = None
    freeze_vision: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    quantization: Literal["none", "4bit", "8bit"] = "none"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
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


@uncollected()
def open_model(
    backbone: Backbone, *, empty: bool = False, inference_on: str | None = None
) -> "tuple[PreTrainedModel, VisionTextProcessor]":
    """Open a checkpoint for training or inference.

    Args:
        backbone: which model and how it is used.
        empty: make the same model without its weights (on the meta device), for a process that is sent them.
        inference_on: a device; the model is only to answer there, and may then be quantised without an adapter.

    Returns:
        The model (wrapped by peft if `lora` is set) and its processor.

    Raises:
        UserError: not a checkpoint, or one of another kind; an image size that the model cannot take unresampled;
            quantisation without an adapter or without bitsandbytes.
    """
    path = checkpoint_path(backbone.path)
    with nullcontext() if inference_on is None else lean():  # a training may compile and shard
        model, processor = _opened(path, backbone, empty, inference_on)
    if inference_on is not None:
        model = model if backbone.quantization != "none" else model.to(inference_on)
        return model.requires_grad_(False).eval(), processor
    if backbone.lora is not None:
        model = adapt(model, backbone.lora)
    bare(model).model.visual.requires_grad_(not backbone.freeze_vision)
    if backbone.gradient_checkpointing:
        # The reentrant kind would lose the gradient behind inputs that need none (frozen ones).
        bare(model).activation_checkpointing_enable({"use_reentrant": False})
    return model, processor


def _opened(path: str, backbone: Backbone, empty: bool, inference_on: str | None) -> "tuple[Any, VisionTextProcessor]":
    from transformers.utils import logging

    from redaes.models.tower import quicken

    usable = backbone.lora is not None or inference_on is not None
    quantisation = quantisation_config(backbone.quantization, backbone.dtype, adapted=usable)
    logging.disable_progress_bar()
    try:
        model = _empty(path, backbone) if empty else _loaded(path, backbone, quantisation, inference_on)
        processor = open_processor(path, backbone.image_size)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot open the model {backbone.path!r}: {str(error).strip().splitlines()[0]}") from error
    quicken(model)
    return model, processor


def _loaded(path: str, backbone: Backbone, quantisation: Any, inference_on: str | None) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    # Quantised weights cannot be moved afterwards; where others go, an adapter's trainer decides.
    placed = {"device_map": {"": inference_on}} if quantisation is not None and inference_on is not None else {}
    model = AutoModelForImageTextToText.from_pretrained(
        path,
        dtype=getattr(torch, backbone.dtype),
        attn_implementation=_opened_with(backbone.attention),
        quantization_config=quantisation,
        **placed,
    )
    keep_quantised(model)
    if backbone.attention == "flex_attention":
        model.config.get_text_config()._attn_implementation = "flex_attention"
    return model


def _opened_with(attention: str) -> str:
    """What transformers is told: it does not offer FlexAttention for these models, whose language part can have it."""
    return "sdpa" if attention == "flex_attention" else attention


def _empty(path: str, backbone: Backbone) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, backbone.dtype), attn_implementation=_opened_with(backbone.attention)
        )


def bare(model: Any) -> Any:
    """The transformers model itself, without an adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def export(model: Any, processor: "VisionTextProcessor", path: str | Path, *, dtype: str | None = None) -> Path:
    """Write a plain Hugging Face directory: merged if LoRA, loadable without redaes, whole or not at all.

    Where the weights lie in pieces over several processes, all of them must call this; the first one writes.

    Args:
        model: a model from `open_model`; its weights are not changed, nor copied where they can be written as they are.
        processor: its processor.
        path: the directory to write; an existing checkpoint there is replaced, its model card (README.md) kept.
        dtype: `bfloat16` or `float16` to store smaller weights; None keeps the model's.
    """
    from redaes.models.sharding import full_state, is_first_process

    state = full_state(bare(model))
    target = Path(path)
    if is_first_process():
        _write(bare(model), state, processor, target, dtype)
    return target


def _write(
    model: Any, state: dict[str, Any], processor: "VisionTextProcessor", target: Path, dtype: str | None
) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    plain, state = _plain(model, state, dtype)
    plain.config.redaes_image_size = processor.image_size
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        plain.save_pretrained(temporary, state_dict=state)
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


def _plain(model: Any, state: dict[str, Any], dtype: str | None) -> tuple[Any, dict[str, Any]]:
    """The model as transformers knows it, empty, without adapters, quantisation or shards, and weights of one dtype."""
    import copy

    import torch
    from transformers import AutoModelForImageTextToText

    kind = getattr(torch, dtype) if dtype else model.get_input_embeddings().weight.dtype
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForImageTextToText.from_config(config, dtype=kind)
    plain.generation_config = model.generation_config
    state = merged_state(model, state, kind)
    # Tied weights are written once.
    names = [name for name in plain.state_dict() if name not in plain.all_tied_weights_keys]
    return plain, {name: state[name].to(kind) for name in names}
