"""Rollouts in this process: prefill each prompt once, branch K ways (`models.decoding`), sample token by token.

Finished rows leave the batch, so a long completion does not make the short ones wait. Image and vision tokens are
never sampled (a sampled image placeholder would ask for image features that do not exist). A completion ends at the
end-of-turn token or at `</answer>`, whichever comes first: nothing after the answer can change its score.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redaes.models.decoding import Branches
from redaes.models.processor import VisionTextBatch, VisionTextProcessor
from redaes.models.vlm import bare
from redaes.rollout import Completions, Sampling

ANSWER_END = "</answer>"


def suppressed_tokens(model: Any) -> list[int]:
    """Ids that must never be sampled: image, video and vision markers."""
    config = bare(model).config
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return sorted({int(getattr(config, n)) for n in names if getattr(config, n, None) is not None})


class InProcessRollout:
    """Sampling with the training model itself.

    Args:
        stop_at_answer: end a completion at `</answer>` instead of at the end-of-turn token.
    """

    def __init__(self, stop_at_answer: bool = True) -> None:
        self.stop_at_answer = stop_at_answer

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        processor: VisionTextProcessor,
        prompts: VisionTextBatch,
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        features: Any = None,
    ) -> Completions:
        """Sample K completions of each of N prompts; see `Completions` for shapes."""
        was_training = model.training
        model.eval()
        try:
            return self._sample(model, processor, prompts, sampling, seeds, features)
        finally:
            model.train(was_training)

    def _sample(
        self,
        model: Any,
        processor: VisionTextProcessor,
        prompts: VisionTextBatch,
        sampling: Sampling,
        seeds: Sequence[int] | None,
        features: Any,
    ) -> Completions:
        branches = Branches(model, prompts, sampling.k, sampling.max_new_tokens, features)
        rows, device = branches.logits.shape[0], branches.logits.device
        tokens = torch.full((rows, sampling.max_new_tokens), processor.pad_id, device=device)
        logprobs = torch.zeros((rows, sampling.max_new_tokens), dtype=torch.float32, device=device)
        mask = torch.zeros((rows, sampling.max_new_tokens), dtype=torch.long, device=device)
        forbidden = torch.tensor(suppressed_tokens(model), device=device)
        finished = torch.zeros(rows, dtype=torch.bool, device=device)
        live = torch.arange(rows, device=device)
        draws = _uniform(seeds, rows // sampling.k, sampling).to(device)
        tails = [""] * rows
        for step in range(sampling.max_new_tokens):
            token, logprob = _draw(branches.logits, forbidden, sampling.temperature, draws[live, step])
            tokens[live, step], logprobs[live, step], mask[live, step] = token, logprob, 1
            ended = self._ended(processor, live.tolist(), token.tolist(), tails)
            if any(ended):
                finished[live] = torch.tensor(ended, device=device)
                keep = (~finished[live]).nonzero().squeeze(1)
                live, token = live[keep], token[keep]
                if len(live) == 0:
                    break
                branches.keep(keep)
            if step + 1 < sampling.max_new_tokens:
                branches.step(token)
        used = int(mask.sum(1).max())
        tokens = tokens[:, :used]
        return Completions(tokens, mask[:, :used], logprobs[:, :used], ~finished, processor.decode(tokens), exact=True)

    def _ended(
        self, processor: VisionTextProcessor, rows: list[int], tokens: list[int], tails: list[str]
    ) -> list[bool]:
        """Which of the live rows end with this token; `tails` keeps the last characters of every row."""
        ends = []
        for row, token in zip(rows, tokens, strict=True):
            tails[row] = (tails[row] + processor.token_text(token))[-2 * len(ANSWER_END) :]
            ends.append(token == processor.eos_id or (self.stop_at_answer and ANSWER_END in tails[row]))
        return ends


def _uniform(seeds: Sequence[int] | None, prompts: int, sampling: Sampling) -> Tensor:
    """(N*K, max_new_tokens) numbers in [0, 1), each prompt's from its own seed."""
    shape = (sampling.k, sampling.max_new_tokens)
    generators = [np.random.default_rng(seed) for seed in seeds] if seeds else [np.random.default_rng()] * prompts
    rows = [generator.random(shape, np.float32) for generator in generators]
    return torch.from_numpy(np.concatenate(rows))


def _draw(logits: Tensor, forbidden: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row of (B, V) logits and its log-probability under the whole, untruncated distribution.

    The token is where the cumulated probability passes a (B,) uniform number: one number a token, from anywhere.
    """
    probabilities = torch.softmax(logits.float() / (temperature or 1.0), dim=-1)
    allowed = probabilities.index_fill(-1, forbidden, 0.0)
    if temperature == 0:
        token = allowed.argmax(-1)
    else:
        cumulated = allowed.cumsum(-1, dtype=torch.float64)
        # A token of probability 0 adds nothing to the sum and is therefore never the first to pass the number.
        token = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True).squeeze(-1)
        token = token.clamp(max=logits.shape[-1] - 1)
    return token, probabilities.gather(-1, token[:, None]).squeeze(-1).log()
