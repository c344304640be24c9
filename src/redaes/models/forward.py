"""The forward passes of training: log-probabilities only where an answer token is predicted, prompts only once.

`answer_logprobs` is the plain pass: a row is a prompt and its answer. `branch_logprobs` is the pass of GRPO, in which
an image has K answers to one prompt. Each image goes through the tower once and each prompt through the language part
once, in one of two layouts that give the numbers of the plain pass (tests/models/test_forward.py):

    packed   one row is the prompt and its K answers one after the other, without padding between them; a mask lets an
             answer see the prompt and itself; positions begin anew after the prompt
    cache    the prompts' keys and values are computed first and repeated K times for the answers

`packed` is the default: it works with activation checkpointing, computes no padding between ragged answers and has a
block mask for FlexAttention on a GPU. benchmarks/scaling.py compares the two.

Image features and mRoPE positions are passed explicitly: what is left to be inferred inside the model depends on
state of an earlier call, and a missing `mm_token_type_ids` shifts every log-probability without an error.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from redaes.models.attention import NAME, Segments, register
from redaes.models.features import image_features
from redaes.models.head import scored
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import bare

SharedPrefix = Literal["packed", "cache"]
# `scored` with the head and how it is read; tokens and their mask are left to say.
Scoring = Callable[[Tensor, Tensor], AbstractContextManager[None]]
# Segment numbers of a packed row: the prompt, then its answers from 1.
PROMPT, PADDING = 0, -1


def mrope_positions(model: Any, batch: VisionTextBatch) -> Tensor:
    """(3, B, L) positions in time, height and width of every token."""
    positions: Tensor
    # On the CPU: it asks for single numbers, ten an image, each of which a host would wait for.
    positions, _ = bare(model).model.get_rope_index(
        batch.input_ids.cpu(),
        mm_token_type_ids=batch.mm_token_type_ids.cpu(),
        image_grid_thw=batch.image_grid_thw.cpu(),
        attention_mask=batch.attention_mask.cpu(),
    )
    return positions.to(batch.input_ids.device)


def answer_logprobs(
    model: Any, batch: VisionTextBatch, temperature: float = 1.0, features: Any = None, with_entropy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain forward over whole rows.

    Args:
        model: from `open_model`.
        batch: B rows of prompt and answer, padded on the left.
        temperature: of the sampling distribution.
        features: from `image_features`, if they were computed before.
        with_entropy: False leaves the entropies 0 and saves their time.

    Returns:
        log-probabilities, entropies and mask of the answer tokens, each (B, T) with T = `batch.answer_length`;
        values outside the mask are 0.

    Raises:
        ValueError: the batch holds prompts alone.
    """
    if batch.labels is None:
        raise ValueError("the batch holds prompts alone; encode it with answers")
    length, width = batch.answer_length, batch.input_ids.shape[1]
    labels = batch.labels[:, -length:]
    mask = labels != -100
    with scored(bare(model).lm_head, labels.clamp(min=0), mask, temperature, with_entropy):
        out = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=mrope_positions(model, batch),
            mm_token_type_ids=batch.mm_token_type_ids,
            mm_encoder_outputs={"image": image_features(model, batch) if features is None else features},
            # A token is predicted at the position before it.
            logits_to_keep=torch.arange(width - length - 1, width - 1, device=labels.device),
            use_cache=False,
        )
    logps, entropy = out.logits.unbind(-1)
    return logps, entropy, mask


def branch_logprobs(
    model: Any,
    prompts: VisionTextBatch,
    completions: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    features: Any = None,
    layout: SharedPrefix = "packed",
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of K completions of each of N prompts; each prompt is computed once.

    Args:
        model: from `open_model`.
        prompts: N prompts, padded on the left.
        completions: (N*K, T) token ids, padded on the right, K consecutive rows per prompt.
        mask: (N*K, T), 1 on real tokens.
        temperature: of the sampling distribution.
        features: from `image_features`, if they were computed before.
        layout: `packed` or `cache`.
        with_entropy: False leaves the entropies 0 and saves their time.

    Returns:
        log-probabilities and entropies, each (N*K, T); 0 outside the mask.

    Raises:
        ValueError: `cache` with activation checkpointing, which drops keys and values, or `packed` with an attention
            implementation that takes no mask.
    """
    features = image_features(model, prompts) if features is None else features
    scoring = partial(scored, bare(model).lm_head, temperature=temperature, with_entropy=with_entropy)
    forward = _packed if layout == "packed" else _cached
    return forward(model, prompts, features, completions, mask, scoring)


def _packed(
    model: Any, prompts: VisionTextBatch, features: Any, completions: Tensor, mask: Tensor, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    row = pack(prompts, mrope_positions(model, prompts), completions, mask)
    count = len(prompts.input_ids)
    with scoring(completions.reshape(count, -1), mask.reshape(count, -1)):
        out = model(
            input_ids=row.input_ids,
            position_ids=row.positions,
            mm_token_type_ids=row.mm_token_type_ids,
            mm_encoder_outputs={"image": features},
            logits_to_keep=row.predicted_at,
            use_cache=False,
            **_who_sees_whom(bare(model), row, prompts.attention_mask),
        )
    logps, entropy = out.logits.view(*completions.shape, 2).unbind(-1)
    return logps, entropy


@dataclass(frozen=True)
class PackedRows:
    """N rows of S tokens: a prompt of P, then its K completions without their last tokens, which predict nothing.

    Attributes:
        input_ids: (N, S) long.
        positions: (3, N, S) long, of mRoPE.
        mm_token_type_ids: (N, S) long.
        segments: (N, S) long, 0 on the prompt, 1..K on its completions, -1 on padding.
        columns: (N, K, T) long, where a completion's token stands; of a last token or padding, where it would.
        predicted_at: (N, K*T) long, the column whose hidden state predicts a completion's token.
    """

    input_ids: Tensor
    positions: Tensor
    mm_token_type_ids: Tensor
    segments: Tensor
    columns: Tensor
    predicted_at: Tensor


def pack(prompts: VisionTextBatch, positions: Tensor, completions: Tensor, mask: Tensor) -> PackedRows:
    """Lay each prompt and its completions out in one row.

    Args:
        prompts: N prompts, padded on the left to P tokens.
        positions: (3, N, P) mRoPE positions of the prompts.
        completions: (N*K, T) token ids.
        mask: (N*K, T), 1 on real tokens, which stand before the padding.
    """
    count, width = prompts.input_ids.shape
    k = len(completions) // count
    lengths = mask.sum(1).view(count, k)
    fed = (lengths - 1).clamp(min=0)
    begins = width + fed.cumsum(1) - fed
    steps = torch.arange(completions.shape[1], device=mask.device)
    columns = begins.unsqueeze(-1) + steps
    # Places and not a mask: a card makes the host wait wherever a mask is an index.
    inside = (steps < fed.unsqueeze(-1)).nonzero(as_tuple=True)
    total = width + int(fed.sum(1).max())
    at = (inside[0], columns[inside])

    def lay(prompt: Tensor, fill: int, values: Tensor) -> Tensor:
        row = prompt.new_full((count, total), fill)
        row[:, :width] = prompt
        row[at] = values
        return row

    first = positions.amax(dim=(0, 2)) + 1
    after = (first.view(-1, 1, 1) + steps).expand_as(columns)[inside]
    prompt_segments = torch.where(prompts.attention_mask.bool(), PROMPT, PADDING)
    # The first token is predicted at the prompt's end, any other one column before where it would stand.
    predicted_at = torch.where(steps == 0, width - 1, columns - 1)
    predicted_at = torch.where(steps < lengths.unsqueeze(-1), predicted_at, width - 1)
    return PackedRows(
        input_ids=lay(prompts.input_ids, 0, completions.reshape(count, k, -1)[inside]),
        positions=torch.stack([lay(p, 0, after) for p in positions]),
        mm_token_type_ids=lay(prompts.mm_token_type_ids, 0, torch.zeros_like(after)),
        segments=lay(prompt_segments, PADDING, inside[1] + 1),
        columns=columns,
        predicted_at=predicted_at.flatten(1),
    )


def _who_sees_whom(model: Any, row: PackedRows, prompt_mask: Tensor) -> dict[str, Any]:
    """Arguments of the forward pass that let a packed token see its own segment so far, and the prompt."""
    config = model.config.get_text_config()
    if config._attn_implementation in ("sdpa", NAME):
        register()
        # For good: activation checkpointing calls the attention again in the backward pass.
        config._attn_implementation = NAME
        return {"segments": _segments(row, prompt_mask)}
    if config._attn_implementation == "flex_attention":
        return {"attention_mask": _block_mask(row.segments)}
    if config._attn_implementation == "eager":
        lowest = torch.finfo(model.dtype).min
        seen = _dense_mask(row.segments).unsqueeze(1)
        return {"attention_mask": torch.zeros_like(seen, dtype=model.dtype).masked_fill(~seen, lowest)}
    raise ValueError(
        f"shared_prefix=packed has no mask for attention={config._attn_implementation}; "
        "set attention to sdpa or flex_attention, or shared_prefix to cache"
    )


def _segments(row: PackedRows, prompt_mask: Tensor) -> Segments:
    count, width = prompt_mask.shape
    _, k, steps = row.columns.shape
    total = row.segments.shape[1]
    # Without the last column of T: no completion is longer without its last token.
    columns = row.columns[:, :, : steps - 1]
    ends = torch.cat([row.columns[:, 1:, :1], columns.new_full((count, 1, 1), total)], dim=1)
    inside = (columns < ends).nonzero(as_tuple=True)
    number = torch.arange(count, device=columns.device).view(-1, 1, 1)
    slots = torch.arange(columns.numel(), device=columns.device).view(columns.shape)
    inverse = torch.zeros(count, total - width, dtype=torch.long, device=columns.device)
    inverse[inside[0], columns[inside] - width] = slots[inside]
    return Segments(
        width=width,
        unseen=None if bool(prompt_mask.all()) else (prompt_mask == 0)[:, None, None],
        columns=(columns.clamp(max=total - 1) + number * total).flatten(),
        slots=inverse.flatten(),
        k=k,
    )


def _dense_mask(segments: Tensor) -> Tensor:
    """(N, S, S) bool, from the segments of packed rows."""
    order = torch.arange(segments.shape[1], device=segments.device)
    mine, other = segments.unsqueeze(2), segments.unsqueeze(1)
    # Padding sees padding before it, so that no row of the softmax is empty.
    return ((mine == other) | (other == PROMPT)) & (order[:, None] >= order)


def _block_mask(segments: Tensor) -> Any:
    """`_dense_mask` for FlexAttention, which skips whole blocks."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Tensor, _h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        mine, other = segments[b, q], segments[b, kv]
        return (q >= kv) & ((mine == other) | (other == PROMPT))

    count, total = segments.shape
    device = segments.device.type
    return create_block_mask(sees, count, None, total, total, device, _compile=device != "cpu")


@dataclass
class Prefill:
    """Prompts that went through the model once.

    Attributes:
        cache: keys and values of N prompts, branched in place by its users; None if they are not kept.
        logits: what the head said of the last prompt token: (N, V), or another shape where it is `scored`.
        attention_mask: (N, P) long.
        next_position: (N,) long, the mRoPE position of the first completion token (the same in all three rows).
    """

    cache: Any
    logits: Tensor
    attention_mask: Tensor
    next_position: Tensor


def prefill(
    model: Any, prompts: VisionTextBatch, features: Any = None, repeats: int = 1, use_cache: bool = True
) -> Prefill:
    """Run N prompts through the model once, keeping their keys and values (and the graph, if gradients are on).

    Args:
        model: from `open_model`.
        prompts: N prompts, padded on the left.
        features: from `image_features`, if they were computed before.
        repeats: how many times the head is asked about the last token.
        use_cache: False keeps no keys and values, where only `logits` are wanted.
    """
    positions = mrope_positions(model, prompts)
    last = torch.full((repeats,), prompts.input_ids.shape[1] - 1, device=positions.device)
    out = model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=positions,
        mm_token_type_ids=prompts.mm_token_type_ids,
        mm_encoder_outputs={"image": image_features(model, prompts) if features is None else features},
        logits_to_keep=last,
        use_cache=use_cache,
    )
    return Prefill(
        cache=out.past_key_values,
        logits=out.logits if repeats > 1 else out.logits[:, 0],
        attention_mask=prompts.attention_mask,
        next_position=positions.amax(dim=(0, 2)) + 1,
    )


def _cached(
    model: Any, prompts: VisionTextBatch, features: Any, completions: Tensor, mask: Tensor, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    base = bare(model)
    if base.training and base.is_activation_checkpointing:
        raise ValueError("shared_prefix=cache keeps what gradient_checkpointing drops; set shared_prefix to packed")
    count, k = len(prompts.input_ids), len(completions) // len(prompts.input_ids)
    with scoring(completions[:, 0].reshape(count, k), mask[:, 0].reshape(count, k)):
        start = prefill(model, prompts, features, repeats=k)
    first = start.logits.view(count * k, 1, 2)
    if completions.shape[1] == 1:
        logps, entropy = first.unbind(-1)
        return logps, entropy
    start.cache.batch_repeat_interleave(k)
    steps = torch.arange(completions.shape[1] - 1, device=completions.device)
    positions = start.next_position.repeat_interleave(k)[:, None] + steps
    with scoring(completions[:, 1:], mask[:, 1:]):
        out = model(
            input_ids=completions[:, :-1],
            attention_mask=torch.cat([start.attention_mask.repeat_interleave(k, 0), mask[:, :-1].long()], dim=1),
            position_ids=positions.expand(3, -1, -1),
            past_key_values=start.cache,
            use_cache=True,
        )
    logps, entropy = torch.cat([first, out.logits], dim=1).unbind(-1)
    return logps, entropy
