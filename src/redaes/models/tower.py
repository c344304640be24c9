"""A vision tower in fewer and larger operations; weights, their names and the numbers stay what they are.

- The patch embedding is the matrix product that it is. Each window of its convolution is one whole patch, so nothing
  slides; convolution kernels are made for other shapes and take two to four times as long for the same sums.
- Attention is computed for all chunks of equal length at once. A chunk is an image, or a window of 8 x 8 patches, of
  which an image of 504 pixels has 25; transformers attends within one after the other (unless by FlashAttention).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from redaes.models.attention import NAME, register

_latest: Any = WeakTensorKeyDictionary()
"""The chunks of each tensor of ends that is alive: all layers of a pass are handed the same one or two."""


class WholePatches(nn.Conv3d):
    """A convolution over windows that are each one whole input."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, channels, time, height, width), as large as the kernel -> (N, width of the tower, 1, 1, 1)."""
        embedded = nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return embedded.view(*embedded.shape, 1, 1, 1)


@dataclass(frozen=True)
class Chunks:
    """The chunks of S patches, by length.

    Attributes:
        lengths: of each group of equal chunks.
        rows: where the patches of each group's chunks are among all S, chunk by chunk; None if there is one group.
        places: (S,), the inverse: where each patch is among those of all groups, one group after the other.
    """

    lengths: list[int]
    rows: list[Tensor] | None
    places: Tensor | None

    @classmethod
    def of(cls, ends: Tensor) -> "Chunks":
        """From (chunks + 1,) cumulated lengths, which begin with 0."""
        by_length: dict[int, list[int]] = {}
        for start, end in pairwise(ends.tolist()):
            by_length.setdefault(end - start, []).append(start)
        if len(by_length) == 1:
            return cls(list(by_length), None, None)
        rows = [
            (torch.tensor(starts)[:, None] + torch.arange(length)).flatten() for length, starts in by_length.items()
        ]
        places = torch.cat(rows).argsort()
        return cls(list(by_length), [r.to(ends.device) for r in rows], places.to(ends.device))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
        """(1, H, S, D) each -> (1, S, H, D)."""
        by_patch = [x[0].transpose(0, 1) for x in (query, key, value)]
        if self.rows is None or self.places is None:
            return _within(self.lengths[0], by_patch, scaling, dropout)[None]
        seen = [
            _within(length, [x.index_select(0, rows) for x in by_patch], scaling, dropout)
            for length, rows in zip(self.lengths, self.rows, strict=True)
        ]
        return torch.cat(seen).index_select(0, self.places)[None]


def _within(length: int, by_patch: list[Tensor], scaling: float, dropout: float) -> Tensor:
    """(n * length, H, D) queries, keys and values of n chunks -> (n * length, H, D)."""
    query, key, value = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in by_patch)
    seen = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    return seen.transpose(1, 2).flatten(0, 1)


class _AllAtOnce:
    """Before a tower's attention class, which is handed all patches as one chunk, and the chunks to attend within."""

    def forward(self, hidden_states: Tensor, cu_seqlens: Tensor, **options: Any) -> Tensor:
        if cu_seqlens not in _latest:
            _latest[cu_seqlens] = Chunks.of(cu_seqlens)
        whole = torch.tensor([0, len(hidden_states)], dtype=cu_seqlens.dtype)
        attended: Tensor = super().forward(hidden_states, whole, chunks=_latest[cu_seqlens], **options)  # type: ignore[misc]
        return attended


def quicken(model: Any) -> None:
    """Let a model's tower run as this module says.

    Args:
        model: of transformers, with a tower `model.visual`. One whose attention is not `sdpa` keeps its own.
    """
    tower = model.model.visual
    if type(tower.patch_embed.proj) is nn.Conv3d:
        tower.patch_embed.proj.__class__ = WholePatches
    if tower.config._attn_implementation != "sdpa":
        return
    register()
    tower.config._attn_implementation = NAME
    for block in tower.blocks:
        kind = type(block.attn)
        block.attn.__class__ = type(kind.__name__, (_AllAtOnce, kind), {})
