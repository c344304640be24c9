"""What a plug-in that asks a model tells the engine about the call. Plug-ins that only compute need none of it.

*While it runs*, an engine collects a receipt of each call of a plug-in's method. The plug-in adds every reply it got
with `note`: the words as they came, and what they cost. Outside an engine `note` does nothing: a judge works alone.

*When it fails*, the kind of exception says what to do next:

| raised | means | the engine |
| --- | --- | --- |
| `Transient` | the far side is busy, broken or unreachable | waits as told, or ever longer, and asks again |
| `UnusableAnswer` | it answered, and the answer cannot be used | asks again a few times, then gives the call up |
| `Declined` | it will not answer this question | gives the call up at once |
| `UserError` | the configuration is at fault: no key, no such model | stops the build |

A call that is given up is a dead letter: its source is left out and counted, until it is asked again.

*What it is*, as optional members of a plug-in:

    identity(role) -> dict    all that its answers depend on beyond the question: model, version of the prompt, decoding
                              parameters, a version of its own. Not: addresses, limits, keys. Without it, the class, its
                              settings and the version of its package are taken (`redaes.registry.identity_of`).
    endpoint: str             the name that limits are set for, such as `api.openai.com`; empty or absent: no limits
    largest_usage(role) -> Usage    at most this is paid for one call, so that a budget is not overrun
    key_variable: str         the environment variable its key is in: the value is blotted out wherever it turns up

Roles are the names of the methods: `score`, `compare`, `instruct`, `diversify`, `verify`, `edit`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Role = Literal["score", "instruct", "edit", "verify", "compare", "diversify"]


class Usage(NamedTuple):
    """What a call is billed by: tokens read and written, images made."""

    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0


@dataclass
class Receipt:
    """What one call of a plug-in brought in, in the order it came.

    Attributes:
        model: as the far side names it; the last one noted.
        replies: the raw words of each reply, an unusable one and its repair included.
        usage: of all replies together.
    """

    model: str = ""
    replies: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


_open: ContextVar[Receipt | None] = ContextVar("receipt", default=None)


@contextmanager
def collecting() -> Iterator[Receipt]:
    """Collect what is noted in this thread until the block ends; an exception leaves what was noted before it.

    Example:
        >>> with collecting() as receipt:
        ...     note("7.5", model="m", input_tokens=900, output_tokens=3)
        >>> receipt.replies, receipt.usage.input_tokens
        (['7.5'], 900)
    """
    receipt = Receipt()
    token = _open.set(receipt)
    try:
        yield receipt
    finally:
        _open.reset(token)


def note(reply: str, *, model: str = "", input_tokens: int = 0, output_tokens: int = 0, images: int = 0) -> None:
    """Add a reply to the receipt of the call that this thread is in, before anything is read from it.

    Args:
        reply: its words, raw; for an image whatever came beside the pixels.
        model: that answered.
        input_tokens: billed for the question.
        output_tokens: billed for the answer.
        images: made.
    """
    receipt = _open.get()
    if receipt is None:
        return
    receipt.model = model or receipt.model
    receipt.replies.append(reply)
    added = (input_tokens, output_tokens, images)
    receipt.usage = Usage(*(a + b for a, b in zip(receipt.usage, added, strict=True)))


class CallError(Exception):
    """A call failed. The message is one line without secrets; see the table above for the kinds."""


class Transient(CallError):
    """Worth asking again: 408, 409, 429, 5xx, a time-out, a broken connection, a body that ends too soon.

    Args:
        message: what happened.
        retry_after: seconds the far side asked to wait; None if it did not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnusableAnswer(CallError):
    """An answer came, and it is no answer: unreadable, out of range, not what was asked about, a refusal."""


class Declined(CallError):
    """This question will never be answered: too large, malformed, against the provider's policy."""
