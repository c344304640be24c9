"""Decoding on a GPU: a step that is captured once and replayed, instead of being launched kernel by kernel.

A new token for a few hundred branches takes a GPU as long as reading the weights once. Launching the step's one or two
thousand kernels one after the other, from Python, takes several times as long. A CUDA graph launches all of them at
once; it holds the very kernels, shapes and addresses that it was captured with. So nothing of a step may change but
values in memory: branches that have ended stay, attention goes over the columns of all tokens that can come, with those
that have not come masked, and how many have come is a number on the GPU.
"""

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from redaes.models.decoding import Branches
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import bare

_latest: WeakKeyDictionary[Any, tuple[torch.cuda.Stream, torch.cuda.CUDAGraph]] = WeakKeyDictionary()
"""The latest graph of each model, and the stream it was captured on: the next one is given its memory."""


class FixedBranches(Branches):
    """`Branches` that all stay, and whose steps are the same kernels at the same addresses.

    The first step runs as any code does, which loads its kernels; the second is captured, and replayed from then on.

    Args:
        model: from `open_model`; see `can_be_captured`.
        prompts: N prompts, padded on the left.
        k: branches of each.
        max_new_tokens: the most tokens a branch can get.
        features: image features of the prompts, if they are at hand.
    """

    shrinks = False

    def __init__(self, model: Any, prompts: VisionTextBatch, k: int, max_new_tokens: int, features: Any = None) -> None:
        super().__init__(model, prompts, k, max_new_tokens, features)
        self._length = self._position.new_zeros(1)
        self._columns = torch.arange(max_new_tokens, device=self._length.device)
        self._tokens = torch.zeros_like(self._position)
        self._run: Callable[[], None] = self._first

    def step(self, tokens: Tensor) -> None:
        """Append one token to every row and compute what comes next, in the place of the logits before.

        Args:
            tokens: (R,) long.
        """
        self._tokens.copy_(tokens)
        self._run()

    def _first(self) -> None:
        self._step()
        self._run = self._second

    def _second(self) -> None:
        self._run = self._captured()
        self._run()

    def _step(self) -> None:
        self._to_come = self._columns > self._length
        self.logits = self._fed(self._tokens)
        self._length += 1

    def _captured(self) -> Callable[[], None]:
        try:
            return cuda_graph(self._model, self._step)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"this model's steps cannot be captured as a CUDA graph ({reason}): sampling goes on, but slower; the "
                "rollout in_process does not try with cuda_graph=false",
                stacklevel=2,
            )
            return self._step

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write the new token's keys and values, (R, G, 1, D), in place; those of all columns, (R, G, T, D)."""
        layer = self._layers[layer_idx]
        for all_of_them, new in ((layer.keys, keys), (layer.values, values)):
            # Under autocast a prompt's are wider than a token's.
            all_of_them.index_copy_(2, self._length, new.to(all_of_them.dtype))
        return layer.keys, layer.values

    def _own(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(self._to_come, float("-inf"))


def cuda_graph(model: Any, step: Callable[[], None]) -> Callable[[], None]:
    """Capture what a step launches on the model's GPU; returns what launches all of it again.

    Raises:
        RuntimeError: the step waits for the GPU, or does something else that a graph cannot hold.
    """
    device = next(model.parameters()).device
    stream, before = _latest.get(model) or (torch.cuda.Stream(device), None)
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        # `torch.cuda.graph` would first give back all unused memory, for which training asks again in every step.
        graph.capture_begin(pool=before.pool() if before else None, capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
    _latest[model] = stream, graph
    return graph.replay


def can_be_captured(model: Any) -> bool:
    """Whether to try: on a GPU, with weights that are not quantised.

    8-bit layers wait for the GPU to tell them where outliers are. Weights in pieces must be whole at the moment.
    """
    return next(model.parameters()).device.type == "cuda" and not hasattr(bare(model).config, "quantization_config")
