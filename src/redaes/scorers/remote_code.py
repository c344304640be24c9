"""Models that score with the code of their own checkpoint, over 101 two-letter tokens: ArtiMuse and UniPercept."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from redaes.errors import UserError
from redaes.inference import Score
from redaes.scorers.questions import digest, opened, to_ten

if TYPE_CHECKING:
    from PIL.Image import Image


class ArtiMuseScorer:
    """ArtiMuse: the checkpoint's own `score`, 0 to 100, on a bicubic square of 448 pixels (thunderbolt215/ArtiMuse).

    Args:
        model: a checkpoint directory or a hub id.
        batch_size: of no meaning here: its code takes one image.
        device: where the model runs; None takes a GPU if there is one.
        trust_remote_code: must be true: the checkpoint's code runs on this machine.
    """

    default: ClassVar[str] = "Thunderbolt215215/ArtiMuse"
    words: ClassVar[tuple[str, ...]] = ()
    deterministic = True

    def __init__(
        self, model: str = "", batch_size: int = 1, device: str | None = None, trust_remote_code: bool = False
    ) -> None:
        self.model, self.device, self.trusted = model or self.default, device, trust_remote_code
        self.fingerprint = digest(type(self).__name__, {"model": self.model, "words": self.words})

    @cached_property
    def _opened(self) -> tuple[Any, Any, str]:
        import torch
        from transformers import AutoModel, AutoTokenizer

        if not self.trusted:
            raise UserError(f"{self.model} runs its own code; set trust_remote_code: true if you trust it")
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModel.from_pretrained(self.model, trust_remote_code=True, dtype=torch.bfloat16).eval().to(device)
        return model, AutoTokenizer.from_pretrained(self.model, trust_remote_code=True, use_fast=False), device

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """One score per image, in order."""
        return [self._one(opened(image)) for image in images]

    def _one(self, image: "Image") -> Score:
        import numpy as np
        import torch

        model, tokenizer, device = self._opened
        square = np.asarray(image.resize((448, 448), 3), dtype=np.float32) / 255
        pixels = (square - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        tensor = torch.tensor(pixels.transpose(2, 0, 1)[None]).to(device, torch.bfloat16)
        decoding = {"max_new_tokens": 512, "do_sample": False}
        with torch.inference_mode():
            value = float(model.score(device, tokenizer, tensor, decoding, *self.words))
        return Score(to_ten(value, 0, 100) if 0 <= value <= 100 else None, "", f"{value}")


class UniPerceptScorer(ArtiMuseScorer):
    """UniPercept, asked for `aesthetics` (thunderbolt215/UniPercept); settings as of ArtiMuse."""

    default = "Thunderbolt215215/UniPercept"
    words = ("aesthetics",)
