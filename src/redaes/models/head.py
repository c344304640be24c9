"""Log-probabilities straight from the last hidden states: the logits of a step never exist all at once.

A language head turns a hidden state of a thousand numbers into a logit for each of 150,000 words, of which training
wants two numbers: the log-probability of the word that was said, and the entropy. `scored` makes a model's own head
answer with those two, block by block; the backward pass computes each block's logits once more. The model's forward
pass stays its own, so that adapters and sharding strategies see the calls they expect.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Logits that exist at one time: 16 MiB in float32, but of no fewer positions than keep a matrix product busy.
BLOCK_ELEMENTS = 2**22
FEWEST_POSITIONS = 256


class _TokenLogprobs(torch.autograd.Function):
    """(n, H) hidden states and (V, H) weights -> (n,) log-probabilities and entropies; entropies have no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        temperature: float,
        block: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logps, entropy, normaliser = (hidden.new_zeros(len(hidden), dtype=wide) for _ in range(3))
        for part in _blocks(len(hidden), block):
            logits = _logits(hidden[part], weight, temperature)
            highest = logits.amax(-1)
            logits.sub_(highest[:, None])
            logps[part] = logits.gather(-1, tokens[part, None]).squeeze(-1)
            # exp of what is shifted to at most 0: in place unless the entropy wants both.
            scaled = logits.exp() if with_entropy else logits.exp_()
            total = scaled.sum(-1)
            logps[part] -= total.log()
            normaliser[part] = highest + total.log()
            if with_entropy:
                entropy[part] = total.log() - torch.linalg.vecdot(scaled, logits) / total
        ctx.save_for_backward(hidden, weight, tokens, normaliser)
        ctx.temperature, ctx.block = temperature, block
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, tokens, normaliser = ctx.saved_tensors
        outer = gradients[0] / ctx.temperature
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if for_hidden else None
        # Summed over blocks in float32: a sum in bfloat16 would lose what a later block adds.
        grad_weight = torch.zeros_like(weight, dtype=outer.dtype) if for_weight else None
        for part in _blocks(len(hidden), ctx.block):
            p = _logits(hidden[part], weight, ctx.temperature).sub_(normaliser[part, None]).exp_()
            # d log p_token / d logits = (1 at the token) - p
            grad = p.mul_(-outer[part, None])
            grad.scatter_add_(-1, tokens[part, None], outer[part, None])
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ weight
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), *[None] * 4


def _blocks(rows: int, block: int) -> Iterator[slice]:
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float = 1.0,
    block: int | None = None,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of its distribution, from hidden states.

    Args:
        hidden: (n, H), of the positions that predict the tokens.
        weight: (V, H), of the language head.
        tokens: (n,) long.
        temperature: of the distribution that was sampled from, > 0.
        block: positions whose logits exist at one time; None: as many as fit into 16 MiB, at least 256.
        with_entropy: False leaves the entropies 0 and saves their time.

    Returns:
        log-probabilities and entropies (without gradient) in nats, each (n,), float32 or float64.

    Example:
        >>> logps, entropy = token_logprobs(torch.zeros(1, 4), torch.ones(8, 4), torch.tensor([3]))
        >>> round(logps.exp().item(), 3), round(entropy.exp().item(), 3)
        (0.125, 8.0)
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    block = block or max(FEWEST_POSITIONS, BLOCK_ELEMENTS // len(weight))
    logps, entropy = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, tokens, temperature, block, with_entropy
    )
    return logps, entropy


@contextmanager
def scored(
    head: torch.nn.Linear, tokens: Tensor, mask: Tensor, temperature: float = 1.0, with_entropy: bool = True
) -> Iterator[None]:
    """Let a language head answer hidden states (B, T, H) with (B, T, 2): log-probability of `tokens` and entropy.

    Args:
        head: of a transformers model, without a bias.
        tokens: (B, T) long.
        mask: (B, T), where it is 0 nothing is computed and both numbers are 0.
        temperature: see `token_logprobs`.
        with_entropy: see `token_logprobs`.
    """
    chosen = mask.nonzero(as_tuple=True)

    def answer(hidden: Tensor) -> Tensor:
        numbers = token_logprobs(hidden[chosen], head.weight, tokens[chosen], temperature, with_entropy=with_entropy)
        found = torch.stack(numbers, dim=-1)
        return found.new_zeros((*mask.shape, 2)).index_put(chosen, found)

    head.forward = answer  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward
