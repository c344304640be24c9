"""The trainer's weights as vLLM loads them: whole tensors under the names of a plain Hugging Face checkpoint.

vLLM maps those names (`model.language_model.*`, `model.visual.*`, `lm_head.weight`) to its own and fuses and shards
what it needs, so nothing here knows of its layouts. Weights come layer after layer, which is the order in which vLLM
reloads without buffering. An adapter is added to its layer on the way out, one tensor at a time; the model itself is
not touched (peft's merge and unmerge in place would leave a rounding error in bfloat16 weights at every step).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from redaes.errors import UserError
from redaes.models.sharding import is_distributed
from redaes.models.vlm import bare

# Enough for one kernel to be busy with, and 128 MiB of integers at most.
CHUNK = 2**24
HEAD = "lm_head.weight"


@torch.no_grad()
def checkpoint_weights(model: Any, tied_twice: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Name and whole tensor of every weight; adapters merged.

    Every process of a sharded training must iterate: gathering is collective.

    Args:
        model: a model from `open_model`, with or without an adapter.
        tied_twice: name a head that is tied to the embedding too, after it. vLLM's kernels for CPUs pack a copy of the
            head, which a new embedding alone does not reach; on a GPU the two are one tensor there.

    Raises:
        UserError: a parameter is elsewhere (ZeRO-3) and was not gathered.
    """
    with gathered(model):
        adapted = {
            f"{name}.base_layer.weight": module
            for name, module in model.named_modules()
            if hasattr(module, "get_delta_weight") and not module.merged
        }
        head = bare(model).lm_head.weight
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                continue
            weight = _whole(parameter).detach()
            if name in adapted:
                layer = adapted[name]
                delta = sum(_whole(layer.get_delta_weight(adapter)) for adapter in layer.active_adapters)
                weight = (weight + delta).to(weight.dtype)
            yield (plain := checkpoint_name(name)), weight
            if tied_twice and parameter is head and plain != HEAD:
                yield HEAD, weight.clone()


def checkpoint_name(name: str) -> str:
    """The name in a plain checkpoint of a parameter of a wrapped model.

    Example:
        >>> checkpoint_name("base_model.model.model.language_model.layers.0.mlp.up_proj.base_layer.weight")
        'model.language_model.layers.0.mlp.up_proj.weight'
    """
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    for wrapper in ("_checkpoint_wrapped_module.", "_orig_mod."):
        name = name.replace(wrapper, "")
    return name


def gathered(model: Any) -> AbstractContextManager[None]:
    """Within it every parameter of the model is whole on this process: the seam for ZeRO-3.

    DTensors (FSDP2) need no context, they are gathered one by one.
    """
    return nullcontext()


def _whole(parameter: Tensor) -> Tensor:
    if parameter.numel() < getattr(parameter, "ds_numel", 0):
        raise UserError("rollouts by vLLM cannot gather the weights of ZeRO-3 yet; train with ddp, fsdp2 or ZeRO-2")
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


@torch.no_grad()
def fingerprint(model: Any) -> Tensor:
    """Two integers for each parameter that change when any bit of this process's share of it does.

    They are the sums of the bits, read as integers, and of their squares, which one of many small changes does not
    leave as they are. One pass over the weights: milliseconds on the device they are on.

    Returns:
        (parameters, 2) long, on the CPU.
    """
    return torch.stack([_sums(parameter) for parameter in model.parameters()]).cpu()


def _sums(parameter: Tensor) -> Tensor:
    # The share of this process: of DeepSpeed's ZeRO-3, of a DTensor, or all of it.
    local = getattr(parameter, "ds_tensor", parameter)
    local = local.to_local() if hasattr(local, "to_local") else local
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[local.element_size()]
    sums = torch.zeros(2, dtype=torch.long, device=local.device)
    for chunk in local.detach().contiguous().view(-1).view(bits).split(CHUNK):
        wide = chunk.long()
        sums += torch.stack([wide.sum(), wide.square().sum()])
    return sums


def on_any_process(here: bool, device: torch.device) -> bool:
    """Whether it holds on any process of the training; all of them must ask."""
    if not is_distributed():
        return here
    anywhere = torch.tensor(int(here), device=device)
    torch.distributed.all_reduce(anywhere, torch.distributed.ReduceOp.MAX)
    return bool(anywhere)
