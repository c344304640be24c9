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
    """K consecutive rows for each of N prompts.

    Attributes:
        tokens: (N*K, T) long, padded on the right.
        mask: (N*K, T) long, 1 on real tokens, the end-of-turn token included.
        logprobs: (N*K, T) float, of the sampling pass; 0 outside the mask.
        truncated: (N*K,) bool, True where no end was reached.
        texts: N*K decoded strings.
    """

    tokens: "Tensor"
    mask: "Tensor"
    logprobs: "Tensor"
    truncated: "Tensor"
    texts: list[str]


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
        """Sample completions.

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
