"""The forward passes of training and rollouts: logits only where an answer token is predicted, prompts only once.

`answer_logprobs` is the plain pass (a row is prompt and answer). `prefill` + `branch_logprobs` is the shared-prefix
pass of GRPO: each image goes through the tower once, each prompt through the language part once, and the K outputs
of an image branch off its cached keys and values. Both give the same numbers (tests/models/test_forward.py).

Image features and mRoPE positions are passed explicitly: what is left to be inferred inside the model depends on
state of an earlier call, and a missing `mm_token_type_ids` shifts every log-probability without an error.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redaes.models.features import image_features
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import bare


def mrope_positions(model: Any, batch: VisionTextBatch) -> Tensor:
    """(3, B, L) positions in time, height and width of every token."""
    positions: Tensor
    positions, _ = bare(model).model.get_rope_index(
        batch.input_ids,
        mm_token_type_ids=batch.mm_token_type_ids,
        image_grid_thw=batch.image_grid_thw,
        attention_mask=batch.attention_mask,
    )
    return positions


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of its distribution.

    Args:
        logits: (B, T, V), for the position that predicts each token.
        tokens: (B, T) long.
        temperature: of the distribution that was sampled from, > 0.

    Returns:
        log-probabilities (B, T) and entropies (B, T) in nats, float32 or float64.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logps = torch.log_softmax(logits / temperature, dim=-1)
    entropy = -(logps.detach().exp() * logps.detach()).sum(-1)
    return logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), entropy


def answer_logprobs(
    model: Any, batch: VisionTextBatch, temperature: float = 1.0, features: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain forward over whole rows.

    Args:
        model: from `open_model`.
        batch: B rows of prompt and answer, padded on the left.
        temperature: of the sampling distribution.
        features: from `image_features`, if they were computed before.

    Returns:
        log-probabilities, entropies and mask of the answer tokens, each (B, T) with T = `batch.answer_length`;
        values outside the mask mean nothing.
    """
    if batch.labels is None:
        raise ValueError("the batch holds prompts alone; encode it with answers")
    length = batch.answer_length
    out = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=mrope_positions(model, batch),
        mm_token_type_ids=batch.mm_token_type_ids,
        mm_encoder_outputs={"image": image_features(model, batch) if features is None else features},
        logits_to_keep=length + 1,
        use_cache=False,
    )
    labels = batch.labels[:, -length:]
    mask = labels != -100
    logps, entropy = token_logprobs(out.logits[:, :-1], labels.clamp(min=0), temperature)
    return logps, entropy, mask


@dataclass
class Prefill:
    """Prompts that went through the model once.

    Attributes:
        cache: keys and values of N prompts, branched in place by its users.
        logits: (N, V), the distribution of the first completion token.
        attention_mask: (N, P) long.
        next_position: (N,) long, the mRoPE position of the first completion token (the same in all three rows).
    """

    cache: Any
    logits: Tensor
    attention_mask: Tensor
    next_position: Tensor


def prefill(model: Any, prompts: VisionTextBatch, features: Any = None) -> Prefill:
    """Run N prompts through the model once, keeping their keys and values (and the graph, if gradients are on)."""
    positions = mrope_positions(model, prompts)
    out = model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=positions,
        mm_token_type_ids=prompts.mm_token_type_ids,
        mm_encoder_outputs={"image": image_features(model, prompts) if features is None else features},
        logits_to_keep=1,
        use_cache=True,
    )
    return Prefill(
        cache=out.past_key_values,
        logits=out.logits[:, -1],
        attention_mask=prompts.attention_mask,
        next_position=positions.amax(dim=(0, 2)) + 1,
    )


def branch_logprobs(
    model: Any,
    prompts: VisionTextBatch,
    completions: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    features: Any = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of K completions of each of N prompts; each prompt is computed once.

    Args:
        model: from `open_model`.
        prompts: N prompts, padded on the left.
        completions: (N*K, T) token ids, padded on the right, K consecutive rows per prompt.
        mask: (N*K, T), 1 on real tokens.
        temperature: of the sampling distribution.
        features: from `image_features`, if they were computed before.

    Returns:
        log-probabilities and entropies, each (N*K, T); values outside the mask mean nothing.
    """
    start = prefill(model, prompts, features)
    rows, length = completions.shape
    k = rows // start.logits.shape[0]
    start.cache.batch_repeat_interleave(k)
    steps = torch.arange(length, device=completions.device)
    positions = start.next_position.repeat_interleave(k)[:, None] + steps
    out = model(
        input_ids=completions,
        attention_mask=torch.cat([start.attention_mask.repeat_interleave(k, 0), mask.long()], dim=1),
        position_ids=positions.expand(3, -1, -1),
        past_key_values=start.cache,
        use_cache=True,
    )
    logits = torch.cat([start.logits.repeat_interleave(k, 0)[:, None], out.logits[:, :-1]], dim=1)
    return token_logprobs(logits, completions, temperature)
