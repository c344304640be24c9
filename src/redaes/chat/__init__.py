"""Chat models: images and words in, words out. Judges, instructors and verifiers of every vendor are built on them.

`Chat` is what a vendor's back-end does; `openai_compatible`, `anthropic` and `local` are three of them. `plugin` asks
the project's questions through any of them; `answers` says what an answer is, and `reading` finds it in the words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydantic import BaseModel

    from redaes.chat.pictures import Preparation


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's turn in a conversation: words and pictures in the order they are to be seen."""

    side: Literal["user", "assistant"]
    parts: "tuple[str | Image, ...]"


class Chat(Protocol):
    """A model that answers in words.

    Attributes:
        model: as its vendor names it.
        endpoint: name that limits are set for.
        max_tokens: of one answer, thinking included.
        preparation: how pictures are prepared for it.
        parameters: what its answers depend on beyond model, question and pictures.
    """

    model: str
    endpoint: str
    max_tokens: int
    preparation: "Preparation"
    parameters: dict[str, Any]

    def ask(self, turns: Sequence[Turn], form: "type[BaseModel]") -> str:
        """The model's next turn.

        Args:
            turns: so far; the last is the user's.
            form: that the answer should have, for back-ends that can make a model keep to one.

        Returns:
            Its words, not empty; noted with `redaes.calls.note` before anything else is done with them.

        Raises:
            CallError: no answer came, or none that is one: see `redaes.calls`.
            UserError: the key, the address or a setting is at fault.
        """
        ...
