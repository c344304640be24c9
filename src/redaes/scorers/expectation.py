"""The expected score over the tokens of one forward pass, nothing generated: `logit_expectation`.

`digits`: a redaes checkpoint is made to begin with `<answer>`, and the digits that may follow are weighed. It is not
the paper's way of scoring: the model does not reason first, and 10 is read as 1 [ours]. `levels`: any vision-language
model and Q-Align's five words, weighed 1, 0.75, 0.5, 0.25 and 0 (Q-Future/Q-Align). No answer can fail to be read.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redaes.chat.local import Local, LocalModel
from redaes.errors import UserError
from redaes.inference import Score
from redaes.models.vlm import Backbone, checkpoint_path, open_model
from redaes.prompts import render
from redaes.scorers.questions import digest, opened, require_samples, template

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

WORDS = {"digits": [str(digit) for digit in range(10)], "levels": ["bad", "poor", "fair", "good", "excellent"]}
# A first digit stands for the ten scores that begin with it: 6 for 6.0 to 6.9.
VALUES = {"digits": [digit + 0.45 for digit in range(10)], "levels": [0.0, 2.5, 5.0, 7.5, 10.0]}


class LogitExpectationScorer:
    """Expected score of the next token. Weights are opened at the first use.

    Args:
        model: `nano`, a checkpoint directory or a hub id.
        batch_size: images in one forward pass.
        device: where the model runs; None takes a GPU if there is one.
        tokens: `digits` of a redaes checkpoint, or five `levels` of any vision-language model.

    Raises:
        UserError: a setting that cannot be.
    """

    deterministic = True

    def __init__(
        self,
        model: str = "nano",
        batch_size: int = 16,
        device: str | None = None,
        tokens: Literal["digits", "levels"] = "digits",
    ) -> None:
        if tokens not in WORDS:
            raise UserError(f"tokens is {tokens!r}; it must be digits or levels")
        require_samples(1, batch_size)
        self.batch_size = batch_size
        self.tokens = tokens
        self._local = Local(checkpoint_path(model), device=device)
        self._device = device

    @property
    def fingerprint(self) -> str:
        """All that its answers depend on."""
        words = render("score") if self.tokens == "digits" else template("levels.v1")
        return digest(
            self._local.model, {"weights": self._local.parameters["weights"], "tokens": self.tokens, "prompt": words}
        )

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """One score per image, in order; `text` is the likeliest of the tokens.

        Raises:
            ImageError: a path that cannot be read as an image.
            UserError: the model cannot be opened, or its tokens do not tell the words apart.
        """
        import torch

        scores = []
        for start in range(0, len(images), self.batch_size):
            batch = [opened(image) for image in images[start : start + self.batch_size]]
            with torch.inference_mode():
                logits = self._digits(batch) if self.tokens == "digits" else self._levels(batch)
            shares = logits.double().softmax(-1)
            values = (shares @ torch.tensor(VALUES[self.tokens], dtype=shares.dtype, device=shares.device)).tolist()
            likeliest = shares.argmax(-1).tolist()
            scores += [Score(v, "", WORDS[self.tokens][k]) for v, k in zip(values, likeliest, strict=True)]
        return scores

    @cached_property
    def _ours(self) -> Any:
        import torch

        model, processor = open_model(Backbone(path=self._local.settings.model))
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.requires_grad_(False).eval().to(device), processor

    @cached_property
    def _any(self) -> LocalModel:
        return LocalModel(self._local.settings)

    def _digits(self, images: "list[Image]") -> "Tensor":
        import torch

        from redaes.models.forward import prefill

        model, processor = self._ours
        asked = processor.batch([[image] for image in images], [render("score")] * len(images)).to(model.device)
        begun = processor.tokenizer("<answer>", add_special_tokens=False)["input_ids"]
        added = torch.tensor([begun], device=model.device).expand(len(images), -1)
        ones = torch.ones_like(added)
        asked = replace(
            asked,
            input_ids=torch.cat([asked.input_ids, added], 1),
            attention_mask=torch.cat([asked.attention_mask, ones], 1),
            mm_token_type_ids=torch.cat([asked.mm_token_type_ids, 0 * ones], 1),
        )
        return prefill(model, asked).logits[:, _ids(processor.tokenizer, self.tokens)]

    def _levels(self, images: "list[Image]") -> "Tensor":
        model, processor = self._any.model, self._any.processor
        words = {"type": "text", "text": template("levels.v1")}
        asked = [[{"role": "user", "content": [{"type": "image", "image": image}, words]}] for image in images]
        logits: Tensor = model(**processor(asked).to(model.device)).logits[:, -1]
        return logits[:, _ids(processor.tokenizer, self.tokens)]


def _ids(tokenizer: Any, tokens: str) -> list[int]:
    """The first token of each word.

    Raises:
        UserError: two words begin with the same one.
    """
    ids = [int(tokenizer(word, add_special_tokens=False)["input_ids"][0]) for word in WORDS[tokens]]
    if len(set(ids)) < len(ids):
        raise UserError(f"this model's first tokens do not tell {', '.join(WORDS[tokens])} apart")
    return ids
