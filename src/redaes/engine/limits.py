"""When a call may be made: how many at once, how many a minute, how many tokens a minute, at what cost.

`Admission` decides; it is told the time and owns no thread, so its promises can be tested over any interleaving. Where
threads wait for it: redaes.engine.gate. Per endpoint, first come, first served; endpoints take turns. A call that waits
holds nothing. All of it is ours.
"""

import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from redaes.engine.config import FlowSettings, LimitSettings, RetrySettings

NANO = 1_000_000_000
"""Money is counted in whole billionths of the currency: sums stay exact in any order."""

_MINUTE = 60.0
# So many seconds' worth may be asked at once after a lull; the rest is spread evenly over the minute.
_BURST = 1.0


@dataclass(slots=True, eq=False)
class Charge:
    """What one call takes from a rate."""

    at: float
    amount: int
    counted: bool = True


class Rate:
    """At most so much in any minute, spread evenly.

    Args:
        per_minute: the limit; below 1 it is one in a longer time, infinite it costs nothing to keep.
    """

    def __init__(self, per_minute: float) -> None:
        self.limit = max(per_minute, 1.0)
        self.window = _MINUTE * max(1.0, 1 / per_minute)
        self._log: deque[Charge] = deque()
        self._total = 0
        self._even = -math.inf

    def ready(self, now: float, amount: int) -> float:
        """The earliest time at which this may be taken; not after `now` means at once.

        Args:
            now: seconds.
            amount: at most the limit.
        """
        while self._log and self._log[0].at + self.window <= now:
            gone = self._log.popleft()
            gone.counted = False
            self._total -= gone.amount
        over = self._total + amount - self.limit
        for charge in self._log if over > 0 else ():
            over -= charge.amount
            if over <= 0:
                return charge.at + self.window
        return self._even - _BURST

    def take(self, now: float, amount: int) -> Charge:
        """Take it; `ready` has allowed it."""
        if math.isinf(self.limit):
            return Charge(now, amount, counted=False)
        charge = Charge(now, amount)
        self._log.append(charge)
        self._total += amount
        self._even = max(self._even, now) + amount * self.window / self.limit
        return charge

    def correct(self, charge: Charge, amount: int) -> None:
        """The call is over and took `amount`."""
        if charge.counted:
            self._total += amount - charge.amount
        self._even += (amount - charge.amount) * self.window / self.limit
        charge.amount = amount


class Outcome(Enum):
    """How a call ended, to its endpoint."""

    ANSWERED = "answered"
    FAILED = "failed"
    UNUSED = "unused"


class Breaker:
    """Leaves an endpoint alone that only fails: after a pause one call tries, and its answer opens the way for all.

    Args:
        retries: `breaker_failures` in a row begin a pause of `breaker_seconds`.
    """

    def __init__(self, retries: RetrySettings) -> None:
        self.retries = retries
        self.failures = 0
        self.failing_since: float | None = None
        self.paused_until: float | None = None
        self.probing = False

    def ready(self) -> float:
        """The earliest time at which a call may be made."""
        if self.probing:
            return math.inf
        return -math.inf if self.paused_until is None else self.paused_until

    def admitted(self) -> bool:
        """A call is made; True if it is the one that tries."""
        self.probing = self.paused_until is not None
        return self.probing

    def ended(self, now: float, outcome: Outcome, probe: bool, retry_after: float) -> None:
        """A call is over; one that was made before the pause changes nothing by failing during it."""
        self.probing = self.probing and not probe
        if outcome is Outcome.ANSWERED:
            self.failures, self.failing_since, self.paused_until = 0, None, None
        elif outcome is Outcome.FAILED:
            self.failures += 1
            self.failing_since = now if self.failing_since is None else self.failing_since
            if probe or (self.paused_until is None and self.failures >= self.retries.breaker_failures):
                self.paused_until = now + max(self.retries.breaker_seconds, retry_after)

    def state(self) -> str:
        """`closed`: calls are made; `open`: a pause; `half-open`: one call tries."""
        return "half-open" if self.probing else "closed" if self.paused_until is None else "open"


@dataclass(slots=True, eq=False)
class Request:
    """A call that waits for its turn, is in flight, or was.

    Attributes:
        endpoint: its limits apply.
        label: who asks, for messages.
        tokens: read and written at most.
        cost: at most, in billionths of the currency.
    """

    endpoint: str
    label: str = ""
    tokens: int = 0
    cost: int = 0
    admitted: bool = False
    probe: bool = False
    charges: tuple[Charge, ...] = ()
    until: float = math.inf
    wake: threading.Lock = field(default_factory=threading.Lock)


class Endpoint:
    """The limits of one endpoint and who waits for it."""

    def __init__(self, name: str, limits: LimitSettings, retries: RetrySettings) -> None:
        self.name = name
        self.most = limits.in_flight or math.inf
        self.requests = Rate(limits.requests_per_minute or math.inf)
        self.tokens = Rate(limits.tokens_per_minute or math.inf)
        self.breaker = Breaker(retries)
        self.in_flight = 0
        self.queue: deque[Request] = deque()

    def ready(self, now: float) -> float:
        """The earliest time for the first in the queue; infinite if that depends on calls in flight."""
        if self.in_flight >= self.most:
            return math.inf
        return max(self.breaker.ready(), self.requests.ready(now, 1), self.tokens.ready(now, self.queue[0].tokens))

    def admit(self, now: float) -> Request:
        """The first in the queue goes ahead."""
        request = self.queue.popleft()
        request.admitted = True
        request.probe = self.breaker.admitted()
        request.charges = (self.requests.take(now, 1), self.tokens.take(now, request.tokens))
        self.in_flight += 1
        return request


class Admission:
    """Who goes next. Money is in billionths of the currency.

    Args:
        in_flight: calls at the same time, over all endpoints.
        limits: by endpoint.
        retries: of the breakers.
        budget: not to be crossed; None: none.
        spent: before.
        currency: for messages.
    """

    def __init__(
        self,
        in_flight: int,
        limits: Mapping[str, LimitSettings],
        retries: RetrySettings,
        budget: int | None = None,
        spent: int = 0,
        currency: str = "",
    ) -> None:
        self.most = in_flight
        self.limits = limits
        self.retries = retries
        self.budget = budget
        self.spent = spent
        self.currency = currency
        self.in_flight = 0
        self.reserved = 0
        self.stopped = ""
        self.endpoints: dict[str, Endpoint] = {}
        self._waiting: dict[str, Endpoint] = {}

    @classmethod
    def of(cls, flow: FlowSettings, spent: int, currency: str) -> "Admission":
        """With the limits of a build's flow; see above."""
        budget = None if flow.budget is None else math.floor(flow.budget * NANO)
        return cls(flow.in_flight, flow.limits, flow.retries, budget, spent, currency)

    def queue(self, request: Request) -> None:
        """Line up behind the others of this endpoint."""
        endpoint = self.endpoints.get(request.endpoint)
        if endpoint is None:
            limits = self.limits.get(request.endpoint, LimitSettings())
            endpoint = self.endpoints[request.endpoint] = Endpoint(request.endpoint, limits, self.retries)
        endpoint.queue.append(request)
        self._waiting[endpoint.name] = endpoint

    def admit(self, now: float) -> list[Request]:
        """Let everybody go ahead whose turn it is; `stopped` says so if the budget forbids the next."""
        admitted: list[Request] = []
        progress = bool(self._waiting)
        while progress:
            progress = False
            for endpoint in list(self._waiting.values()):
                if self.stopped or self.in_flight >= self.most:
                    return admitted
                if endpoint.ready(now) <= now and self._affords(endpoint.queue[0]):
                    admitted.append(self._take(endpoint, now))
                    progress = True
        return admitted

    def _take(self, endpoint: Endpoint, now: float) -> Request:
        request = endpoint.admit(now)
        self.in_flight += 1
        self.reserved += request.cost
        # To the end of the line: endpoints take turns.
        del self._waiting[endpoint.name]
        if endpoint.queue:
            self._waiting[endpoint.name] = endpoint
        return request

    def counts_only(self) -> bool:
        """Whether only the number of calls in flight decides who may go: no limit of an endpoint, budget or failure."""
        failing = any(endpoint.breaker.failures for endpoint in self.endpoints.values())
        return not (self.stopped or self.limits or failing) and self.budget is None

    def prefer(self, request: Request, now: float) -> None:
        """Let one go ahead before those that came earlier: it has the place of a call that has just ended."""
        endpoint = self.endpoints[request.endpoint]
        endpoint.queue.remove(request)
        endpoint.queue.appendleft(request)
        self._take(endpoint, now)

    def _affords(self, request: Request) -> bool:
        """Whether the budget bears the largest cost beside what calls in flight may cost; they may turn out cheaper."""
        if self.budget is None or not request.cost:
            return True
        if self.spent + request.cost > self.budget:
            self.stopped = (
                f"the budget of {self.budget / NANO:g} {self.currency} is reached: {self.spent / NANO:.6g} spent, and "
                f"{request.label} may cost {request.cost / NANO:.3g} more; set a higher flow.budget to go on"
            )
            return False
        return self.spent + self.reserved + request.cost <= self.budget

    def settle(
        self, request: Request, now: float, outcome: Outcome, tokens: int = 0, cost: int = 0, retry_after: float = 0.0
    ) -> None:
        """An admitted call is over.

        Args:
            request: the call.
            now: seconds.
            outcome: to its endpoint.
            tokens: it took.
            cost: it had.
            retry_after: seconds its endpoint asked to wait.
        """
        endpoint = self.endpoints[request.endpoint]
        endpoint.in_flight -= 1
        self.in_flight -= 1
        self.reserved -= request.cost
        self.spent += cost
        endpoint.tokens.correct(request.charges[1], tokens)
        endpoint.breaker.ended(now, outcome, request.probe, retry_after)
        since = endpoint.breaker.failing_since
        longest = self.retries.give_up_seconds
        if since is not None and now - since >= longest:
            self.stopped = self.stopped or (
                f"{endpoint.name} has answered nothing for {now - since:.0f} s (flow.retries.give_up_seconds: "
                f"{longest:g}); run the same command again to go on"
            )
        elif retry_after > longest:
            self.stopped = self.stopped or (
                f"{endpoint.name} asks to wait {retry_after:.0f} s, longer than flow.retries.give_up_seconds "
                f"({longest:g}); run the same command again then"
            )

    def withdraw(self, request: Request, now: float) -> None:
        """The call will not be made after all."""
        if request.admitted:
            self.settle(request, now, Outcome.UNUSED)
            return
        endpoint = self.endpoints[request.endpoint]
        endpoint.queue.remove(request)
        if not endpoint.queue:
            del self._waiting[endpoint.name]

    def heads(self, now: float) -> list[tuple[Request, float]]:
        """The first in each queue, and when its turn comes by itself; infinite if only another's end can bring it."""
        times = ((endpoint.queue[0], endpoint.ready(now)) for endpoint in self._waiting.values())
        return [(request, ready if ready > now else math.inf) for request, ready in times]

    def waiting(self) -> list[Request]:
        """Everybody who waits."""
        return [request for endpoint in self._waiting.values() for request in endpoint.queue]
