"""What the endpoints of the loopback server share: settings, faults, and what was asked."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.vendors.faults import Faults

Structured = Literal["schema", "json", "none"]


@dataclass
class Vendors:
    """What the endpoints share.

    Attributes:
        latency: seconds that an answer takes.
        key: that clients must show; empty: any will do.
        structured: what response formats the OpenAI endpoint takes.
        thinking: how models begin that refuse a temperature and `max_tokens`.
        faults: what goes wrong.
        echo: repeat the key in the message of an error, as careless servers do.
        answers: by role: what is answered instead of the world's answer, the reference apart.
        requests: by path, faulty ones included.
        answered: by question: how often it was answered well.
        previous: the last answers of each role, for answers that go astray.
        in_flight: requests being answered now.
        peak: the most there were at the same time.
    """

    latency: float = 0.0
    key: str = ""
    structured: Structured = "schema"
    thinking: tuple[str, ...] = ("gpt-5", "o1", "o3", "o4")
    faults: Faults = field(default_factory=Faults)
    echo: bool = False
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    previous: defaultdict[str, deque[dict[str, Any]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=16))
    )
    in_flight: int = 0
    peak: int = 0

    @asynccontextmanager
    async def answering(self, path: str) -> AsyncIterator[None]:
        """Count a request and let it take its time."""
        self.requests[path] += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.latency:
                await asyncio.sleep(self.latency)
            yield
        finally:
            self.in_flight -= 1

    def counts(self, questions: bool = False) -> dict[str, Any]:
        """What was asked and answered; with every question, if wanted."""
        found = {
            "requests": dict(self.requests),
            "questions": len(self.answered),
            "answers": sum(self.answered.values()),
            "most": max(self.answered.values(), default=0),
            "faults": dict(self.faults.injected),
            "peak_in_flight": self.peak,
        }
        return {**found, "by_question": dict(self.answered)} if questions else found
