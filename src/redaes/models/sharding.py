"""Weights that lie in pieces over several processes: FSDP2 (`fully_shard`) and DeepSpeed ZeRO-3.

Every decoder layer and every block of the tower is a unit of its own, gathered when it runs and let go after; the tower
and the whole model hold what is left (patch embedding and merger; embeddings, last norm and head). A forward pass is a
collective act: processes that call a sharded model a different number of times wait for each other for ever. Sampling
does just that, since completions differ in length; `gathered` brings all weights together for as long as it takes.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from redaes.errors import UserError
from redaes.models.vlm import Backbone, bare, open_model

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from redaes.models.processor import VisionTextProcessor


def is_distributed() -> bool:
    """Whether this process is one of several that can talk to each other."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_first_process() -> bool:
    """Whether this process writes files and speaks for all: the only one, or rank 0."""
    return not is_distributed() or torch.distributed.get_rank() == 0


def open_sharded(
    backbone: Backbone, mesh: "DeviceMesh", device: torch.device, *, bf16: bool
) -> "tuple[Any, VisionTextProcessor]":
    """Open a checkpoint in pieces over a mesh of processes; all of them must call this.

    Only the first process reads the weights, on the CPU; the others start empty and are sent their pieces, so that a
    machine holds one whole copy and not one per process.

    Args:
        backbone: which model and how it is used.
        mesh: one-dimensional, of the data-parallel processes.
        device: where this process keeps its pieces.
        bf16: gather and compute in bfloat16 and sum gradients in float32; the pieces keep their dtype.

    Raises:
        UserError: quantised weights, whose packed layers cannot be cut into pieces here.
    """
    if backbone.quantization != "none":
        raise UserError(
            f"backbone.quantization={backbone.quantization} does not work with strategy fsdp2: a quantised model is "
            "small, use strategy ddp"
        )
    first = is_first_process()
    model, processor = open_model(backbone, empty=not first)
    whole = model.state_dict() if first else {}
    buffers = dict(model.named_buffers()) if first else {}
    shard(model, mesh, bf16=bf16)
    _send(model, whole, buffers, device)
    return model, processor


def shard(model: Any, mesh: "DeviceMesh", *, bf16: bool) -> None:
    """Cut a model into pieces over a mesh, in place; frozen weights too, and adapters with the layer they sit on."""
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None
    )
    inner = bare(model).model
    units = [*inner.language_model.layers, *inner.visual.blocks, inner.visual, model]
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    assert isinstance(model, FSDPModule)


def _send(model: Any, whole: dict[str, Any], buffers: dict[str, Any], device: torch.device) -> None:
    """Fill the pieces of all processes from the first one's state dict, and give all its buffers."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole, options=options)
    # Rotary frequencies are buffers that state dicts leave out.
    for name, buffer in model.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
        torch.distributed.broadcast(buffer, src=0)
    # Whoever runs first would count as the root, and that is the tower; a public way to name the root is missing.
    model._get_fsdp_state()._lazy_init()


def _fsdp_units(model: Any) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _zero3_parameters(model: Any) -> list[Any]:
    return [p for p in model.parameters() if hasattr(p, "ds_id")]


@contextmanager
def gathered(model: Any, engine: Any = None) -> Iterator[None]:
    """All weights whole on every process inside the `with`: processes may run the model as often as each likes.

    Costs one whole copy of the weights (bfloat16 under a bfloat16 policy) while it lasts. Does nothing to a model that
    is not in pieces. All processes must enter and leave; the weights must not be changed inside.

    Args:
        model: whole or in pieces.
        engine: DeepSpeed's, if it trains the model.
    """
    units, zero3 = _fsdp_units(model), _zero3_parameters(model)
    with ExitStack() as stack:
        if units:
            stack.enter_context(_unsharded(units))
        if zero3:
            stack.enter_context(_zero3_whole(zero3, engine.optimizer.parameter_offload))
        yield


@contextmanager
def _zero3_whole(parameters: list[Any], offload: Any) -> Iterator[None]:
    """Gather, and take ZeRO-3's hooks off the layers: they would cut every layer again after its first pass."""
    import deepspeed

    for parameter in parameters:
        parameter.ds_active_sub_modules.clear()
    for hook in (*offload.forward_hooks, *offload.backward_hooks):
        hook.remove()
    offload.forward_hooks, offload.backward_hooks = [], []
    try:
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=None):
            yield
    finally:
        # What it had learnt of the layers' order, to fetch them early, is of a pass that was not finished.
        coordinator = offload.get_param_coordinator()
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()
        offload._register_deepspeed_module(offload.module)


@contextmanager
def _unsharded(units: list[Any]) -> Iterator[None]:
    root = units[0]
    root.set_reshard_after_forward(False, recurse=True)
    for unit in units:
        unit.unshard()
    for unit in units:
        _take_hooks_off(unit)
    try:
        yield
    finally:
        for unit in units:
            _put_hooks_on(unit)
        root.set_reshard_after_forward(True, recurse=True)
        # The root's are wanted again as soon as the backward pass begins.
        root.set_reshard_after_forward(False, recurse=False)
        for unit in units:
            unit.reshard()


def _take_hooks_off(unit: Any) -> None:
    """What fetches a unit's weights before it runs is idle while they are whole, and can be no part of a CUDA graph."""
    state = unit._get_fsdp_state()
    state._pre_forward_hook_handle.remove()
    state._post_forward_hook_handle.remove()


def _put_hooks_on(unit: Any) -> None:
    """As `fully_shard` does; there is no public way to switch them."""
    state = unit._get_fsdp_state()
    state._pre_forward_hook_handle = unit.register_forward_pre_hook(state._pre_forward, prepend=True, with_kwargs=True)
    state._post_forward_hook_handle = unit.register_forward_hook(state._post_forward, prepend=False)


def clip_gradients(parameters: Sequence[torch.nn.Parameter], limit: float) -> torch.Tensor:
    """Scale gradients, whole or in pieces, to a norm of at most `limit`; 0 leaves them.

    Returns:
        The norm before, over all pieces, the same on every process.
    """
    norm: Any = torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf"))
    whole: torch.Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole


def full_state(model: Any) -> dict[str, Any]:
    """The whole state dict of a model; all processes must call this, and only the first gets it if it is in pieces."""
    if _fsdp_units(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)))
    if _zero3_parameters(model):
        return _zero3_state(model)
    return dict(model.state_dict())


def _zero3_state(model: Any) -> dict[str, Any]:
    """One parameter at a time, so that no card holds all."""
    import deepspeed

    state: dict[str, Any] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=None):
            if is_first_process():
                state[name] = parameter.detach().cpu().clone()
    return state
