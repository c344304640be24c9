"""Models behind an address, asked for a number: `openai_compatible` and `anthropic`.

`batch_size` requests are under way at once. What fails for a while is asked again; a refusal has no score.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from redaes.calls import Declined, Transient, UnusableAnswer
from redaes.chat import Turn
from redaes.chat.anthropic import Anthropic, AnthropicDialect
from redaes.chat.openai_compatible import OpenAICompatible
from redaes.engine.calling import backoff
from redaes.engine.config import RetrySettings
from redaes.inference import Score, combined
from redaes.scorers.questions import ANSWER, Question, digest, opened, require_samples

if TYPE_CHECKING:
    from PIL.Image import Image


class _InWords(BaseModel):
    """No form is asked for: the prompt says how to answer."""


class _Anthropic(Anthropic):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._dialect = AnthropicDialect(structured=False)


class _ChatScorer:
    """What the two share; settings are those of `OpenAICompatibleScorer`."""

    backend: ClassVar[type[Any]]
    fixed: ClassVar[dict[str, Any]] = {}
    deterministic = False

    def __init__(
        self,
        model: str,
        batch_size: int = 8,
        device: str | None = None,
        prompt: str = "rate.v1",
        pattern: str = ANSWER,
        low: float = 1.0,
        high: float = 10.0,
        samples: int = 1,
        tries: int = 5,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        require_samples(samples, batch_size)
        self.batch_size = batch_size
        self.samples = samples
        self.tries = tries
        self.question = Question(prompt, pattern, low, high)
        self.chat = type(self).backend(model=model, **{**self.fixed, **(settings or {})})

    @property
    def fingerprint(self) -> str:
        """All that its answers depend on, the key and the address apart."""
        chat = {"model": self.chat.model, **self.chat.parameters, **self.chat.preparation.identity()}
        return digest(self.chat.model, {**self.question.identity(), **chat, "samples": self.samples})

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """One score per image, in order.

        Raises:
            ImageError: a path that cannot be read as an image.
            Transient: the server could not be asked, after several tries.
            UserError: the key, the address or a setting is at fault.
        """
        with ThreadPoolExecutor(self.batch_size) as pool:
            asked = [[pool.submit(self._asked, image) for _ in range(self.samples)] for image in images]
            return [combined([future.result() for future in futures]) for futures in asked]

    def _asked(self, image: "Image | str | Path") -> Score:
        turns = [Turn("user", self.question.parts(opened(image)))]
        for failures in range(1, self.tries + 1):
            try:
                return self.question.read(self.chat.ask(turns, _InWords))
            except (UnusableAnswer, Declined) as error:
                return Score(None, "", f"[no answer] {error}")
            except Transient as error:
                if failures == self.tries:
                    raise
                time.sleep(backoff(failures, RetrySettings(), error.retry_after or 0.0))
        raise AssertionError("unreachable")


class OpenAICompatibleScorer(_ChatScorer):
    """`openai_compatible`: a model at OpenAI or at any server that speaks its protocol.

    Args:
        model: as the server names it.
        batch_size: requests under way at once.
        device: of no meaning here.
        prompt: a template of the package, or a text file.
        pattern: finds the number in the answer; see `Question`.
        low: lowest score of the range that the prompt asks for.
        high: highest score of it.
        samples: answers asked for each image.
        tries: times that a request is sent before a fault that may pass is given up.
        settings: of the client, such as `base_url`, `key_variable`, `temperature`, `parameters`
            (`redaes.chat.openai_compatible.OpenAICompatible`).

    Raises:
        UserError: a setting that cannot be.
    """

    backend = OpenAICompatible
    fixed: ClassVar[dict[str, Any]] = {"structured": "none"}


class AnthropicScorer(_ChatScorer):
    """`anthropic`: a Claude model; settings as of `OpenAICompatibleScorer`, the client is `redaes.chat.anthropic`."""

    backend = _Anthropic
