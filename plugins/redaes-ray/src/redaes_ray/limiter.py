"""The limits of one build, kept once for a whole cluster: calls in flight, rates, breakers, give-up and budget.

    threads --> RemoteGate --letters of events--> _Keeper, one actor on the driver's node
       ^            |  ^                             |  the Desk (redaes_ray.desk) over an Admission,
       '---woken----'  '------------news-------------'  unchanged (redaes.engine.limits)

Letters and news go over a connection of their own between the two processes, which takes less of the processor than
method calls of the actor. Events travel in batches that form by themselves: the next letter leaves when the last was
acknowledged, at the earliest `GATHER_S` later, and `UNHURRIED_S` later where nobody waits for an answer to it. Joining,
blocks of sources and the driver's view are methods of the actor. A connection that breaks is made again; letters are
numbered, so that nothing counts twice.

A process whose gate has been silent for `SUSPICIOUS_S` is looked up in Ray's own tables. If Ray says that it has
ended, or its node has, its calls are given back as redaes_ray.desk tells. One that is only slow keeps its places.

The keeper is not restarted: a new one would not know what calls in flight may cost, nor what was asked in the last
minute. If it dies, everything stops, and the same command goes on with what the ledger holds.
"""

import asyncio
import logging
import math
import pickle
import secrets
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from redaes.engine.config import FlowSettings
from redaes.engine.figures import Figures, Snapshot
from redaes.engine.gate import Standing, Stopped
from redaes.engine.limits import NANO, Admission, Outcome, Request
from redaes_ray.desk import Desk, Letter, Mailbox, Member, News

log = logging.getLogger(__name__)

GATHER_S = 0.005
UNHURRIED_S = 0.1
PULSE_S = 1.0
SUSPICIOUS_S = 3.0
# Where Ray's tables say nothing. Longer than any pause of a process that lives.
_LOST_S = 120.0

# After so long without a sign that a letter has arrived, the connection is made anew.
_SWALLOWED_S = 30.0

TOKEN_BYTES = 32
_SIZE = struct.Struct("!I")

KEEPER_LOST = "the process that keeps the limits of all workers has ended; run the same command again to go on"
"""Why everything stops when the keeper dies."""


class Address(NamedTuple):
    """Where the keeper listens, and what one must know to be heard."""

    host: str
    port: int
    token: bytes


class _Keeper:
    """The actor."""

    def __init__(self, flow: FlowSettings, spent: int, currency: str) -> None:
        self.desk = Desk(Admission.of(flow, spent, currency))
        self.currency = currency
        self.messages = 0
        self._began = time.monotonic()
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._heard: dict[str, int] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._watch: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[Address] | None = None

    async def join(self, member: Member) -> Address:
        """A process will ask; where it is listened to."""
        # Many join at the same time: whoever comes second must wait for the server of the first.
        if self._watch is None or self._opening is None:
            self._watch = asyncio.create_task(self._look_after_the_silent())
            self._opening = asyncio.create_task(self._open())
        address = await asyncio.shield(self._opening)
        self.desk.join(member, time.monotonic())
        self._advance()
        return address

    async def _open(self) -> Address:
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        server = await asyncio.start_server(self._serve, host, 0)
        return Address(host, server.sockets[0].getsockname()[1], self._token)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Correspond with one process, over one connection of it, until it breaks."""
        session = ""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            # Nothing is unpickled of somebody who was not told the token by Ray.
            if not secrets.compare_digest(await reader.readexactly(TOKEN_BYTES), self._token):
                writer.close()
                return
            while True:
                (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
                letter, figures = pickle.loads(await reader.readexactly(size))
                session = letter.session
                self._writers[session] = writer
                self._receive(letter, figures, writer)
        if session and self._writers.get(session) is writer:
            del self._writers[session]
        writer.close()

    def _receive(self, letter: Letter, figures: dict[str, Figures] | None, writer: asyncio.StreamWriter) -> None:
        """What happened in a process; it is told what it should know, and so are the others."""
        self.messages += 1
        now = time.monotonic()
        self.desk.receive(letter, now)
        self.desk.alive(letter.session, now)
        if figures is not None:
            self.desk.post(letter.session, figures)
        self._admit(now)
        self._heard[letter.session] = letter.heard
        writer.write(_frame(self.desk.news(letter.session, letter.heard)))
        self._ring()

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
        self._heard.pop(session, None)
        self._writers.pop(session, None)
        self._advance()

    async def begin(self, session: str, block: str, sources: Sequence[str]) -> int:
        """See `Desk.begin`."""
        return self.desk.begin(session, block, sources)

    async def end(self, session: str, block: str) -> None:
        """See `Desk.end`."""
        self.desk.end(session, block)

    async def busy(self) -> int:
        """See `Desk.busy`."""
        return self.desk.busy()

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
        self._alarm = None
        if not math.isinf(ready):
            self._alarm = asyncio.get_running_loop().call_later(ready - now, self._advance)

    def _ring(self) -> None:
        """Tell those who are concerned."""
        for session, writer in self._writers.items():
            if self.desk.unaware(session):
                writer.write(_frame(self.desk.news(session, self._heard.get(session, 0))))

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
        self._written = threading.Condition(self._lock)
        self._unsent = False
        self._unacknowledged = 0
        self._closing = False
        self._ended = False
        self._member = Member(self.session, worker, context.get_worker_id(), context.get_node_id())
        self._connection = self._connected()
        self._writer = threading.Thread(target=self._write, name="gate's writer", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="gate's listener", daemon=True)
        self._writer.start()
        self._listener.start()

    def enter(self, request: Request) -> None:
        """Wait until the call may be made; `leave` must follow.

        Raises:
            Stopped: it may not be made any more.
        """
        request.wake.acquire()
        with self._lock:
            self._check()
            self._mail.enter(request)
            # A process that has its share waits for a call of its own to end.
            if not 0 < self._mail.share <= self._mail.in_flight:
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
            heir = self._mail.leave(request, outcome, tokens, cost, retry_after)
            if heir is None:
                self._send()
            else:
                _wake(heir)

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
        with self._written:
            self._closing = self._unsent = True
            self._written.notify_all()
        self._writer.join()
        with suppress(Stopped):
            self.limiter.ask("depart", self.session)
        with self._lock:
            self._ended = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._listener.join()

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
        if not self._unsent:
            self._unsent = True
            self._written.notify_all()

    def _stop_here(self, reason: str) -> None:
        """Wake everybody in this process; the lock is held."""
        self._stopped = self._stopped or reason
        self._stopping.set()
        for request in self._mail.waiting.values():
            _wake(request)

    # --- the correspondence -------------------------------------------------------------------------------------------

    def _connected(self) -> socket.socket:
        """A connection to the keeper, as soon as there can be one.

        Raises:
            Stopped: the keeper is dead.
        """
        while True:
            address: Address = self.limiter.ask("join", self._member)
            try:
                connection = socket.create_connection((address.host, address.port), timeout=_LOST_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if hasattr(socket, "TCP_USER_TIMEOUT"):  # a network that swallows letters breaks the connection, too
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * _SWALLOWED_S))
                connection.settimeout(None)
                connection.sendall(address.token)
                return connection
            except OSError as error:
                log.warning("the keeper of the limits cannot be reached at %s (%s); once more", address.host, error)
                time.sleep(PULSE_S)

    def _write(self) -> None:
        """Send what happens here, and a sign of life now and then, until this closes and everything has arrived."""
        pulse = unhurried = 0.0
        while True:
            with self._written:
                self._written.wait_for(self._may_write, timeout=UNHURRIED_S if self._mail.share else PULSE_S)
                letter, now = self._mail.letter(), time.monotonic()
                if self._ended or (self._closing and not letter.events):
                    return
                beat = now >= pulse
                due = self._unsent or (letter.events and now >= unhurried)
                if not beat and (not due or self._unacknowledged > letter.first):
                    continue
                self._unsent = False
                self._unacknowledged = letter.first + len(letter.events)
                connection = self._connection
            pulse = now + PULSE_S if beat else pulse
            unhurried = now + UNHURRIED_S
            with suppress(OSError):  # the listener notices too, and connects anew
                connection.sendall(_frame((letter, self.figures() if beat else None)))
            time.sleep(GATHER_S)

    def _may_write(self) -> bool:
        everything_arrived = self._closing and not self._mail.letter().events
        return self._ended or everything_arrived or (self._unsent and self._unacknowledged <= self._mail.first)

    def _listen(self) -> None:
        """Hear what may be done and what happens elsewhere, until this closes or the keeper dies."""
        reason = "this gate is closed"
        try:
            while not self._ended:
                with suppress(OSError, EOFError), self._connection.makefile("rb") as file:
                    while True:
                        self._read(_received(file))
                self._connection.close()
                if not self._ended:
                    self._connection = self._connected()
                    with self._lock:  # whatever was on its way goes once more
                        self._unsent, self._unacknowledged = True, 0
                        self._written.notify_all()
        except Exception as error:  # nobody may be left waiting
            reason = str(error) if isinstance(error, Stopped) else _keeper_lost(error)
        with self._lock:
            self._ended = True
            self._stop_here(reason)
            self._written.notify_all()

    def _read(self, news: News) -> None:
        with self._lock:
            for request in self._mail.read(news):
                _wake(request)
            if news.stopped:
                self._stop_here(news.stopped)
            self._written.notify_all()


def _frame(content: object) -> bytes:
    """Anything, with its length before it."""
    body = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return _SIZE.pack(len(body)) + body


def _received(file: BinaryIO) -> Any:
    """What the next frame holds.

    Raises:
        EOFError: the connection is closed.
    """
    head = file.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(head)
    body = file.read(size)
    if len(body) < size:
        raise EOFError
    return pickle.loads(body)


def _wake(request: Request) -> None:
    if request.wake.locked():
        request.wake.release()


def _keeper_lost(error: Exception) -> str:
    """Why everything stops, on one line."""
    if isinstance(error, RayActorError):
        return KEEPER_LOST
    return f"the limits of all workers cannot be kept any more: {' '.join(repr(error).split())[:500]}"
