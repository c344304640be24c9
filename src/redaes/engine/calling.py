"""Every question of the engine to a plug-in goes through `Calls.ask`, and is bought once.

    question -> key -> in the ledger?  yes: that answer
                                       no: wait for its turn (redaes.engine.limits), ask, write it down, use it

The key is a digest of all that the answer depends on: role, plug-in, its identity (model, prompt, parameters), the
question and the images. Whatever was paid for is in the ledger before anything is done with it: an answer that cannot
be used too, and one that comes when everything stops. A call that waits, for its turn, for its next try or for the
ledger, holds no permit. Keys are blotted out of all that is written (redaes.redaction).

What a plug-in raises and what follows from it: see redaes.calls. None of this changes the dataset; all of it is ours.
"""

import hashlib
import json
import logging
import math
import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from redaes.calls import CallError, Declined, Receipt, Role, Transient, UnusableAnswer, collecting
from redaes.data.manifest import canonical_json
from redaes.engine.config import FlowSettings, RetrySettings
from redaes.engine.figures import Figures, Snapshot, Tally, merged
from redaes.engine.gate import Gate, GateProtocol, Stopped
from redaes.engine.ledger import CallRecord, LedgerProtocol
from redaes.engine.limits import NANO, Admission, Outcome, Request
from redaes.engine.lines import Line, Named
from redaes.engine.prices import PriceTable
from redaes.errors import UserError
from redaes.redaction import keep_secret, redact
from redaes.registry import PluginSpec, identity_of

if TYPE_CHECKING:
    from redaes.engine.objects import Picture

__all__ = ["Calls", "GivenUp", "Lost", "Stopped", "backoff"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_REPLY = 200_000
_LONGEST_MESSAGE = 500


class GivenUp(Exception):
    """A call is a dead letter; its source is left out until it is asked again (`redaes data retry`).

    Attributes:
        key: of the call.
        source: it was for.
    """

    def __init__(self, key: str, source: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.source = source


class Lost(Exception):
    """Raised by a `load`: what an answer of the ledger refers to is gone, such as an image. It is asked again."""


@dataclass(slots=True)
class _Question:
    line: Line
    key: str
    source: str
    images: tuple[str, ...]


@dataclass(slots=True)
class _Try:
    """How one try ended: a value, a failure, or something that is a fault."""

    receipt: Receipt
    value: Any = None
    failure: CallError | None = None
    fault: BaseException | None = None
    seconds: float = 0.0
    at: float = field(default_factory=time.time)


def backoff(failures: int, retries: RetrySettings, retry_after: float = 0.0, rng: random.Random | None = None) -> float:
    """Seconds to wait before the next try: exponential with full jitter, on top of what the far side asked for.

    Args:
        failures: so far, from 1.
        retries: `base_seconds` doubles up to `max_seconds`.
        retry_after: seconds.
        rng: the jitter's; None: a shared one.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    longest = min(retries.max_seconds, retries.base_seconds * 2.0 ** min(failures - 1, 60))
    if retry_after > 0:
        longest = min(longest, retries.base_seconds)
    return max(retry_after, 0.0) + (rng or random).uniform(0.0, longest)


def spent_of(ledger: LedgerProtocol) -> int:
    """What all calls of a ledger have cost, in billionths of the currency."""
    return round(sum(total.cost for total in ledger.totals()) * NANO)


class Calls:
    """Asks plug-ins, and the ledger first. Made for many threads.

    Args:
        ledger: answers are looked up and written down there.
        flow: limits, retries, budget, prices.
        clock: seconds that never go back.
        gate: where calls wait for their turn; None: one of this process alone.

    Attributes:
        gate: that one.

    Raises:
        UserError: the price table cannot be read.
    """

    def __init__(
        self,
        ledger: LedgerProtocol,
        flow: FlowSettings,
        clock: Callable[[], float] = time.monotonic,
        gate: GateProtocol | None = None,
    ) -> None:
        self.ledger = ledger
        self.flow = flow
        self.clock = clock
        self.prices = PriceTable(flow.prices)
        self.gate = gate or Gate(Admission.of(flow, spent_of(ledger), self.prices.currency), clock)
        self._began = clock()
        self._lock = threading.Lock()
        self._ongoing: dict[str, Future[Any] | None] = {}
        self._lines: dict[tuple[str, int], Line] = {}
        self._enlisted: dict[int, tuple[Named, dict[str, Any]]] = {}
        self._tally = Tally()

    def enlist(self, kind: str, spec: PluginSpec, plugin: Named, roles: Sequence[Role]) -> None:
        """Get to know a plug-in before it is asked, so that what is wrong shows before anything is spent.

        Args:
            kind: one of `redaes.registry.KINDS`.
            spec: what the plug-in was made from.
            plugin: it.
            roles: it will be asked in.

        Raises:
            UserError: there is a budget, and nobody knows what its calls cost; or a call is larger than its limit.
        """
        known = {} if hasattr(plugin, "identity") else identity_of(kind, spec, plugin)
        self._enlisted[id(plugin)] = (plugin, known)
        for role in roles:
            self._line(role, plugin)

    def ask(
        self,
        role: Role,
        plugin: Named,
        images: Sequence["Picture"],
        question: Mapping[str, Any],
        function: Callable[[], T],
        source: str,
        dump: Callable[[T], Any],
        load: Callable[[Any], T],
    ) -> T:
        """The answer to a question, from the ledger or bought.

        Args:
            role: of the plug-in.
            plugin: that answers; one without `identity` must be enlisted.
            images: that the question is about.
            question: everything else that it is about, as JSON values.
            function: asks the plug-in.
            source: whose way through the engine this is.
            dump: the answer as JSON values; called before the answer is written down.
            load: the answer from JSON values; raises `Lost` if they are not enough any more.

        Raises:
            GivenUp: it was tried, or had been, until it made no sense.
            Stopped: nothing more is asked.
            UserError: the configuration is at fault. Nothing more is asked.
            RuntimeError: the plug-in is at fault. Nothing more is asked.
        """
        line = self._lines.get((role, id(plugin))) or self._line(role, plugin)
        shas = tuple([picture.sha for picture in images])
        key = _key(line, question, shas)
        with self._lock:
            known = key in self._ongoing
            ongoing = (self._ongoing[key] or Future()) if known else None
            self._ongoing[key] = ongoing
        self._tally.add(role, asked=1, shared=ongoing is not None)
        if ongoing is not None:
            shared: T = ongoing.result()
            return shared
        try:
            value = self._find_or_buy(_Question(line, key, source, shas), function, dump, load)
        except BaseException as error:
            if not isinstance(error, GivenUp | Stopped):
                self.stop(_one_line(error))
            waited_for = self._end(key)
            if waited_for is not None:
                waited_for.set_exception(error)
            raise
        waited_for = self._end(key)
        if waited_for is not None:
            waited_for.set_result(value)
        return value

    def figures(self) -> dict[str, Figures]:
        """What became of the questions that were put here, by role."""
        return self._tally.figures()

    def stop(self, reason: str) -> None:
        """Ask nothing more. Calls in flight finish and are written down; those that wait give up at once."""
        self.gate.stop(reason)

    @property
    def stopped(self) -> str:
        """Why nothing more is asked; empty while it is."""
        return self.gate.stopped

    def snapshot(self) -> Snapshot:
        """How things stand."""
        standing = self.gate.standing()
        return Snapshot(
            seconds=self.clock() - self._began,
            roles=merged(self._tally.figures(), standing.figures),
            in_flight=standing.in_flight,
            waiting=standing.waiting,
            spent=standing.spent / NANO,
            currency=self.prices.currency,
            endpoints=standing.endpoints,
        )

    def _end(self, key: str) -> Future[Any] | None:
        """The question is not on its way any more; what others who have put it meanwhile wait for."""
        with self._lock:
            return self._ongoing.pop(key)

    def _line(self, role: Role, plugin: Named) -> Line:
        if getattr(plugin, "key_variable", ""):
            keep_secret(plugin.key_variable)  # type: ignore[attr-defined]
        line = Line.of(role, plugin, self._identity(role, plugin), self.flow, self.prices)
        with self._lock:
            # The reference keeps the plug-in's id from being given to another.
            self._enlisted.setdefault(id(plugin), (plugin, {}))
            return self._lines.setdefault((role, id(plugin)), line)

    def _identity(self, role: Role, plugin: Named) -> Mapping[str, Any]:
        """What answers depend on: as the plug-in says, else as it was enlisted."""
        if hasattr(plugin, "identity"):
            said: Mapping[str, Any] = plugin.identity(role)
            return said
        if id(plugin) in self._enlisted:
            return self._enlisted[id(plugin)][1]
        raise UserError(f"{plugin.name} does not say what its answers depend on; enlist it first")

    def _find_or_buy(
        self, question: _Question, function: Callable[[], T], dump: Callable[[T], Any], load: Callable[[Any], T]
    ) -> T:
        if self.gate.stopped:
            raise Stopped(self.gate.stopped)
        found = self.ledger.find(question.key)
        if found is not None:
            if found.status == "failed" or found.result is None:
                self._tally.add(question.line.role, failed=1)
                raise GivenUp(question.key, question.source, f"{question.line.label}: {found.error}")
            try:
                value = load(json.loads(found.result))
            except Lost as error:
                level = logging.WARNING if question.line.endpoint else logging.DEBUG
                log.log(level, "%s is asked again for %s: %s", question.line.label, question.source, error)
            else:
                self._tally.add(question.line.role, from_ledger=1)
                return value
        return self._buy(question, function, dump, load)

    def _buy(
        self, question: _Question, function: Callable[[], T], dump: Callable[[T], Any], load: Callable[[Any], T]
    ) -> T:
        transient = unusable = attempt = 0
        while True:
            attempt += 1
            tried = self._try(question.line, function)
            text = _dumped(tried, dump)
            if tried.fault is not None:
                self._fault(question, tried, attempt)
            if tried.failure is None:
                value: T = tried.value
                result = redact(text)
                self._write(question, tried, attempt, "ok", result=result)
                return value if result == text else load(json.loads(result))
            transient += isinstance(tried.failure, Transient)
            unusable += isinstance(tried.failure, UnusableAnswer)
            retries = self.flow.retries
            last = isinstance(tried.failure, Declined) or transient > retries.transient or unusable > retries.unusable
            error = _one_line(tried.failure)
            self._write(question, tried, attempt, "failed" if last else "retried", error=error)
            if last:
                raise GivenUp(question.key, question.source, f"{question.line.label}: {error}")
            if isinstance(tried.failure, Transient):
                self.gate.pause(backoff(transient, retries, _seconds(tried.failure.retry_after)))

    def _try(self, line: Line, function: Callable[[], Any]) -> _Try:
        """Ask once, when it is the call's turn."""
        if not line.endpoint:
            return self._call(function)
        request = Request(line.endpoint, line.label, line.tokens, line.cost)
        self.gate.enter(request)
        tried = self._call(function)
        usage = tried.receipt.usage
        tokens = usage.input_tokens + usage.output_tokens
        failed = isinstance(tried.failure, Transient)
        retry_after = _seconds(tried.failure.retry_after) if isinstance(tried.failure, Transient) else 0.0
        outcome = Outcome.FAILED if failed else Outcome.UNUSED if tried.fault else Outcome.ANSWERED
        self.gate.leave(request, outcome, tokens, math.ceil(line.price.of(usage) * NANO), retry_after)
        line.saw(tokens)
        return tried

    def _call(self, function: Callable[[], Any]) -> _Try:
        began = self.clock()
        with collecting() as receipt:
            tried = _Try(receipt)
            try:
                tried.value = function()
            except CallError as failure:
                tried.failure = failure
            except BaseException as fault:
                tried.fault = fault
        tried.seconds = self.clock() - began
        return tried

    def _fault(self, question: _Question, tried: _Try, attempt: int) -> NoReturn:
        """Neither an answer nor one of the failures a plug-in may report: what was paid is written down."""
        fault = tried.fault
        assert fault is not None
        message = _one_line(fault)
        if tried.receipt.replies:
            self._write(question, tried, attempt, "retried", error=message)
        if not isinstance(fault, Exception):
            raise fault
        if isinstance(fault, UserError):
            raise UserError(f"{question.line.label}: {message}")
        message = f"{question.line.label} failed on source {question.source}: {type(fault).__name__}: {message}"
        wrong = RuntimeError(message)
        # Not `from fault`: its text may hold a key.
        wrong.add_note(redact("".join(traceback.format_exception(fault))))
        raise wrong

    def _write(
        self,
        question: _Question,
        tried: _Try,
        attempt: int,
        status: Literal["ok", "retried", "failed"],
        result: str | None = None,
        error: str = "",
    ) -> None:
        """Put it into the ledger; if it came from an endpoint it is durable when this returns."""
        line, usage = question.line, tried.receipt.usage
        cost = math.ceil(line.price.of(usage) * NANO) / NANO
        record = CallRecord(
            key=question.key,
            role=line.role,
            plugin=line.plugin,
            version=str(line.known.get("version", "")),
            model=redact(tried.receipt.model) or str(line.known.get("model", "")),
            prompt=str(line.known.get("prompt", "")),
            parameters=line.identity,
            images=question.images,
            source=question.source,
            status=status,
            # ASCII: replies may hold what UTF-8 cannot, such as half a surrogate pair.
            replies=json.dumps([redact(reply)[:_LONGEST_REPLY] for reply in tried.receipt.replies]),
            result=result,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            images_made=usage.images,
            cost=cost,
            latency=tried.seconds,
            attempt=attempt,
            error=error,
            at=tried.at,
        )
        # What no endpoint answered was computed here, and can be computed again for nothing.
        self.ledger.put(record, wait=bool(line.endpoint))
        self._tally.add(
            line.role,
            answered=status == "ok",
            retried=status == "retried",
            failed=status == "failed",
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            images=usage.images,
            cost=cost,
        )


def _key(line: Line, question: Mapping[str, Any], images: Sequence[str]) -> str:
    """The digest that an answer is found by."""
    text = canonical_json([line.role, line.plugin, line.identity, question, images])
    return hashlib.sha256(text.encode()).hexdigest()


def _dumped(tried: _Try, dump: Callable[[Any], Any]) -> str:
    """The answer as text; one that cannot be written is a fault like any other, and what was paid is still known."""
    if tried.fault is None and tried.failure is None:
        try:
            return canonical_json(dump(tried.value))
        except Exception as fault:
            tried.fault = fault
    return ""


def _seconds(retry_after: float | None) -> float:
    """What the far side asked for, if it makes sense."""
    return retry_after if retry_after is not None and 0 < retry_after < math.inf else 0.0


def _one_line(error: BaseException) -> str:
    """What an error says, on one line, without keys, of bounded length."""
    text = redact(" ".join(str(error).split())) or type(error).__name__
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 3] + "..."
