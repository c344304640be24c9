"""Rollouts in this process: prefill each prompt once, branch K ways (`models.decoding`), sample token by token.

Finished rows leave the batch, so a long completion does not make the short ones wait; on a GPU, where a step for all
rows takes about as long as one for a single row, they stay and the step is a CUDA graph (`models.graphs`). Image and
vision tokens are never sampled (a sampled image placeholder would ask for image features that do not exist). A
completion ends at the end-of-turn token or at `</answer>`, whichever comes first: nothing after the answer can change
its score.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redaes.models.decoding import Branches
from redaes.models.graphs import FixedBranches, can_be_captured
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
        cuda_graph: on a GPU, launch each token's work at once (`models.graphs`) where the model's weights allow it.
    """

    def __init__(self, stop_at_answer: bool = True, cuda_graph: bool = True) -> None:
        self.stop_at_answer = stop_at_answer
        self.cuda_graph = cuda_graph

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
        branches = self._branches(model, prompts, sampling, features)
        rows, device = branches.logits.shape[0], branches.logits.device
        tokens = torch.full((rows, sampling.max_new_tokens), processor.pad_id, device=device)
        logprobs = torch.zeros((rows, sampling.max_new_tokens), dtype=torch.float32, device=device)
        forbidden = torch.tensor(suppressed_tokens(model), device=device)
        draws = _uniform(seeds, rows // sampling.k, sampling).to(device)
        there, live = list(range(rows)), torch.arange(rows, device=device)
        tails, lengths = [""] * rows, dict[int, int]()
        for step in range(sampling.max_new_tokens):
            token, logprob = _draw(branches.logits, forbidden, sampling.temperature, draws[live, step])
            tokens[live, step], logprobs[live, step] = token, logprob
            for row, drawn in zip(there, token.tolist(), strict=True):
                if row not in lengths and self._ends(processor, row, drawn, tails):
                    lengths[row] = step + 1
            if len(lengths) == rows:
                break
            going = [place for place, row in enumerate(there) if row not in lengths]
            if branches.shrinks and len(going) < len(there):
                there, keep = [there[place] for place in going], torch.tensor(going, device=device)
                live, token = live[keep], token[keep]
                branches.keep(keep)
            if step + 1 < sampling.max_new_tokens:
                branches.step(token)
        return self._completions(processor, tokens, logprobs, lengths)

    def _branches(self, model: Any, prompts: VisionTextBatch, sampling: Sampling, features: Any) -> Branches:
        kind = FixedBranches if self.cuda_graph and can_be_captured(model) else Branches
        return kind(model, prompts, sampling.k, sampling.max_new_tokens, features)

    def _ends(self, processor: VisionTextProcessor, row: int, token: int, tails: list[str]) -> bool:
        """Whether a row ends with this token; `tails` keeps the last characters of every row."""
        tails[row] = (tails[row] + processor.token_text(token))[-2 * len(ANSWER_END) :]
        return token == processor.eos_id or (self.stop_at_answer and ANSWER_END in tails[row])

    @staticmethod
    def _completions(
        processor: VisionTextProcessor, tokens: Tensor, logprobs: Tensor, lengths: dict[int, int]
    ) -> Completions:
        """What was drawn for every row, up to its end where it has one in `lengths`."""
        rows, most = tokens.shape
        used = [lengths.get(row, most) for row in range(rows)]
        longest, device = max(used), tokens.device
        drawn = torch.arange(longest, device=device) < torch.tensor(used, device=device)[:, None]
        tokens = tokens[:, :longest].masked_fill(~drawn, processor.pad_id)
        return Completions(
            tokens=tokens,
            mask=drawn.long(),
            logprobs=logprobs[:, :longest].masked_fill(~drawn, 0.0),
            truncated=torch.tensor([row not in lengths for row in range(rows)], device=device),
            texts=processor.decode(tokens),
            exact=True,
        )


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
