"""What the vendors' SDKs share: a client that reads no more than it can use, and what their errors mean.

openai and anthropic are built from the same generator: their exceptions have the same names and attributes, and both
send through httpx2. Nothing of a message here holds the key, though a server repeats it.
"""

import math
import os
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from redaes.calls import CallError, Declined, Transient, UnusableAnswer
from redaes.errors import UserError
from redaes.redaction import keep_secret, redact

LARGEST_ANSWER = 4 * 2**20
"""Bytes of a chat model's answer; the longest that a model may write is a tenth of it."""


class AnswerTooLarge(Exception):
    """More came than any answer has; the rest was not read."""


class BoundedClient(httpx2.Client):
    """An HTTP client that gives up on a body that is too large or drips in too slowly.

    Args:
        seconds: that a connection may be silent, and that the body may take once it began.
        largest: bytes of a body, unpacked.
    """

    def __init__(self, seconds: float, largest: int) -> None:
        super().__init__(
            timeout=httpx2.Timeout(seconds, connect=min(seconds, 10.0), pool=None),
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
            follow_redirects=False,
        )
        self._seconds = seconds
        self._largest = largest

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """As the base class's; the body has been read when it returns, whatever `stream` says.

        Raises:
            AnswerTooLarge: it had not ended after `largest` bytes.
        """
        response = super().send(request, stream=True, **options)
        body, until = bytearray(), time.monotonic() + self._seconds
        try:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > self._largest:
                    raise AnswerTooLarge(f"the answer is larger than {self._largest} bytes")
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout("the body took too long", request=request)
        finally:
            response.close()
        dropped = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in dropped]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)


def address_from(base_url: str) -> str:
    """The address that a setting means: itself, or `$NAME`, what the environment variable NAME holds.

    Raises:
        UserError: the variable is not set, or holds no address.
    """
    if not base_url.startswith("$"):
        return base_url
    address = os.environ.get(base_url[1:], "").strip()
    if not address:
        raise UserError(f"no address in the environment variable {base_url[1:]}; set it to where the model is served")
    endpoint_of(address)
    return address


def endpoint_of(base_url: str) -> str:
    """The host of an address, with its port if it names one; of `$NAME` the name.

    Raises:
        UserError: not an http(s) address, or one with a password in it, which would be written into the dataset.

    Example:
        >>> endpoint_of("https://api.openai.com/v1"), endpoint_of("http://127.0.0.1:8000/v1")
        ('api.openai.com', '127.0.0.1:8000')
    """
    if base_url.startswith("$"):
        return base_url[1:]
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if "@" in base_url:
        raise UserError("base_url holds a user or a password; put the key into an environment variable instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"base_url is {base_url!r}; it must be an address such as https://api.openai.com/v1")
    return f"{parts.hostname}:{port}" if port else parts.hostname


def key_from(variable: str) -> str:
    """The key in an environment variable; no variable, no key.

    Raises:
        UserError: the variable is not set.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"no key in the environment variable {variable}; set it, or set key_variable to '' for none")
    keep_secret(variable)
    return key


def failure(error: Exception, endpoint: str, model: str, key: str) -> CallError | UserError:
    """What an SDK's error means to the engine.

    Args:
        error: that the SDK raised.
        endpoint: that was asked.
        model: that was asked for.
        key: that must not be seen.

    Returns:
        To be raised instead, `from None`: the SDK's own words may hold the key.
    """
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        if isinstance(error, AnswerTooLarge) or isinstance(error.__cause__, AnswerTooLarge):
            return UnusableAnswer(f"{endpoint}: the answer is too large")
        cause = error.__cause__ or error
        return Transient(f"{endpoint}: {type(cause).__name__}: {_line(str(cause), key)}")
    said = f"{endpoint} answers {status}: {_line(words_of(error), key)}"
    if status in (401, 403):
        return UserError(f"{endpoint} refuses the key for model {model!r} ({status})")
    if status == 404 or status < 400:
        return UserError(f"{said}; check model {model!r} and base_url")
    if status == 402 or (status == 429 and "insufficient_quota" in words_of(error)):
        return UserError(f"{said}; the account has nothing left")
    if status in (408, 409, 425, 429) or status >= 500:
        return Transient(said, retry_after=_retry_after(error))
    return Declined(said)


def words_of(error: Any) -> str:
    """What the server said, in the form of OpenAI, of Anthropic, of FastAPI, or else as the SDK puts it."""
    body = getattr(error, "body", None)
    said = body.get("error", body) if isinstance(body, dict) else None
    if isinstance(said, dict):
        parts = [str(said[name]) for name in ("message", "detail", "param", "code") if said.get(name)]
        return " ".join(parts) or str(error)
    return said if isinstance(said, str) else str(error)


def _line(text: str, key: str) -> str:
    """One line, not long, without the key in any form; cut last, or half a key would be no key any more."""
    hidden = redact(text.replace(key, "***") if key else text)
    return " ".join(hidden.split())[:300]


def _retry_after(error: Any) -> float | None:
    """Seconds that the server asked to wait, from a number or a date; None if it did not say so sensibly."""
    value = error.response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return min(max(0.0, seconds), 3600.0) if math.isfinite(seconds) else None
