"""Rollouts: K sampled completions for each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from redaes.models.processor import VisionTextBatch, VisionTextProcessor


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        k: completions per prompt.
        temperature: > 0 to sample; 0 takes the most probable token (greedy).
        max_new_tokens: a completion that reaches it is truncated.
    """

    k: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Completions:
    """K consecutive rows for each of N prompts; tensors on the prompts' device.

    Attributes:
        tokens: (N*K, T) long, padded on the right.
        mask: (N*K, T) long, 1 on real tokens, the end-of-turn token included.
        logprobs: (N*K, T) float, of the sampling pass; 0 outside the mask.
        truncated: (N*K,) bool, True where no end was reached.
        texts: N*K decoded strings.
        exact: the training model itself sampled, so that `logprobs` are those of a training pass.
    """

    tokens: "Tensor"
    mask: "Tensor"
    logprobs: "Tensor"
    truncated: "Tensor"
    texts: list[str]
    exact: bool = False

    def replaced(self, prompts: "Tensor", fresh: "Completions") -> "Completions":
        """The same with other completions for some prompts.

        Args:
            prompts: (n,) long, numbers of the prompts.
            fresh: K completions for each of these.
        """
        import torch

        k = len(fresh.texts) // len(prompts)
        rows = (prompts[:, None] * k + torch.arange(k)).flatten()
        width = max(self.tokens.shape[1], fresh.tokens.shape[1])

        def merged(before: "Tensor", after: "Tensor") -> "Tensor":
            whole = torch.nn.functional.pad(before, (0, width - before.shape[1]))
            whole[rows.to(whole.device)] = torch.nn.functional.pad(after, (0, width - after.shape[1]))
            return whole

        mask = merged(self.mask, fresh.mask)
        used = int(mask.sum(1).max())
        texts, truncated = list(self.texts), self.truncated.clone()
        truncated[rows.to(truncated.device)] = fresh.truncated
        for row, text in zip(rows.tolist(), fresh.texts, strict=True):
            texts[row] = text
        return Completions(
            tokens=merged(self.tokens, fresh.tokens)[:, :used],
            mask=mask[:, :used],
            logprobs=merged(self.logprobs, fresh.logprobs)[:, :used],
            truncated=truncated,
            texts=texts,
            exact=self.exact and fresh.exact,
        )


@runtime_checkable
class Rollout(Protocol):
    """The contract of the entry-point group `redaes.rollouts`."""

    def __call__(
        self,
        model: Any,
        processor: "VisionTextProcessor",
        prompts: "VisionTextBatch",
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        features: Any = None,
    ) -> Completions:
        """Sample completions. In a training on several processes, all of them call it equally often.

        Args:
            model: the policy, from `open_model`.
            processor: its processor.
            prompts: N prompts.
            sampling: how completions are drawn.
            seeds: N seeds; a prompt's completions follow from the weights, the prompt and its seed, whatever else is in
                the batch or on other processes. None draws fresh ones.
            features: the prompts' image features if they are at hand.
        """
        ...
