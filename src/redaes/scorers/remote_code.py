"""Models that score with the code of their own checkpoint, over 101 two-letter tokens: ArtiMuse and UniPercept.

Both are InternVL. The question asks for a score from 0 to 100 written as two letters; the score is its expectation over
these tokens in one forward pass, so no answer can fail to be read. The authors' repositories have a method `score`
for it, and where a checkpoint brings one it is used. ArtiMuse's checkpoint on the Hub brings InternVL's `chat` alone.
There the expectation is taken here, of the first token that `chat` generates, from the repository's question and in
its arithmetic (that of the weights' type, as coarse as half a point of 100 in bfloat16).
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from redaes.errors import UserError
from redaes.inference import Score
from redaes.scorers.questions import digest, opened, to_ten

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = tuple(first + second for first, n in (("a", 26), ("c", 25), ("d", 25), ("e", 25)) for second in _LETTERS[:n])
"""What the scores 0 to 100 are written as."""

_INDENT = "\n        "
ARTIMUSE_QUESTION = (
    _INDENT
    + _INDENT.join(
        (
            "Rate the aesthetics score of the image in 0-100. ",
            "In the output format, numbers are replaced by 2 corresponding letters, ",
            "and the mapping relationship is: ",
            "score 0 to 25: 0-aa, 1-ab, 2-ac, 3-ad, ... , 25-az,",
            "score 26 to 50: 26-ca, 27-cb, 28-cc, 29-cd, ..., 50-cy,",
            "score 51 to 75: 51-da, 52-db, 53-dc, 54-dd, ..., 75-dy,",
            "score 76 to 100: 76-ea, 77-eb, 78-ec, 79-ed, ..., 100-ey.\n",
            "The answer only outputs 2 corresponding letters.",
        )
    )
    + _INDENT
)
# With the repository's slip: 73-ec and 74-ed, which stand for 78 and 79.
UNIPERCEPT_QUESTION = (
    "<image>Rate the aesthetics score of the image in 0-100. In the output format, numbers are replaced by 2 "
    "corresponding letters, and the mapping relationship is: score 0 to 25: 0-aa, 1-ab, 2-ac, 3-ad, ... , 25-az, \n"
    "score 26 to 50: 26-ca, 27-cb, 28-cc, 29-cd, ..., 50-cy, \n"
    "score 51 to 75: 51-da, 52-db, 53-dc, 54-dd, ..., 75-dy, \n"
    "score 76 to 100: 76-ea, 77-eb, 73-ec, 74-ed, ..., 100-ey. \n"
    "The answer only outputs 2 corresponding letters."
)


class ArtiMuseScorer:
    """ArtiMuse (thunderbolt215/ArtiMuse), 0 to 100, on a bicubic square of 448 pixels.

    Args:
        model: a checkpoint directory or a hub id.
        batch_size: of no meaning here: its code takes one image.
        device: where the model runs; None takes a GPU if there is one.
        trust_remote_code: must be true: the checkpoint's code runs on this machine.
    """

    default: ClassVar[str] = "Thunderbolt215215/ArtiMuse"
    words: ClassVar[tuple[str, ...]] = ()
    question: ClassVar[str] = ARTIMUSE_QUESTION
    deterministic = True

    def __init__(
        self, model: str = "", batch_size: int = 1, device: str | None = None, trust_remote_code: bool = False
    ) -> None:
        self.model, self.device, self.trusted = model or self.default, device, trust_remote_code
        identity = {"model": self.model, "words": self.words, "question": self.question}
        self.fingerprint = digest(type(self).__name__, identity)

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """One score per image, in order.

        Raises:
            ImageError: a path that cannot be read as an image.
            UserError: no consent to the checkpoint's code, or code of another model.
        """
        return [self._one(opened(image)) for image in images]

    @cached_property
    def _opened(self) -> tuple[Any, Any, str]:
        import torch
        from transformers import AutoTokenizer

        if not self.trusted:
            raise UserError(f"{self.model} runs its own code; set trust_remote_code: true if you trust it")
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = _model_class(self.model).from_pretrained(self.model, dtype=torch.bfloat16).eval().to(device)
        return model, AutoTokenizer.from_pretrained(self.model, trust_remote_code=True, use_fast=False), device

    def _one(self, image: "Image") -> Score:
        import numpy as np
        import torch

        model, tokenizer, device = self._opened
        square = np.asarray(image.resize((448, 448), 3), dtype=np.float32) / 255
        pixels = (square - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        tensor = torch.tensor(pixels.transpose(2, 0, 1)[None]).to(device, torch.bfloat16)
        with torch.inference_mode():
            if hasattr(model, "score"):
                said = model.score(device, tokenizer, tensor, {"max_new_tokens": 512, "do_sample": False}, *self.words)
                value = float(said[0] if isinstance(said, list | tuple) else said)
            else:
                value = self._expected(model, tokenizer, tensor)
        return Score(to_ten(value, 0, 100) if 0 <= value <= 100 else None, "", f"{value}")

    def _expected(self, model: Any, tokenizer: Any, pixels: "Tensor") -> float:
        """The expected score of the token with which `chat` begins its answer."""
        import torch
        from transformers import LogitsProcessorList

        ids = tokenizer.convert_tokens_to_ids(list(TOKENS))
        if len(set(ids)) < len(TOKENS):
            raise UserError(f"{self.model} does not know the {len(TOKENS)} tokens that scores are written as")
        seen: list[Tensor] = []

        def keep(_: "Tensor", logits: "Tensor") -> "Tensor":
            seen.append(logits)
            return logits

        decoding = {"max_new_tokens": 1, "do_sample": False, "logits_processor": LogitsProcessorList([keep])}
        model.chat(tokenizer, pixels, self.question, decoding)
        logits = seen[0][0, ids].to(pixels.dtype)
        return float(logits.softmax(-1) @ torch.arange(len(ids), device=logits.device).to(logits.dtype))


class UniPerceptScorer(ArtiMuseScorer):
    """UniPercept, asked for `aesthetics` (thunderbolt215/UniPercept); settings as of ArtiMuse."""

    default = "Thunderbolt215215/UniPercept"
    words = ("aesthetics",)
    question = UNIPERCEPT_QUESTION


def _model_class(model: str) -> Any:
    """The class that a checkpoint brings, fit for transformers 5.

    Raises:
        UserError: it brings none, or another than InternVL's.
    """
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = AutoConfig.from_pretrained(model, trust_remote_code=True)
    name = (getattr(config, "auto_map", None) or {}).get("AutoModel")
    found: Any = get_class_from_dynamic_module(name, model) if name else None
    if not (hasattr(found, "score") or hasattr(found, "chat")):
        raise UserError(f"{model} brings no code with `score` or `chat`; is it ArtiMuse or UniPercept?")
    if not hasattr(found, "all_tied_weights_keys"):
        # Made by `post_init`, which code written for transformers 4 does not call; these models tie no weights.
        found.all_tied_weights_keys = {}
    return found
