"""Scores as a reward for trainers of text-to-image models: one callable for the conventions that are in use.

    reward(images)                       -> tensor               a loop of your own
    reward(images, prompts, metadata)    -> (tensor, details)    ddpo-pytorch, TRL's former DDPOTrainer, flow_grpo
    reward(prompts=..., completions=...) -> list of floats       TRL's trainers, where completions are images

Nothing is differentiable: a score is read from words. It is of one image, seen without its prompt.
"""

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from redaes.errors import UserError
from redaes.inference.images import Images, listed

if TYPE_CHECKING:
    from redaes.inference import ScorerProtocol

_log = logging.getLogger(__name__)


class Reward:
    """Scores images of a batch, in [0, 10]; `Scorer.as_reward()` makes one.

    An answer without a score gets the mean of its batch, which is a neutral advantage in the methods that subtract a
    mean, and 0 where no answer of the batch holds one. How many there were is counted.

    Args:
        scorer: gives the scores.

    Attributes:
        seen: images scored so far.
        unparsed: how many of them got the mean of their batch instead of a score.
    """

    def __init__(self, scorer: "ScorerProtocol") -> None:
        self.scorer = scorer
        self.seen = 0
        self.unparsed = 0
        self.__name__ = "redaes"  # under which trainers log it
        self._counting = threading.Lock()

    @overload
    def __call__(self, images: Images) -> Tensor: ...

    @overload
    def __call__(self, images: Images, prompts: Any, metadata: Any = None) -> tuple[Tensor, dict[str, Any]]: ...

    @overload
    def __call__(self, *, completions: Images, prompts: Any = None, **columns: Any) -> list[float]: ...

    def __call__(
        self,
        images: Images | None = None,
        prompts: Any = None,
        metadata: Any = None,
        *,
        completions: Images | None = None,
        **columns: Any,
    ) -> Tensor | tuple[Tensor, dict[str, Any]] | list[float]:
        """Score a batch.

        Args:
            images: N images: a tensor (N, C, H, W) in [0, 1], or a list of Pillow images, tensors or arrays.
            prompts: of no meaning to the score.
            metadata: of no meaning to the score.
            completions: N images, as TRL's trainers pass what was generated.
            columns: whatever else a trainer passes by keyword; ignored.

        Returns:
            (N,) float32, on the device of `images` where that is a tensor, else on the CPU; of the second form with a
            dict of `status`, `std` and `reasoning` of each image; of the third form as a list.

        Raises:
            ImageError: an image that cannot be used, by its number.
            UserError: no images, or images and completions.
        """
        if (images is None) == (completions is None):
            raise UserError("give the reward a batch of images, as `images` or as `completions`")
        if completions is not None:
            listed_values: list[float] = self._rewards(completions)[0].tolist()
            return listed_values
        assert images is not None
        rewards, scores = self._rewards(images)
        if prompts is None and metadata is None:
            return rewards
        return rewards, {name: [getattr(score, name) for score in scores] for name in ("status", "std", "reasoning")}

    def _rewards(self, images: Images) -> tuple[Tensor, Sequence[Any]]:
        device = images.device if isinstance(images, Tensor) else torch.device("cpu")
        batch: Any = listed(images)
        scores = self.scorer.score(batch)
        values = [score.value for score in scores if score.value is not None]
        fallback = sum(values) / len(values) if values else 0.0
        missing = len(scores) - len(values)
        with self._counting:
            self.seen += len(scores)
            self.unparsed += missing
        if missing:
            _log.warning("%d of %d images have no score; they get %.3f", missing, len(scores), fallback)
        rewards = [fallback if score.value is None else score.value for score in scores]
        return torch.tensor(rewards, dtype=torch.float32, device=device), scores
