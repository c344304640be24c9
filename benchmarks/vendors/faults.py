"""What goes wrong between a client and a model: a share of the answers is replaced by one of these.

Which answers, follows from the seed, the question and how often it was asked, so that a run can be repeated. No
question meets more than `in_a_row` faults in succession: with finitely many tries every build comes to its end.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.vendors.world import chance
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

HTML = b"<!doctype html><html><head><title>Bad gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"

# What can befall any answer over HTTP.
TRANSPORT = (
    "429_retry_after",
    "429",
    "500",
    "502",
    "503",
    "timeout",
    "reset",
    "empty",
    "html",
    "huge",
)
# What can befall the words of a chat model.
WORDS = (
    "truncated_json",
    "wrong_schema",
    "number_as_text",
    "out_of_range",
    "nan",
    "refusal",
    "other_image",
)


@dataclass
class Faults:
    """Which answers are broken, and how.

    Attributes:
        kinds: drawn from evenly; of TRANSPORT, WORDS or a vendor's own.
        share: of the answers, in [0, 1].
        seed: of the draws.
        in_a_row: at most so many for one question in succession.
        delay: seconds of silence of a `timeout`; more than the client waits.
        retry_after: seconds that `429_retry_after` asks for.
        huge: bytes of a huge answer.
        injected: how many of each kind there were.
    """

    kinds: Sequence[str] = ()
    share: float = 0.0
    seed: int = 0
    in_a_row: int = 2
    delay: float = 5.0
    retry_after: float = 1.0
    huge: int = 64 * 2**20
    injected: Counter[str] = field(default_factory=Counter)
    _asked: Counter[str] = field(default_factory=Counter)
    _in_a_row: Counter[str] = field(default_factory=Counter)

    def draw(self, key: str, possible: Sequence[str]) -> str | None:
        """The fault of this answer, if it is to have one.

        Args:
            key: of the question.
            possible: kinds that can befall this sort of answer.
        """
        kinds = [kind for kind in self.kinds if kind in possible]
        self._asked[key] += 1
        attempt = self._asked[key]
        lucky = not kinds or chance("fault", self.seed, key, attempt) >= self.share
        if lucky or self._in_a_row[key] >= self.in_a_row:
            self._in_a_row[key] = 0
            return None
        self._in_a_row[key] += 1
        kind = kinds[int(chance("kind", self.seed, key, attempt) * len(kinds))]
        self.injected[kind] += 1
        return kind

    async def transport(self, kind: str, answer: bytes, error: Callable[[int, str], Response]) -> Response:
        """The response to send for a fault of TRANSPORT.

        Args:
            kind: of it.
            answer: that it replaces, for the faults that lose a part of it.
            error: makes the vendor's own error response from a status and a message.
        """
        if kind.startswith("429"):
            response = error(429, "Rate limit reached, please slow down.")
            if kind == "429_retry_after":
                response.headers["retry-after"] = f"{self.retry_after:g}"
            return response
        if kind == "500":
            return error(500, "The server had an error while processing your request.")
        if kind == "503":
            return error(503, "The engine is currently overloaded.")
        if kind == "502":
            return Response(HTML, 502, media_type="text/html")
        if kind == "html":
            return Response(HTML, 200, media_type="text/html")
        if kind == "empty":
            return Response(b"", 200, media_type="application/json")
        if kind == "reset":
            return Broken(answer)
        if kind == "huge":
            return StreamingResponse(_filler(self.huge), media_type="application/json")
        await asyncio.sleep(self.delay)
        return Response(answer, media_type="application/json")


class Broken(Response):
    """Promises a whole body, sends half of it and closes the connection."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        body = bytes(self.body)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        raise ConnectionResetError("as asked for")


async def _filler(size: int) -> Any:
    """JSON that opens well and goes on for `size` bytes."""
    yield b'{"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "'
    for _ in range(0, size, 65536):
        yield b"x" * 65536
        await asyncio.sleep(0)  # so that a client that has gone is noticed
    yield b'"}}]}'


def spoil(kind: str, answer: dict[str, Any], previous: dict[str, Any] | None) -> tuple[str, bool]:
    """What a model says instead of an answer, for a fault of WORDS.

    Args:
        kind: of it.
        answer: the right one.
        previous: the answer to another question of the same role; None where there was none.

    Returns:
        The words, and whether they are a refusal.
    """
    numbers = [key for key, value in answer.items() if isinstance(value, int | float)]
    words = json.dumps(answer)
    if kind == "refusal":
        return "I'm sorry, but I can't help with that.", True
    if kind == "truncated_json":
        return words[: len(words) * 2 // 3], False
    if kind == "wrong_schema":
        return json.dumps({"verdict": "good", "confidence": 0.9}), False
    if kind == "other_image":
        return json.dumps(previous or {**answer, "reference": f"0{answer['reference']}"}), False
    if not numbers:  # an answer without numbers is spoilt as far as it can be
        return json.dumps({"reference": answer["reference"]}), False
    value: Any = {"out_of_range": 42, "nan": float("nan")}.get(kind, str(answer[numbers[0]]))
    return json.dumps({**answer, numbers[0]: value}), False
