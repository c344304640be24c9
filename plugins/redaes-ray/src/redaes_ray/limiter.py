"""The limits of one build, kept once for a whole cluster: calls in flight, rates, breakers, give-up and budget.

    threads --> RemoteGate --receive: a letter of events--> _Keeper, one actor on the driver's node
       ^            |  ^                                       |  the Desk (redaes_ray.desk) over an Admission,
       '---woken----'  '----listen: answered when there is ----'  unchanged (redaes.engine.limits)
                                         news, or once a second

A gate's events travel in batches that form by themselves: the next letter leaves when the last is answered, at the
earliest `GATHER_S` later. So a call costs about two hundredths of a message where there are many, and waits for
nobody where there are few.

A process whose gate has been silent for `SUSPICIOUS_S` is looked up in Ray's own tables. If Ray says that it has
ended, or its node has, its calls are given back as redaes_ray.desk tells. One that is only slow keeps its places.

The keeper is not restarted: a new one would not know what calls in flight may cost, nor what was asked in the last
minute. If it dies, everything stops, and the same command goes on with what the ledger holds.
"""

import asyncio
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from redaes.engine.config import FlowSettings
from redaes.engine.figures import Figures, Snapshot
from redaes.engine.gate import Standing, Stopped
from redaes.engine.limits import NANO, Admission, Outcome, Request
from redaes_ray.desk import Desk, Letter, Mailbox, Member, News

log = logging.getLogger(__name__)

GATHER_S = 0.003
PULSE_S = 1.0
SUSPICIOUS_S = 3.0
# Where Ray's tables say nothing. Longer than any pause of a process that lives.
_LOST_S = 120.0

KEEPER_LOST = "the process that keeps the limits of all workers has ended; run the same command again to go on"
"""Why everything stops when the keeper dies."""


class _Keeper:
    """The actor."""

    def __init__(self, flow: FlowSettings, spent: int, currency: str) -> None:
        budget = None if flow.budget is None else math.floor(flow.budget * NANO)
        self.desk = Desk(Admission(flow.in_flight, flow.limits, flow.retries, budget, spent, currency))
        self.currency = currency
        self.messages = 0
        self._began = time.monotonic()
        self._bells: dict[str, asyncio.Event] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    async def join(self, member: Member) -> None:
        """A process will ask."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._look_after_the_silent())
        self.desk.join(member, time.monotonic())
        self._advance()

    async def receive(self, letter: Letter) -> News:
        """What happened in a process; what it should know."""
        self.messages += 1
        now = time.monotonic()
        self.desk.receive(letter, now)
        self._admit(now)
        news = self.desk.news(letter.session, letter.heard)
        self._ring()
        return news

    async def listen(self, session: str, heard: int, figures: dict[str, Figures]) -> News:
        """Wait until there is news for a process, for `PULSE_S` at most; `receive` may have told it meanwhile."""
        self.messages += 1
        self.desk.alive(session, time.monotonic())
        self.desk.post(session, figures)
        bell = self._bells.setdefault(session, asyncio.Event())
        if not self.desk.has_news(session, heard):
            with suppress(TimeoutError):
                async with asyncio.timeout(PULSE_S):
                    while not self.desk.unaware(session):
                        bell.clear()
                        await bell.wait()
                        # More may come, or an answer to a letter takes it along.
                        await asyncio.sleep(GATHER_S)
        return self.desk.news(session, heard)

    async def stop(self, reason: str) -> None:
        """Let nobody go ahead any more."""
        self.desk.stop(reason)
        self._advance()

    async def stopped(self) -> str:
        """Why nothing more is asked."""
        return self.desk.admission.stopped

    async def bury(self, worker: str) -> None:
        """The driver knows that a worker has died."""
        for session in self.desk.named(worker):
            self._bury(session)

    async def depart(self, session: str) -> None:
        """A process will not ask any more."""
        self.desk.depart(session, time.monotonic())
        self._bells.pop(session, None)
        self._advance()

    async def begin(self, session: str, block: str, sources: Sequence[str]) -> int:
        """See `Desk.begin`."""
        return self.desk.begin(session, block, sources)

    async def end(self, session: str, block: str) -> None:
        """See `Desk.end`."""
        self.desk.end(session, block)

    async def begin_source(self, session: str, source: str) -> int:
        """See `Desk.begin_source`."""
        return self.desk.begin_source(session, source)

    async def end_source(self, session: str, source: str) -> None:
        """See `Desk.end_source`."""
        self.desk.end_source(session, source)

    async def deaths(self, session: str, source: str) -> int:
        """See `Desk.deaths`."""
        return self.desk.deaths(session, source)

    async def standing(self) -> Standing:
        """How things stand."""
        return self.desk.standing()

    async def snapshot(self) -> Snapshot:
        """How things stand, over all processes."""
        standing = self.desk.standing()
        return Snapshot(
            seconds=time.monotonic() - self._began,
            roles=self.desk.figures(),
            in_flight=standing.in_flight,
            waiting=standing.waiting,
            spent=standing.spent / NANO,
            currency=self.currency,
            endpoints=standing.endpoints,
        )

    async def burden(self) -> tuple[int, float]:
        """Messages so far, and processor seconds of this process."""
        return self.messages, time.process_time()

    def _advance(self) -> None:
        self._admit(time.monotonic())
        self._ring()

    def _admit(self, now: float) -> None:
        """Admit whom one may, and come back when somebody's turn comes by itself."""
        ready = self.desk.advance(now)
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if math.isinf(ready) else asyncio.get_running_loop().call_at(ready, self._advance)

    def _ring(self) -> None:
        """Answer those who listen and are concerned."""
        for session, bell in self._bells.items():
            if self.desk.unaware(session):
                bell.set()

    async def _look_after_the_silent(self) -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            for member, seconds in self.desk.silent(time.monotonic(), SUSPICIOUS_S):
                ended = await asyncio.to_thread(has_ended, member.process, member.node)
                if ended or (ended is None and seconds > _LOST_S):
                    self._bury(member.session)

    def _bury(self, session: str) -> None:
        self.desk.bury(session, time.monotonic())
        self._advance()


def has_ended(process: str, node: str) -> bool | None:
    """Whether Ray knows that a process, or the node that it was on, has ended; None if Ray cannot tell.

    Args:
        process: its worker id in hexadecimal.
        node: its node's id, likewise.
    """
    try:
        nodes = {known["NodeID"]: known["Alive"] for known in ray.nodes()}  # type: ignore[no-untyped-call]
        if not nodes.get(node, True):
            return True
        # The public way (ray.util.state) needs the dashboard, which a cluster may do without.
        from ray._private.state import state
        from ray.core.generated.gcs_pb2 import WorkerTableData  # type: ignore[attr-defined]

        found = state._connect_and_get_accessor().get_worker_info(ray.WorkerID.from_hex(process))
    except Exception as error:  # whatever a later Ray makes of this; asked again as long as it matters
        log.warning("cannot ask Ray whether a worker lives (%r); one is taken for dead after %g s", error, _LOST_S)
        return None
    return None if found is None else not WorkerTableData.FromString(found).is_alive


class Limiter:
    """A handle of the keeper, for the driver; it can be pickled, and workers make a `RemoteGate` of it.

    What it says when the keeper is dead: what it last knew, and that everything stopped.

    Args:
        actor: the keeper's handle.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self._snapshot = Snapshot(0.0, {}, 0, 0, 0.0, "", {})

    @classmethod
    def start(cls, flow: FlowSettings, spent: int = 0, currency: str = "") -> Self:
        """Start the keeper on this node; it ends with this driver.

        Args:
            flow: limits, retries and budget.
            spent: before, in billionths of the currency.
            currency: for messages.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        keeper = ray.remote(_Keeper).options(
            num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=10_000, scheduling_strategy=here
        )
        return cls(keeper.remote(flow, spent, currency))

    def __reduce__(self) -> tuple[type[Self], tuple[Any]]:
        return type(self), (self.actor,)

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer of a method of the keeper that may be called twice.

        Raises:
            Stopped: the keeper is dead.
        """
        while True:
            try:
                return ray.get(getattr(self.actor, method).remote(*arguments))
            except ActorUnavailableError:
                time.sleep(PULSE_S)
            except RayError as error:
                raise Stopped(_keeper_lost(error)) from error

    def snapshot(self) -> Snapshot:
        """How things stand, over all workers."""
        try:
            self._snapshot = self.ask("snapshot")
        except Stopped as stopped:
            log.debug("%s", stopped)
        return self._snapshot

    def standing(self) -> Standing:
        """How things stand, over all workers.

        Raises:
            Stopped: the keeper is dead.
        """
        standing: Standing = self.ask("standing")
        return standing

    @property
    def stopped(self) -> str:
        """Why nothing more is asked; empty while it is."""
        try:
            return str(self.ask("stopped"))
        except Stopped as stopped:
            return str(stopped)

    def stop(self, reason: str) -> None:
        """Let nobody go ahead any more; who waits is woken. The first reason stays."""
        try:
            self.ask("stop", reason)
        except Stopped as stopped:
            log.debug("%s", stopped)

    def bury(self, worker: str) -> None:
        """The process of this name is known to have died; otherwise it is noticed within seconds.

        Raises:
            Stopped: the keeper is dead.
        """
        self.ask("bury", worker)

    def close(self) -> None:
        """End the keeper."""
        ray.kill(self.actor)


class RemoteGate:
    """The gate of one process among those that share a limiter: a `redaes.engine.gate.GateProtocol`.

    Args:
        limiter: shared.
        worker: a name of this process; if another comes with it, this one is taken for dead.
        figures: what became of the questions of this process, for the driver's view; asked once a second.

    Raises:
        Stopped: the keeper is dead.
    """

    def __init__(self, limiter: Limiter, worker: str, figures: Callable[[], dict[str, Figures]] = dict) -> None:
        self.limiter = limiter
        self.figures = figures
        context = ray.get_runtime_context()
        self.session = uuid.uuid4().hex
        self._mail = Mailbox(self.session)
        self._lock = threading.Lock()
        self._stopped = ""
        self._stopping = threading.Event()
        self._closing = False
        self._called = False
        self._loop = asyncio.new_event_loop()
        self._written = asyncio.Event()
        limiter.ask("join", Member(self.session, worker, context.get_worker_id(), context.get_node_id()))
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()

    def enter(self, request: Request) -> None:
        """Wait until the call may be made; `leave` must follow.

        Raises:
            Stopped: it may not be made any more.
        """
        request.wake.acquire()
        with self._lock:
            self._check()
            self._mail.enter(request)
            self._send()
        request.wake.acquire()
        with self._lock:
            if self._stopped:
                self._mail.withdraw(request)
                self._send()
                self._check()

    def leave(self, request: Request, outcome: Outcome, tokens: int = 0, cost: int = 0, retry_after: float = 0) -> None:
        """The call is over; see `Admission.settle`. This neither waits nor fails."""
        with self._lock:
            self._mail.leave(request, outcome, tokens, cost, retry_after)
            self._send()

    def pause(self, seconds: float) -> None:
        """Wait, or until everything stops.

        Raises:
            Stopped: it did.
        """
        if self._stopping.wait(min(seconds, threading.TIMEOUT_MAX)):
            self._check()

    def stop(self, reason: str) -> None:
        """Let nobody go ahead any more, in no process; who waits is woken. The first reason stays."""
        with self._lock:
            self._mail.stop(reason)
            self._send()
            self._stop_here(reason)

    @property
    def stopped(self) -> str:
        """Why nothing more is asked; empty while it is."""
        return self._stopped

    def standing(self) -> Standing:
        """How things stand, over all processes.

        Raises:
            Stopped: the keeper is dead.
        """
        return self.limiter.standing()

    def begin(self, block: str, sources: Sequence[str]) -> int:
        """This process begins to work on a block of sources; `end` must follow, however the work ends.

        Returns:
            How often another process began it and died; 0 normally.

        Raises:
            Stopped: the keeper is dead. So do the methods below.
        """
        return int(self.limiter.ask("begin", self.session, block, tuple(sources)))

    def end(self, block: str) -> None:
        """This process has ended its work on a block, well or not."""
        self.limiter.ask("end", self.session, block)

    def begin_source(self, source: str) -> int:
        """This process begins to work on this source and no other, as is done in blocks that killed somebody.

        Returns:
            How often another process died on this very source.
        """
        return int(self.limiter.ask("begin_source", self.session, source))

    def end_source(self, source: str) -> None:
        """This process has ended its work on a source, well or not."""
        self.limiter.ask("end_source", self.session, source)

    def deaths(self, source: str) -> int:
        """How often another process died while it worked on this source and no other."""
        return int(self.limiter.ask("deaths", self.session, source))

    def close(self) -> None:
        """This process will not ask any more. What is in flight counts as paid for."""
        self._closing = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._written.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._stopped:
            raise Stopped(self._stopped)

    def _send(self) -> None:
        """A letter is to leave soon; the lock is held."""
        if not self._called and self._thread.is_alive():
            self._called = True
            self._loop.call_soon_threadsafe(self._written.set)

    def _stop_here(self, reason: str) -> None:
        """Wake everybody in this process; the lock is held."""
        self._stopped = self._stopped or reason
        self._stopping.set()
        for request in self._mail.waiting.values():
            _wake(request)

    def _run(self) -> None:
        """Correspond until this closes or the keeper dies; afterwards letters are not sent any more."""
        reason = "this gate is closed"
        try:
            self._loop.run_until_complete(self._correspond())
        except Exception as error:  # nobody may be left waiting
            reason = _keeper_lost(error)
        with self._lock:
            self._stop_here(reason)

    async def _correspond(self) -> None:
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._write())]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        for task in done:
            task.result()
        await self._post("depart", self.session)

    async def _write(self) -> None:
        """Send what happens here, until this closes and everything is sent."""
        while True:
            if not self._closing:
                await self._written.wait()
            self._written.clear()
            with self._lock:
                self._called = False
                letter = self._mail.letter()
            if letter.events:
                self._read(await self._post("receive", letter))
                await asyncio.sleep(GATHER_S)
            elif self._closing:
                return

    async def _listen(self) -> None:
        """Hear what happens elsewhere."""
        while True:
            self._read(await self._post("listen", self.session, self._mail.heard, self.figures()))

    async def _post(self, method: str, *arguments: Any) -> Any:
        while True:
            try:
                return await getattr(self.limiter.actor, method).remote(*arguments)
            except ActorUnavailableError:
                await asyncio.sleep(PULSE_S)

    def _read(self, news: News) -> None:
        with self._lock:
            for request in self._mail.read(news):
                _wake(request)
            if news.stopped:
                self._stop_here(news.stopped)


def _wake(request: Request) -> None:
    if request.wake.locked():
        request.wake.release()


def _keeper_lost(error: Exception) -> str:
    """Why everything stops, on one line."""
    if isinstance(error, RayActorError):
        return KEEPER_LOST
    return f"the limits of all workers cannot be kept any more: {' '.join(repr(error).split())[:500]}"
