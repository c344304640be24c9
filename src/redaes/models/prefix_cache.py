"""A cache of prompts that may be computed twice: shared prefixes together with activation checkpointing.

Checkpointing runs a layer again in the backward pass. An ordinary cache would append the layer's keys a second time,
and transformers therefore drops any cache of a layer that is checkpointed. These are written once and read as often as
one likes, so they can stay (`open_model` tells the layers so).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class PrefixCache(DynamicCache):
    """Keys and values of N prompts, kept with their graph.

    Pass it as `past_key_values` with the prompts and `use_cache=False` (transformers refuses `use_cache` while it
    checkpoints), then what `branch` gives with the completions.

    Example:
        >>> cache = PrefixCache()
        >>> keys = torch.ones(1, 1, 3, 2)
        >>> _ = cache.update(keys, keys, 0)
        >>> _ = cache.update(keys, keys, 0)  # the backward pass computes the layer again
        >>> branches = cache.branch(4)
        >>> branches.update(torch.zeros(4, 1, 5, 2), torch.zeros(4, 1, 5, 2), 0)[0].shape
        torch.Size([4, 1, 8, 2])
        >>> cache.get_seq_length(), branches.get_seq_length()
        (3, 3)
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep a layer's keys and values, each (N, heads, P, width), the first time; they are what it attends to."""
        if layer_idx >= len(self.layers):
            super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return key_states, value_states

    def branch(self, k: int) -> "Branches":
        """The prefix of K rows for each prompt, in order."""
        branches = Branches()
        for number, layer in enumerate(self.layers):
            rows = (layer.keys.repeat_interleave(k, 0), layer.values.repeat_interleave(k, 0))
            DynamicCache.update(branches, *rows, number)
        return branches


class Branches(DynamicCache):
    """A prefix that completions attend to and leave as it is."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Prefix and new keys and values of a layer, each (N*K, heads, P + T, width)."""
        layer = self.layers[layer_idx]
        return torch.cat([layer.keys, key_states], dim=-2), torch.cat([layer.values, value_states], dim=-2)
