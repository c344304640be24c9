"""Adapters and quantised weights: put on when a model is opened, folded back into plain weights when it is exported.

QLoRA is both: a base in 4 bits that is never trained, and a float32 adapter that is. Only linear layers of the language
part are quantised; the vision tower, its merger, the embeddings and the head keep their numbers, since an error there
touches every image and every score.
"""

from typing import TYPE_CHECKING, Any

from redaes.errors import UserError

if TYPE_CHECKING:
    from redaes.models.vlm import Lora

UNQUANTISED = ["model.visual", "lm_head"]


def quantisation_config(quantization: str, dtype: str, *, adapted: bool) -> Any:
    """The `quantization_config` that transformers takes; None for `none`.

    Args:
        quantization: `none`, `4bit` or `8bit`.
        dtype: in which the quantised layers compute.
        adapted: whether an adapter will be trained on top.

    Raises:
        UserError: no adapter to train, or bitsandbytes is not installed.
    """
    if quantization == "none":
        return None
    if not adapted:
        raise UserError(
            f"backbone.quantization={quantization} needs backbone.lora: quantised weights cannot be trained themselves"
        )
    import_bitsandbytes(f"backbone.quantization={quantization}")
    import torch
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=UNQUANTISED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=UNQUANTISED,
    )


def keep_quantised(model: Any) -> None:
    """Let 4-bit layers be evaluated, saved and taken up again without losing what they are."""
    for module in model.modules():
        if _is_quantised(module) and hasattr(module.weight, "quant_state"):
            # On a CPU, evaluation would repack the weights for good into a form that cannot be trained.
            module.support_avx512bf16_for_cpu = False
            module.register_load_state_dict_pre_hook(_leave_scales)


def _leave_scales(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """bitsandbytes writes a layer's scales into state dicts and does not read them; they are the backbone's anyway."""
    for name in [n for n in state if n.startswith(f"{prefix}weight.")]:
        del state[name]


def import_bitsandbytes(wanted_by: str) -> Any:
    """The bitsandbytes module.

    Raises:
        UserError: it is not installed, or does not load on this machine.
    """
    try:
        import bitsandbytes
    except (ImportError, RuntimeError, OSError) as error:  # its native library may be missing or of another system
        raise UserError(f"{wanted_by} needs bitsandbytes: pip install bitsandbytes ({error})") from error
    return bitsandbytes


def adapt(model: Any, lora: "Lora") -> Any:
    """Wrap a model so that only low-rank updates of its language part are trained.

    The adapter is float32 whatever the dtype of the weights under it, so that small updates are not lost.
    """
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            target_modules=rf".*language_model.*\.({'|'.join(lora.targets)})",
            task_type="CAUSAL_LM",
        ),
    )


def merged_state(model: Any, state: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Weights under the names of the plain model, with adapters added and quantised layers in floating point.

    Args:
        model: the transformers model, whose layers may be adapted or quantised; it is not changed.
        state: its whole state dict; entries of adapted and quantised layers are replaced.
        dtype: of what replaces them; it lies on the CPU, so that a card that held the model in 4 bits does not
            have to hold it whole.

    Returns:
        The same dict: W + scale * B @ A, summed in float32, in the place of an adapted layer's parts.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            parts = _taken(state, f"{name}.")
            weight = _floating(module.base_layer, parts["base_layer.weight"])
            down, up = (parts[f"lora_{side}.default.weight"].float() for side in "AB")
            merged = weight.float() + module.scaling["default"] * (up @ down)
            state[f"{name}.weight"] = merged.to(dtype).cpu()
            if "base_layer.bias" in parts:
                state[f"{name}.bias"] = parts["base_layer.bias"]
        elif _is_quantised(module) and f"{name}.weight" in state:
            parts = _taken(state, f"{name}.")
            state[f"{name}.weight"] = _floating(module, parts["weight"]).to(dtype).cpu()
            if "bias" in parts:
                state[f"{name}.bias"] = parts["bias"]
    return state


def _taken(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Remove the entries under a prefix and give them by the rest of their names."""
    return {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}


def _is_quantised(module: Any) -> bool:
    return type(module).__module__.startswith("bitsandbytes")


def _floating(module: Any, weight: Any) -> Any:
    """The layer's weight in floating point; peft's own way there moves the quantised weight and loses its scales."""
    if not _is_quantised(module):
        return weight
    if hasattr(module.weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(module.weight.data, module.weight.quant_state)
    # The first forward pass takes the row scales from the weight to the layer's state.
    scales = module.weight.SCB if module.state.SCB is None else module.state.SCB
    return module.weight.data.float() * scales.float().unsqueeze(1) / 127
