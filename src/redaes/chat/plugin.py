"""What judges, instructors and verifiers on chat models share: a question asked, an answer checked, one repair.

Every question carries a reference, made from its role, its words and its pictures, which the answer repeats: an answer
to another question, mixed up on the way, is noticed. Where an answer cannot be read the model is told why, once.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from redaes.calls import Role, Usage
from redaes.chat import Chat, Turn
from redaes.chat.reading import Answer, Unreadable, read_answer
from redaes.prompts.chat import PICTURES, ChatQuestion, prompt_version, render_chat, template_length

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Of everything between a question and its checked answer; a step makes the ledger ask again."""

_LETTERS = "bcdfghjkmnpqrstvwxz"
_REPAIR = (
    "That answer could not be read: {}. Look again and answer with the one JSON object that was asked for, and "
    "nothing else."
)
_LONGEST_REPAIRED = 4000
# Characters of an instruction, the answer's form and what a vendor puts around it.
_LONGEST_REST = 3000

A = TypeVar("A", bound=Answer)


def reference_of(question: ChatQuestion, images: "Sequence[Image]", fields: Mapping[str, str]) -> str:
    """Six letters that stand for a question; no vowels, so no words, and no digits, so no numbers.

    Args:
        question: which.
        images: RGB, in order.
        fields: what else the words depend on.
    """
    digest = hashlib.sha256(repr((question, sorted(fields.items()))).encode())
    for image in images:
        digest.update(repr(image.size).encode() + image.tobytes())
    number = int.from_bytes(digest.digest()[:8], "big")
    return "".join(_LETTERS[number // len(_LETTERS) ** k % len(_LETTERS)] for k in range(6))


class ChatPlugin:
    """Base of the plug-ins: a back-end, a name, and a way to ask.

    Settings are those of the class, then those of its back-end.

    Args:
        name: under which answers are recorded; None: the model's, without its owner.
        settings: of the back-end.
    """

    backend: ClassVar[type[Any]]
    __signature__: ClassVar[inspect.Signature]

    def __init__(self, name: str | None = None, **settings: Any) -> None:
        self.chat: Chat = type(self).backend(**settings)
        self.name = name or self.chat.model.rpartition("/")[2]

    def __init_subclass__(cls) -> None:
        """Show the settings of the whole class, so that the registry can check and list them."""
        if hasattr(cls, "backend"):
            parts = [inspect.signature(vars(base)["__init__"]) for base in cls.__mro__[:-1] if "__init__" in vars(base)]
            parts.append(inspect.signature(cls.backend))
            shown = {
                name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for part in parts
                for name, parameter in part.parameters.items()
                if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
            }
            cls.__signature__ = inspect.Signature(list(shown.values()))

    @property
    def endpoint(self) -> str:
        """The name that limits are set for."""
        return self.chat.endpoint

    @property
    def key_variable(self) -> str:
        """The environment variable that the key is in; empty: there is none."""
        return getattr(self.chat, "key_variable", "")

    @property
    def base_url(self) -> str:
        """Where the model is served, or `$NAME`; empty: in this process."""
        return getattr(self.chat, "base_url", "")

    def questions(self, role: Role) -> tuple[ChatQuestion, ...]:
        """What is asked in one call."""
        return (role,) if role != "edit" else ()

    def options(self, role: Role) -> dict[str, Any]:
        """What the words of a question depend on beside its template."""
        return {}

    def identity(self, role: Role) -> dict[str, Any]:
        """All that an answer depends on beyond the question."""
        return {
            "model": self.chat.model,
            "prompt": " ".join(prompt_version(question) for question in self.questions(role)),
            "parameters": self.chat.parameters,
            "images": self.chat.preparation.identity(),
            "options": self.options(role),
            "version": VERSION,
        }

    def largest_usage(self, role: Role) -> Usage:
        """At most this is paid for one call: every question asked, and once more with its answer for the repair."""
        read = written = 0
        for question in self.questions(role):
            words = template_length(question) + len(str(self.options(role))) + _LONGEST_REST
            pictures = len(PICTURES[question]) * self.chat.preparation.largest_tokens
            read += 2 * (words // 2 + pictures) + self.chat.max_tokens  # English has more than two characters a token
            written += 2 * self.chat.max_tokens
        return Usage(read, written)

    def ask(
        self,
        question: ChatQuestion,
        images: "Sequence[Image]",
        form: type[A],
        check: Callable[[A], None] = lambda answer: None,
        **fields: str,
    ) -> A:
        """Ask one question.

        Args:
            question: which.
            images: as many as the question names, in its order.
            form: of the answer.
            check: raises `Unreadable` where the answer has the form and yet does not answer.
            fields: what the question's template leaves open, the reference apart.

        Raises:
            CallError: no usable answer came; see `redaes.calls`.
            UserError: the configuration is at fault.
        """
        pictures = [image.convert("RGB") for image in images]
        reference = reference_of(question, pictures, fields)
        named = zip(PICTURES[question], pictures, strict=True)
        shown = [part for name, picture in named for part in (f"{name}:", picture)]
        turns = [Turn("user", (*shown, render_chat(question, reference=reference, **fields)))]
        said = self.chat.ask(turns, form)
        try:
            return _checked(said, form, reference, check)
        except Unreadable as problem:
            repair = Turn("user", (_REPAIR.format(problem),))
            turns += [Turn("assistant", (said[:_LONGEST_REPAIRED],)), repair]
        return _checked(self.chat.ask(turns, form), form, reference, check)


def _checked(said: str, form: type[A], reference: str, check: Callable[[A], None]) -> A:
    answer = read_answer(said, form, reference)
    check(answer)
    return answer
