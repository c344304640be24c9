"""Models whose authors published how they are asked: Aes-R1."""

from collections.abc import Mapping
from typing import Any

from redaes.scorers.remote_code import ArtiMuseScorer, UniPerceptScorer
from redaes.scorers.vlm import HfVlmScorer

__all__ = ["AesR1Scorer", "ArtiMuseScorer", "UniPerceptScorer"]


class AesR1Scorer(HfVlmScorer):
    """Aes-R1 (`ssssmark/Aes-R1`) with its own prompt (ssssmark/AesR1, data/example.json), 1 to 5.

    The repository samples at temperature 0.6. Its example targets are 0.25 and 0.80, outside the range of its own
    prompt: a checkpoint that answers so is given with `low: 0, high: 1`.

    Args:
        model: a checkpoint directory or a hub id.
        batch_size: images generated for together.
        device: where the model runs; None takes a GPU if there is one.
        low: lowest score it answers with.
        high: highest score it answers with.
        samples: answers drawn for each image.
        sampling: arguments of `generate`; `{}` is greedy.
        seed: of the sampling.
        max_new_tokens: longest answer.
        longer_side: pixels that an image has at most; the repository allows 512 x 512 of them.
    """

    def __init__(
        self,
        model: str = "ssssmark/Aes-R1",
        batch_size: int = 8,
        device: str | None = None,
        low: float = 1.0,
        high: float = 5.0,
        samples: int = 1,
        sampling: Mapping[str, Any] | None = None,
        seed: int = 0,
        max_new_tokens: int = 1024,
        longer_side: int = 512,
    ) -> None:
        super().__init__(
            model,
            batch_size,
            device,
            prompt="aes_r1.v1",
            low=low,
            high=high,
            samples=samples,
            sampling={"temperature": 0.6} if sampling is None else sampling,
            seed=seed,
            max_new_tokens=max_new_tokens,
            longer_side=longer_side,
        )
