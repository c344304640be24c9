"""The expected score over the tokens of one forward pass, nothing generated: `logit_expectation`.

`digits`: a redaes checkpoint is made to begin with `<answer>`, and the digits that may follow are weighed. It is not
the paper's way of scoring: the model does not reason first, and 10 is read as 1 [ours]. `levels`: any vision-language
model and Q-Align's five words, weighed 1, 0.75, 0.5, 0.25 and 0 (Q-Future/Q-Align), each with all of its spellings,
with and without a capital or a space before it [ours]. No answer can fail to be read.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redaes.chat.local import Local, LocalModel
from redaes.data.ahead import ahead
from redaes.data.images import image_size
from redaes.errors import UserError
from redaes.inference import Score
from redaes.models.vlm import Backbone, checkpoint_path, open_model
from redaes.prompts import render
from redaes.scorers.questions import digest, model_path, opened, require_samples, template

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from redaes.models.processor import VisionTextBatch

BEGUN = "<answer>"
READING = 2
"""Rises when the same logits come to mean another score: old answers are then not taken for new ones."""
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
        self._local = Local(checkpoint_path(model) if tokens == "digits" else model_path(model), device=device)
        self._device = device

    @property
    def fingerprint(self) -> str:
        """All that its answers depend on."""
        words = render("score") if self.tokens == "digits" else template("levels.v1")
        return digest(
            self._local.model,
            {"weights": self._local.parameters["weights"], "tokens": self.tokens, "prompt": words, "version": READING},
        )

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """One score per image, in order; `text` is the likeliest of the tokens.

        Raises:
            ImageError: a path that cannot be read as an image.
            UserError: the model cannot be opened, or its tokens do not tell the words apart.
        """
        import torch

        order = sorted(range(len(images)), key=lambda i: self._size(images[i]))
        batches = [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        scores: dict[int, Score] = {}
        shown = ([images[i] for i in batch] for batch in batches)
        # The next batch is prepared while the model looks at the present one.
        with closing(ahead(self._prepared, shown, held=1, threads=1)) as prepared:
            for batch, inputs in zip(batches, prepared, strict=True):
                with torch.inference_mode():
                    logits = self._logits(inputs)
                scores |= zip(batch, self._expected(logits), strict=True)
        return [scores[i] for i in range(len(images))]

    def _size(self, image: "Image | str | Path") -> int:
        """By what batches are sorted, so that little of one is padding: pixels where a model sees them as they come."""
        if self.tokens == "digits":
            return 0
        width, height = image_size(Path(image), str(image)) if isinstance(image, str | Path) else image.size
        return width * height

    def _prepared(self, images: "Sequence[Image | str | Path]") -> Any:
        shown = [opened(image) for image in images]
        if self.tokens == "digits":
            processor = self._ours[1]
            asked = processor.batch([[image] for image in shown], [render("score")] * len(shown))
            return _begun(asked, processor.tokenizer(BEGUN, add_special_tokens=False)["input_ids"])
        words = {"type": "text", "text": template("levels.v1")}
        parts = [[{"type": "image", "image": image}, words] for image in shown]
        return self._any.processor([[{"role": "user", "content": content}] for content in parts])

    def _logits(self, inputs: Any) -> "Tensor":
        """(B, words) of a prepared batch, each word's over all of its spellings."""
        import torch

        if self.tokens == "digits":
            from redaes.models.forward import prefill

            model = self._ours[0]
            last = prefill(model, inputs.to(model.device), use_cache=False).logits
        else:
            model = self._any.model
            # Of a model whose code comes with its checkpoint nobody knows.
            only_last = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
            last = model(**inputs.to(model.device), use_cache=False, **only_last).logits[:, -1]
        return torch.stack([last[:, ids].double().logsumexp(-1) for ids in self._spellings], -1)

    def _expected(self, logits: "Tensor") -> list[Score]:
        import torch

        shares = logits.softmax(-1)
        values = (shares @ torch.tensor(VALUES[self.tokens], dtype=shares.dtype, device=shares.device)).tolist()
        words = [WORDS[self.tokens][k] for k in shares.argmax(-1).tolist()]
        return [Score(value, "", word) for value, word in zip(values, words, strict=True)]

    @cached_property
    def _ours(self) -> Any:
        import torch

        model, processor = open_model(Backbone(path=self._local.settings.model))
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.requires_grad_(False).eval().to(device), processor

    @cached_property
    def _spellings(self) -> list[list[int]]:
        processor = self._ours[1] if self.tokens == "digits" else self._any.processor
        return answer_tokens(processor.tokenizer, self.tokens)

    @cached_property
    def _any(self) -> LocalModel:
        return LocalModel(self._local.settings)


def answer_tokens(tokenizer: Any, tokens: Literal["digits", "levels"]) -> list[list[int]]:
    """For each word the tokens with which an answer may begin it, whatever the tokenizer makes of spaces and capitals.

    Args:
        tokenizer: of transformers.
        tokens: which words.

    Raises:
        UserError: a word begins with no token of its own.
    """
    contexts = (BEGUN,) if tokens == "digits" else ("", "\n")
    found = []
    for word in WORDS[tokens]:
        spellings = (word,) if tokens == "digits" else (word, f" {word}", word.title(), f" {word.title()}")
        found.append({_first_token(tokenizer, before, spelling) for before in contexts for spelling in spellings})
    counted = Counter(token for ids in found for token in ids)
    own = [sorted(token for token in ids if token is not None and counted[token] == 1) for ids in found]
    if not all(own):
        raise UserError(f"this model's first tokens do not tell {', '.join(WORDS[tokens])} apart")
    return own


def _first_token(tokenizer: Any, before: str, word: str) -> int | None:
    """The token after those of `before`; None where the two are merged into one."""
    context, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, before + word))
    return int(ids[len(context)]) if ids[: len(context)] == context and len(ids) > len(context) else None


def _begun(asked: "VisionTextBatch", begun: list[int]) -> "VisionTextBatch":
    """Prompts whose answers have begun with these tokens."""
    import torch

    added = torch.tensor([begun]).expand(len(asked.input_ids), -1)
    ones = torch.ones_like(added)
    return replace(
        asked,
        input_ids=torch.cat([asked.input_ids, added], 1),
        attention_mask=torch.cat([asked.attention_mask, ones], 1),
        mm_token_type_ids=torch.cat([asked.mm_token_type_ids, 0 * ones], 1),
    )
