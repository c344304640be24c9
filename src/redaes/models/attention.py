"""The attention of shared prefixes, as an implementation that transformers' models call by name.

`redaes` is transformers' `sdpa` that also knows three layouts, handed through the model's forward call as a keyword:

    segments=Segments(...)   packed rows of training (models.forward): causal over the prompts; each completion over its
                             prompt and itself, all completions at once
    branches=Branches(...)   one new token for every branch in a rollout (models.decoding)
    chunks=Chunks(...)       images and windows of the vision tower (models.tower)

Compared with a dense mask over a packed row, completions never meet each other: that is K times fewer products.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from redaes.models.decoding import Branches
    from redaes.models.tower import Chunks

NAME = "redaes"


@dataclass(frozen=True)
class Segments:
    """Where the segments of N packed rows are: a prompt of P columns, then K completions of at most T tokens.

    Attributes:
        width: P.
        unseen: (N, 1, 1, P) bool, padding of the prompts; None without any.
        columns: (N*K*T,) long, where each completion token is among all N*S; padding points at any of its row's.
        slots: (N*(S - P),) long, the inverse: where what stands after the prompts is among all N*K*T.
        k: K.
    """

    width: int
    unseen: Tensor | None
    columns: Tensor
    slots: Tensor
    k: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
        """(N, H, S, D) queries, (N, G, S, D) keys and values -> (N, S, H, D)."""
        prompt = self._prompts(query, key, value, scaling, dropout).transpose(1, 2)
        if not len(self.columns):
            return prompt
        count, groups = len(query), key.shape[1]
        own = self._completions(query)
        heads, length = own.shape[1:3]
        seen = torch.nn.functional.scaled_dot_product_attention(
            # The heads of a group stand below each other: longer products, and no copy of keys for each head.
            own.unflatten(1, (groups, -1)).flatten(2, 3),
            self._with_prompt(key),
            self._with_prompt(value),
            attn_mask=self._completion_mask(length).repeat(1, 1, heads // groups, 1),
            dropout_p=dropout,
            scale=scaling,
        )
        after = seen.unflatten(2, (-1, length)).flatten(1, 2).transpose(1, 2).flatten(0, 1)
        return torch.cat([prompt, after.index_select(0, self.slots).unflatten(0, (count, -1))], dim=1)

    def _prompts(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float) -> Tensor:
        query, key, value = (x[:, :, : self.width] for x in (query, key, value))
        repeats = query.shape[1] // key.shape[1]
        mask = None
        if self.unseen is not None:
            order = torch.arange(self.width, device=query.device)
            # Padding sees itself, so that no row of the softmax is empty.
            mask = ((order[:, None] >= order) & ~self.unseen) | (order[:, None] == order)
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(repeats, 1),
            value.repeat_interleave(repeats, 1),
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
        )

    def _completions(self, values: Tensor) -> Tensor:
        """(N, H, S, D) -> (N*K, H, T, D)."""
        rows: Tensor = values.transpose(1, 2).flatten(0, 1).index_select(0, self.columns)
        return rows.view(len(values) * self.k, -1, *rows.shape[1:]).transpose(1, 2)

    def _with_prompt(self, values: Tensor) -> Tensor:
        """(N, G, S, D) -> (N*K, G, P + T, D), each completion's own after its prompt's."""
        prompt = values[:, :, : self.width].repeat_interleave(self.k, 0)
        return torch.cat([prompt, self._completions(values)], dim=2)

    def _completion_mask(self, length: int) -> Tensor:
        """(N*K or 1, 1, T, P + T): the whole prompt, and one's own tokens so far."""
        own = torch.ones(length, length, dtype=torch.bool, device=self.columns.device).tril()[None, None]
        if self.unseen is None:
            return torch.cat([own.new_ones(1, 1, length, self.width), own], dim=-1)
        prompt = ~self.unseen.expand(-1, -1, length, -1).repeat_interleave(self.k, 0)
        return torch.cat([prompt, own.expand(len(prompt), -1, -1, -1)], dim=-1)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    segments: Segments | None = None,
    branches: "Branches | None" = None,
    chunks: "Chunks | None" = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if segments is not None:
        return segments.attend(query, key, value, scaling, dropout), None
    if branches is not None:
        return branches.attend(query, key, value, module.layer_idx, scaling), None
    if chunks is not None:
        return chunks.attend(query, key, value, scaling, dropout), None
    found: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
    )
    return found


def register() -> None:
    """Make the implementation known to transformers under its name; may be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
