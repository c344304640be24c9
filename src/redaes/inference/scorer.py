"""The scorer of our own checkpoints: each image alone, one greedy answer, its number and its reasons.

The question is the one that stages 2 and 3 trained on. Decoding is greedy, so the same image always gets the same
score, alone or in a batch.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from redaes.data.images import VIEW_SIDE, open_image
from redaes.inference import Score
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import Backbone, open_model
from redaes.prompts import parse_answer, parse_reasoning, render
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout

__all__ = ["Score", "Scorer"]


class Scorer:
    """Scores photographs with a trained checkpoint.

    Args:
        model: `nano` (shipped with the package), a checkpoint directory, or a hub id.
        batch_size: images in one forward pass.
        max_new_tokens: longest answer; a longer one counts as a parse failure.
        device: `cpu`, `cuda`, `cuda:1`, ...; None takes a GPU if there is one.
        image_size: side of the square images are resized to; None takes what the checkpoint was trained with.

    Raises:
        UserError: `model` is not a checkpoint that redaes can open.

    Example:
        >>> from redaes import Scorer                                    # doctest: +SKIP
        >>> Scorer("nano").score(["holiday.jpg"])[0].value               # doctest: +SKIP
        6.4
    """

    def __init__(
        self,
        model: str = "nano",
        *,
        batch_size: int = 16,
        max_new_tokens: int = 256,
        device: str | None = None,
        image_size: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        opened, self.processor = open_model(Backbone(path=model, image_size=image_size))
        self.model: Any = opened.requires_grad_(False).eval().to(self.device)

    def score(self, images: Sequence[Image | str | Path]) -> list[Score]:
        """Score each image seen alone, in order.

        Args:
            images: Pillow images (any mode) or paths.

        Returns:
            One `Score` per image; its value is in [0, 10], or None where the answer could not be parsed.

        Raises:
            ImageError: a path that cannot be read as an image.
        """
        batches = [images[at : at + self.batch_size] for at in range(0, len(images), self.batch_size)]
        scores: list[Score] = []
        with ThreadPoolExecutor(1) as ahead:  # opens and cuts the next batch while the model answers the present one
            upcoming = ahead.submit(self._prepared, batches[0]) if batches else None
            for following in [*batches[1:], None][: len(batches)]:
                assert upcoming is not None
                prompts = upcoming.result()
                upcoming = ahead.submit(self._prepared, following) if following is not None else None
                scores += self._answers(prompts)
        return scores

    def _rgb(self, image: Image | str | Path) -> Image:
        if isinstance(image, Image):
            return image if image.mode == "RGB" else image.convert("RGB")
        return open_image(image, max_side=VIEW_SIDE)

    def _prepared(self, images: Sequence[Image | str | Path]) -> VisionTextBatch:
        return self.processor.batch([[self._rgb(i)] for i in images], [render("score")] * len(images))

    def _answers(self, prompts: VisionTextBatch) -> list[Score]:
        sampling = Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)
        texts = InProcessRollout()(self.model, self.processor, prompts.to(self.device), sampling).texts
        return [Score(parse_answer(t), parse_reasoning(t), t) for t in texts]
