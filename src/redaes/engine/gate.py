"""Where threads sleep until it is their call's turn (redaes.engine.limits), or until everything stops."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from redaes.engine.figures import Figures
from redaes.engine.limits import Admission, Outcome, Request


class Stopped(Exception):
    """Nothing more is asked. The message says why in one line."""


class Standing(NamedTuple):
    """How things stand at a gate; `spent` in billionths, `endpoints` as `Breaker.state` has it.

    `figures`: what became of the questions of other processes, where they share the gate.
    """

    in_flight: int
    waiting: int
    spent: int
    endpoints: dict[str, str]
    figures: Mapping[str, Figures] = MappingProxyType({})

    @classmethod
    def of(cls, admission: Admission) -> "Standing":
        """How things stand at an admission."""
        states = {name: endpoint.breaker.state() for name, endpoint in admission.endpoints.items()}
        return cls(admission.in_flight, len(admission.waiting()), admission.spent, states)


class GateProtocol(Protocol):
    """What threads need of a gate: the one of this process, or one that others share (redaes_ray.limiter)."""

    def enter(self, request: Request) -> None:
        """Wait until the call may be made; `leave` must follow.

        Raises:
            Stopped: it may not be made any more.
        """
        ...

    def leave(self, request: Request, outcome: Outcome, tokens: int = 0, cost: int = 0, retry_after: float = 0) -> None:
        """The call is over; see `Admission.settle`."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait, or until everything stops.

        Raises:
            Stopped: it did.
        """
        ...

    def stop(self, reason: str) -> None:
        """Let nobody go ahead any more; who waits is woken. The first reason stays."""
        ...

    @property
    def stopped(self) -> str:
        """Why nothing more is asked; empty while it is."""
        ...

    def standing(self) -> Standing:
        """How things stand."""
        ...


class Gate:
    """Threads wait here for their turn.

    Args:
        admission: who goes next.
        clock: seconds that never jump.
    """

    def __init__(self, admission: Admission, clock: Callable[[], float] = time.monotonic) -> None:
        self.admission = admission
        self.clock = clock
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def enter(self, request: Request) -> None:
        """Wait until the call may be made; `leave` must follow.

        Raises:
            Stopped: it may not be made any more.
        """
        request.wake.acquire()
        with self._lock:
            self._check()
            self.admission.queue(request)
            self._advance()
        while not self._may_go(request):
            timeout = request.until - self.clock()
            request.wake.acquire(timeout=-1 if math.isinf(timeout) else max(timeout, 0.0))

    def _may_go(self, request: Request) -> bool:
        with self._lock:
            if self.admission.stopped:
                self.admission.withdraw(request, self.clock())
                self._check()
            if not request.admitted:
                self._advance()
            return request.admitted

    def leave(self, request: Request, outcome: Outcome, tokens: int = 0, cost: int = 0, retry_after: float = 0) -> None:
        """The call is over; see `Admission.settle`."""
        with self._lock:
            self.admission.settle(request, self.clock(), outcome, tokens, cost, retry_after)
            self._advance()

    def pause(self, seconds: float) -> None:
        """Wait, or until everything stops.

        Raises:
            Stopped: it did.
        """
        if self._stopping.wait(min(seconds, threading.TIMEOUT_MAX)):
            self._check()

    def stop(self, reason: str) -> None:
        """Let nobody go ahead any more; who waits is woken. The first reason stays."""
        with self._lock:
            self.admission.stopped = self.admission.stopped or reason
            self._advance()

    @property
    def stopped(self) -> str:
        """Why nothing more is asked; empty while it is."""
        return self.admission.stopped

    def standing(self) -> Standing:
        """How things stand."""
        with self._lock:
            return Standing.of(self.admission)

    def _check(self) -> None:
        if self.admission.stopped:
            raise Stopped(self.admission.stopped)

    def _advance(self) -> None:
        """Wake everybody whose turn has come, and the first of a queue who would sleep past it."""
        now = self.clock()
        for request in self.admission.admit(now):
            _wake(request)
        if self.admission.stopped:
            self._stopping.set()
            for request in self.admission.waiting():
                _wake(request)
            return
        for head, ready in self.admission.heads(now):
            earlier, head.until = ready < head.until, ready
            if earlier:
                _wake(head)


def _wake(request: Request) -> None:
    if request.wake.locked():
        request.wake.release()
