"""One build's limits for many processes: what they write to the one that keeps the limits, and what it answers.

    Mailbox --- Letter: events from number n on ------------> Desk ---> Admission (redaes.engine.limits), unchanged
            <-- News: calls that were admitted, from m on ---

Neither end owns a thread, a clock or a connection, so the promises can be tested over any interleaving; the threads
and Ray are in redaes_ray.limiter. A letter holds every event that is not known to have arrived, an answer every
admission that is not, and both are numbered. So either may be lost, repeated or overtaken, and nothing counts twice.

Where nothing is limited but the number of calls in flight, the place of a call that ends need not travel to the desk
and back: the process hands it on to the next call of its own that waits, and says so. It may do so while it has no more
in flight than its share, the limit over the processes that ask; what it has beyond that, the desk gives to whoever
waits longest.

When a process dies, its places are free again. What it had asked stays counted in the rates, and as spent at the most
it may cost: perhaps it was paid, and the budget is never crossed. It is then bought again by whoever does the work.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from redaes.engine.figures import Figures, merged
from redaes.engine.gate import Standing
from redaes.engine.limits import Admission, Outcome, Request

log = logging.getLogger(__name__)

BURIED = "this process was taken for dead, and its work is done elsewhere"
"""Why one that comes back must stop."""


class Enter(NamedTuple):
    """A call waits for its turn; see `redaes.engine.limits.Request`."""

    call: int
    endpoint: str
    label: str
    tokens: int
    cost: int


class Leave(NamedTuple):
    """An admitted call is over, see `Admission.settle`; `heir` is the call that has its place now, 0 if none."""

    call: int
    outcome: Outcome
    tokens: int
    cost: int
    retry_after: float
    heir: int = 0


class Withdraw(NamedTuple):
    """A call will not be made after all."""

    call: int


class Stop(NamedTuple):
    """Nobody is to go ahead any more."""

    reason: str


Event = Enter | Leave | Withdraw | Stop


class Member(NamedTuple):
    """A process that asks.

    Attributes:
        session: unique to one life of it.
        worker: its name, which a later life may take over.
        process: as Ray names it; empty if Ray does not know it.
        node: likewise.
    """

    session: str
    worker: str
    process: str = ""
    node: str = ""


class Letter(NamedTuple):
    """Events of a session.

    Attributes:
        first: number of the first event.
        heard: admissions that the process knows of.
    """

    session: str
    first: int
    events: tuple[Event, ...]
    heard: int


class News(NamedTuple):
    """An answer.

    Attributes:
        seen: events that have arrived.
        first: number of the first admission here.
        admitted: numbers of calls.
        stopped: why nothing more is asked; empty while it is.
        share: up to how many calls in flight the process may hand on their places.
    """

    seen: int
    first: int
    admitted: tuple[int, ...]
    stopped: str
    share: int = 0


class Mailbox:
    """A process's end. Not made for many threads."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.waiting: dict[int, Request] = {}
        self.in_flight = 0
        self.share = 0
        self.heard = 0
        self._events: list[Event] = []
        self.first = 0
        self._calls = 0
        self._numbers: dict[Request, int] = {}

    def enter(self, request: Request) -> None:
        """A call waits for its turn."""
        self._calls += 1
        self._numbers[request] = self._calls
        self.waiting[self._calls] = request
        self._events.append(Enter(self._calls, request.endpoint, request.label, request.tokens, request.cost))

    def leave(self, request: Request, outcome: Outcome, tokens: int, cost: int, retry_after: float) -> Request | None:
        """An admitted call is over.

        Returns:
            A call that may be made now, in its place.
        """
        self.in_flight -= 1
        heir = 0
        if outcome is Outcome.ANSWERED and self.in_flight < self.share:
            heir = next(iter(self.waiting), 0)
        self._events.append(Leave(self._numbers.pop(request), outcome, tokens, cost, retry_after, heir))
        return self._admit(heir) if heir else None

    def withdraw(self, request: Request) -> None:
        """A call will not be made after all, whether it is admitted or not."""
        number = self._numbers.pop(request)
        if self.waiting.pop(number, None) is None:
            self.in_flight -= 1
        self._events.append(Withdraw(number))

    def stop(self, reason: str) -> None:
        """Nobody is to go ahead any more."""
        self._events.append(Stop(reason))

    def letter(self) -> Letter:
        """Everything that is not known to have arrived."""
        return Letter(self.session, self.first, tuple(self._events), self.heard)

    def read(self, news: News) -> list[Request]:
        """Take note of an answer, which may be an old one.

        Returns:
            Calls that may be made now.
        """
        arrived = max(news.seen - self.first, 0)
        del self._events[:arrived]
        self.first += arrived
        fresh = news.admitted[max(self.heard - news.first, 0) :]
        self.heard += len(fresh)
        self.share = news.share
        return [self._admit(call) for call in fresh if call in self.waiting]

    def _admit(self, call: int) -> Request:
        request = self.waiting.pop(call)
        request.admitted = True
        self.in_flight += 1
        return request


@dataclass(slots=True, eq=False)
class _Call(Request):
    """A call of another process."""

    number: int = 0
    session: str = ""


@dataclass(slots=True)
class _Attendance:
    """A process that asks.

    Attributes:
        heard_at: when it last gave a sign of life.
        seen: events that have arrived.
        calls: that wait or are in flight.
        news: admissions that it is not known to know of.
        first: number of the first of them.
        sent: admissions that it was told.
        told: whether it was told why everything stops.
    """

    member: Member
    heard_at: float
    seen: int = 0
    calls: dict[int, _Call] = field(default_factory=dict)
    news: deque[int] = field(default_factory=deque)
    first: int = 0
    sent: int = 0
    told: bool = False

    @property
    def admitted(self) -> int:
        """Calls that were admitted so far."""
        return self.first + len(self.news)


class Desk:
    """The end that keeps the limits. Not made for many threads. Times are in seconds that never jump.

    Args:
        admission: who goes next.
    """

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self._present: dict[str, _Attendance] = {}
        self._buried: set[str] = set()
        self._blocks: dict[str, dict[str, tuple[str, ...]]] = {}
        self._sources: dict[str, set[str]] = {}
        self._figures: dict[str, dict[str, Figures]] = {}

    def join(self, member: Member, now: float) -> None:
        """A process will ask. An earlier one of the same name is dead."""
        if member.session in self._present or member.session in self._buried:
            return
        for earlier in [a.member for a in self._present.values() if a.member.worker == member.worker]:
            self.bury(earlier.session, now)
        self._present[member.session] = _Attendance(member, now)

    def receive(self, letter: Letter, now: float) -> None:
        """Let what is new in a letter happen; nobody is admitted before `advance`."""
        present = self._present.get(letter.session)
        if present is None:
            return
        present.heard_at = now
        for event in letter.events[max(present.seen - letter.first, 0) :]:
            self._happen(present, event, now)
            present.seen += 1

    def _happen(self, present: _Attendance, event: Event, now: float) -> None:
        match event:
            case Enter(number, endpoint, label, tokens, cost):
                call = _Call(endpoint, label, tokens, cost, number=number, session=present.member.session)
                present.calls[number] = call
                self.admission.queue(call)
            case Leave(number, outcome, tokens, cost, retry_after, heir):
                self.admission.settle(present.calls.pop(number), now, outcome, tokens, cost, retry_after)
                # If the heir has been admitted meanwhile, it needs no second place.
                if heir and not present.calls[heir].admitted:
                    self.admission.prefer(present.calls[heir], now)
            case Withdraw(number):
                self.admission.withdraw(present.calls.pop(number), now)
            case Stop(reason):
                self.stop(reason)

    def advance(self, now: float) -> float:
        """Admit everybody whose turn has come.

        Returns:
            When somebody's turn comes by itself; infinite if only another's end can bring it.
        """
        for call in self.admission.admit(now):
            assert isinstance(call, _Call)
            self._present[call.session].news.append(call.number)
        return min((ready for _, ready in self.admission.heads(now)), default=float("inf"))

    def unaware(self, session: str) -> bool:
        """Whether there is something that no answer to a process has held."""
        present = self._present.get(session)
        if present is None:
            return True
        return present.sent < present.admitted or (bool(self.admission.stopped) and not present.told)

    def has_news(self, session: str, heard: int) -> bool:
        """Whether there is something for a process that knows of `heard` admissions."""
        present = self._present.get(session)
        return present is None or heard < present.admitted or self.unaware(session)

    def news(self, session: str, heard: int) -> News:
        """What to tell a process that knows of `heard` admissions."""
        present = self._present.get(session)
        if present is None:
            return News(0, heard, (), BURIED)
        while present.first < heard:
            present.news.popleft()
            present.first += 1
        present.sent = present.admitted
        present.told = bool(self.admission.stopped)
        return News(present.seen, present.first, tuple(present.news), self.admission.stopped, self._share())

    def _share(self) -> int:
        """Up to how many calls in flight a process may hand on their places; 0 where more than their number counts."""
        asking = sum(bool(present.calls) for present in self._present.values())
        return self.admission.most // max(asking, 1) if self.admission.counts_only() else 0

    def stop(self, reason: str) -> None:
        """Let nobody go ahead any more. The first reason stays."""
        self.admission.stopped = self.admission.stopped or reason

    def alive(self, session: str, now: float) -> None:
        """A process gave a sign of life."""
        if session in self._present:
            self._present[session].heard_at = now

    def silent(self, now: float, seconds: float) -> list[tuple[Member, float]]:
        """Processes that gave no sign of life for longer than so long, and for how long."""
        return [(a.member, now - a.heard_at) for a in self._present.values() if now - a.heard_at > seconds]

    def bury(self, session: str, now: float) -> None:
        """A process has died: its calls in flight are counted as spent, at the most they may cost."""
        if session in self._present:
            present = self._present[session]
            flying = sum(call.admitted for call in present.calls.values())
            level = logging.WARNING if flying else logging.DEBUG
            log.log(level, "worker %s died; its %d calls in flight count as paid for", present.member.worker, flying)
            self.depart(session, now)

    def depart(self, session: str, now: float) -> None:
        """A process will not ask any more; calls in flight are counted as spent, at the most they may cost."""
        present = self._present.pop(session, None)
        if present is None:
            return
        self._buried.add(session)
        for call in present.calls.values():
            if call.admitted:
                self.admission.settle(call, now, Outcome.UNUSED, call.tokens, call.cost)
            else:
                self.admission.withdraw(call, now)

    def named(self, worker: str) -> list[str]:
        """Sessions of the processes of this name."""
        return [session for session, present in self._present.items() if present.member.worker == worker]

    def begin(self, session: str, block: str, sources: Sequence[str]) -> int:
        """A process begins to work on a block of sources.

        Returns:
            How often another began it and did not `end` it, because it died.
        """
        begun = self._blocks.setdefault(block, {})
        begun[session] = tuple(sources)
        return len(begun) - 1

    def end(self, session: str, block: str) -> None:
        """A process has ended its work on a block, well or not, and lives."""
        self._blocks.get(block, {}).pop(session, None)

    def busy(self) -> int:
        """Blocks that processes work on."""
        return sum(session in self._present for begun in self._blocks.values() for session in begun)

    def begin_source(self, session: str, source: str) -> int:
        """A process begins to work on nothing but this source.

        Returns:
            See `deaths`.
        """
        self._sources.setdefault(source, set()).add(session)
        return self.deaths(session, source)

    def end_source(self, session: str, source: str) -> None:
        """A process has ended its work on a source, well or not, and lives."""
        self._sources.get(source, set()).discard(session)

    def deaths(self, session: str, source: str) -> int:
        """How often a process other than this one died while it worked on nothing but this source."""
        return len(self._sources.get(source, set()) - {session})

    def post(self, session: str, figures: dict[str, Figures]) -> None:
        """What became of the questions of a process since its beginning, by role."""
        self._figures[session] = figures

    def figures(self) -> dict[str, Figures]:
        """What became of the questions of all processes, the dead included."""
        return merged(*self._figures.values())

    def standing(self) -> Standing:
        """How things stand."""
        return Standing.of(self.admission)
