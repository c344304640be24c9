"""A chat model behind an address: what the back-ends of all vendors' SDKs do alike.

A request may ask for more than a server or model takes: a form for the answer, a temperature. What is not taken is
left out from the request that was refused onwards, one thing after the other, as little as possible (`Dialect`).
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel

from redaes.calls import UnusableAnswer, note
from redaes.chat import Turn
from redaes.chat.pictures import PictureFormat, Preparation
from redaes.chat.reading import clean
from redaes.errors import UserError

log = logging.getLogger(__name__)


class Dialect(Protocol):
    """What a model's server takes."""

    def without(self, refused: str) -> Self | None:
        """The dialect that leaves out what the words of a refusal speak of; None if they speak of nothing in it."""
        ...


D = TypeVar("D", bound=Dialect)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Attributes:
        text: words of the model; of its refusal if it refused.
        model: that answered.
        read: tokens billed for the question.
        written: tokens billed for the answer.
        ending: why it ended there.
    """

    text: str
    model: str
    read: int
    written: int
    ending: Literal["stop", "length", "refusal"]


class RemoteChat(ABC, Generic[D]):
    """A `Chat` that asks a server, one request at a time and thread.

    Args:
        model: as the server names it.
        base_url: of the server; `$NAME` takes it from an environment variable, and keeps it out of the dataset.
        key_variable: environment variable that holds the key; empty: the server wants none.
        endpoint: name that limits are set for; None: the address's host and port, or the variable's name.
        max_tokens: of one answer, thinking included.
        parameters: more that is sent with each request as it stands, such as `{reasoning_effort: low}`.
        timeout: seconds to wait for an answer.
        longer_side: pixels that a picture has at most.
        picture_format: `jpeg` or `png`.
        dialect: what is tried first.
    """

    sdk: ClassVar[str]
    """The package of the vendor's SDK."""

    def __init__(
        self,
        model: str,
        base_url: str,
        key_variable: str,
        endpoint: str | None,
        max_tokens: int,
        parameters: Mapping[str, Any] | None,
        timeout: float,
        longer_side: int,
        picture_format: PictureFormat,
        dialect: D,
    ) -> None:
        from redaes.chat.http import endpoint_of

        if find_spec(self.sdk) is None:
            raise ModuleNotFoundError(f"No module named {self.sdk!r}", name=self.sdk)
        if max_tokens < 1 or timeout <= 0:
            raise UserError(f"max_tokens is {max_tokens} and timeout is {timeout}; both must be above 0")
        self.model = model
        self.base_url = base_url
        self.key_variable = key_variable
        self.endpoint = endpoint or endpoint_of(base_url)
        self.max_tokens = max_tokens
        self.extra = dict(parameters or {})
        self.timeout = timeout
        self.preparation = Preparation(longer_side, picture_format)
        self.parameters: dict[str, Any] = {"max_tokens": max_tokens, **self.extra}
        self._dialect = dialect
        self._key = ""
        self._client: Any = None
        self._opening = threading.Lock()

    def ask(self, turns: Sequence[Turn], form: type[BaseModel]) -> str:
        """See `redaes.chat.Chat.ask`."""
        reply = self._understood(turns, form)
        note(clean(reply.text), model=reply.model, input_tokens=reply.read, output_tokens=reply.written)
        if reply.ending == "refusal":
            raise UnusableAnswer(f"{self.model} refused to answer")
        if reply.ending == "length":
            raise UnusableAnswer(f"{self.model} was cut off after {self.max_tokens} tokens")
        if not reply.text.strip():
            raise UnusableAnswer(f"{self.model} answered nothing")
        return clean(reply.text)

    def _understood(self, turns: Sequence[Turn], form: type[BaseModel]) -> Reply:
        """The reply to the first request that the server takes."""
        import httpx2

        from redaes.chat.http import AnswerTooLarge, failure

        client = self._connected()
        while True:
            dialect = self._dialect
            try:
                return self._reply(self._send(client, turns, form, dialect))
            except (import_module(self.sdk).APIError, httpx2.HTTPError, AnswerTooLarge) as error:
                problem = failure(error, self.endpoint, self.model, self._key)
                weaker = dialect.without(_refusal(error))
            if weaker is None:
                raise problem from None
            log.warning("%s, %s: left out from now on: %s", self.endpoint, self.model, problem)
            if self._dialect == dialect:  # another thread may have learned it meanwhile
                self._dialect = weaker

    def _connected(self) -> Any:
        """The client, made when it is first needed."""
        from redaes.chat.http import LARGEST_ANSWER, BoundedClient, address_from, key_from

        with self._opening:
            if self._client is None:
                self._key, address = key_from(self.key_variable), address_from(self.base_url)
                http = BoundedClient(self.timeout, LARGEST_ANSWER)
                self._client = self._open(address, self._key, http)
        return self._client

    @abstractmethod
    def _open(self, address: str, key: str, http: Any) -> Any:
        """The SDK's client, without retries of its own."""

    @abstractmethod
    def _send(self, client: Any, turns: Sequence[Turn], form: type[BaseModel], dialect: D) -> bytes:
        """Ask; the body of the response."""

    @abstractmethod
    def _reply(self, body: bytes) -> Reply:
        """What a body says.

        Raises:
            Transient: it is no answer of this vendor.
        """


def _refusal(error: Any) -> str:
    """What a refused request is blamed on: the parameter's name if given, and the words. Empty for other errors."""
    if getattr(error, "status_code", None) not in (400, 422):
        return ""
    from redaes.chat.http import words_of

    return f"{getattr(error, 'param', None) or ''}\n{words_of(error)}"
