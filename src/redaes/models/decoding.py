"""Decoding K branches of a prompt token by token, with the prompt's keys and values in memory once.

An ordinary cache repeats a prompt K times and copies all of it at every token. Here the attention of a new token is
computed in two parts that share one softmax: over the prompt's keys, for all branches of a prompt by one matrix
product, and over the branch's own keys, which are written in place. Branches that have ended leave, and a prompt leaves
with its last one (on a GPU they stay: `models.graphs`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redaes.models.attention import NAME, register
from redaes.models.forward import prefill
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import bare


@dataclass
class _Layer:
    """Keys and values of one layer: prompts (N, G, P, D), and branches (R, G, T, D) up to a common length."""

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor


class Branches:
    """K branches of each of N prompts, in R = N*K rows that become fewer as branches end.

    Args:
        model: from `open_model`.
        prompts: N prompts, padded on the left.
        k: branches of each.
        max_new_tokens: the most tokens a branch can get.
        features: image features of the prompts, if they are at hand.

    Attributes:
        logits: (R, V), the distribution of each branch's next token.
        shrinks: whether rows may leave.
    """

    shrinks = True

    def __init__(self, model: Any, prompts: VisionTextBatch, k: int, max_new_tokens: int, features: Any = None) -> None:
        start = prefill(model, prompts, features)
        self._model = model
        self._layers = [_new_layer(layer.keys, layer.values, k, max_new_tokens) for layer in start.cache.layers]
        # Tokens that were fed; a tensor where a step must not depend on it (models.graphs).
        self._length: Any = 0
        self._position = start.next_position.repeat_interleave(k)
        self._unseen = None if bool(start.attention_mask.all()) else (start.attention_mask == 0)
        self._assign(torch.arange(len(start.logits), device=start.logits.device).repeat_interleave(k))
        self.logits: Tensor = start.logits.repeat_interleave(k, 0)

    def _assign(self, prompt: Tensor) -> None:
        """Remember to which prompt each row belongs (rows are sorted by it), and its place among that prompt's."""
        counts = torch.bincount(prompt)
        self._prompt = prompt
        self._place = torch.arange(len(prompt), device=prompt.device) - (counts.cumsum(0) - counts)[prompt]
        self._shape = (len(counts), int(counts.max()))
        self._hidden = None if self._unseen is None else self._unseen[prompt][:, None, None]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone.

        Args:
            rows: (r,) long, ascending.
        """
        prompt, self._position, self.logits = self._prompt[rows], self._position[rows], self.logits[rows]
        left, prompt = prompt.unique_consecutive(return_inverse=True)
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
            if len(left) < self._shape[0]:
                layer.prompt_keys, layer.prompt_values = layer.prompt_keys[left], layer.prompt_values[left]
        if self._unseen is not None:
            self._unseen = self._unseen[left]
        self._assign(prompt)

    def step(self, tokens: Tensor) -> None:
        """Append one token to every row and compute what comes next.

        Args:
            tokens: (R,) long.
        """
        self.logits = self._fed(tokens)
        self._length += 1

    def _fed(self, tokens: Tensor) -> Tensor:
        """One pass over a new token of every row -> (R, V)."""
        with _attention(bare(self._model)):
            out = self._model(
                input_ids=tokens[:, None],
                # A mask of four dimensions is taken as it is; the branches know themselves what they see.
                attention_mask=tokens.new_ones(1, 1, 1, 1),
                position_ids=(self._position + self._length).view(1, -1, 1).expand(3, -1, -1),
                past_key_values=self,
                use_cache=True,
                branches=self,
            )
        logits: Tensor = out.logits[:, -1]
        return logits

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write the new token's keys and values, (R, G, 1, D), in place; the branches' own so far, (R, G, t, D)."""
        layer, end = self._layers[layer_idx], self._length + 1
        layer.keys[:, :, self._length] = keys[:, :, 0]
        layer.values[:, :, self._length] = values[:, :, 0]
        return layer.keys[:, :, :end], layer.values[:, :, :end]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, layer_idx: int, scaling: float) -> Tensor:
        """Attention of one token per row, (R, H, 1, D), over its prompt and its own branch -> (R, 1, H, D)."""
        layer = self._layers[layer_idx]
        rows, heads, _, dim = query.shape
        groups = keys.shape[1]
        query = query.view(rows, groups, heads // groups, dim) * scaling
        on_prompt = self._per_row(self._per_prompt(query) @ layer.prompt_keys.transpose(-1, -2))
        if self._hidden is not None:
            on_prompt = on_prompt.masked_fill(self._hidden, float("-inf"))
        scores = torch.cat([on_prompt, self._own(query @ keys.transpose(-1, -2))], dim=-1)
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)
        on_prompt, on_own = weights.split([layer.prompt_keys.shape[2], keys.shape[2]], dim=-1)
        seen = self._per_row(self._per_prompt(on_prompt) @ layer.prompt_values) + on_own @ values
        attended: Tensor = seen.reshape(rows, 1, heads, dim)
        return attended

    def _own(self, scores: Tensor) -> Tensor:
        """(R, G, h, t) scores of the branches' own tokens, -inf where there is none yet."""
        return scores

    def _per_prompt(self, values: Tensor) -> Tensor:
        """(R, G, h, x) of rows -> (N, G, K*h, x) of prompts, zeros where a branch has left."""
        count, k = self._shape
        if len(values) == count * k:  # nobody has left
            laid: Tensor = values.unflatten(0, self._shape)
        else:
            laid = values.new_zeros(count, k, *values.shape[1:])
            laid[self._prompt, self._place] = values
        return laid.transpose(1, 2).flatten(2, 3)

    def _per_row(self, values: Tensor) -> Tensor:
        """The inverse of `_per_prompt`."""
        count, k = self._shape
        laid = values.unflatten(2, (k, -1)).transpose(1, 2)
        rows: Tensor = laid.flatten(0, 1) if len(self._prompt) == count * k else laid[self._prompt, self._place]
        return rows


def _new_layer(keys: Tensor, values: Tensor, k: int, max_new_tokens: int) -> _Layer:
    count, groups, _, dim = keys.shape
    own = (count * k, groups, max_new_tokens, dim)
    return _Layer(keys, values, keys.new_zeros(own), values.new_zeros(own))


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """Let the language part's attention ask the branches, for one pass without gradients."""
    register()
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
