"""Runners: apply a job to many items, in this process, in its threads, or in several; results keep the items' order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from redaes.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from redaes.engine.config import FlowSettings
    from redaes.engine.gate import GateProtocol
    from redaes.engine.ledger import LedgerProtocol

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Runner(Protocol):
    """The contract of the entry-point group `redaes.runners`."""

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order; `job` and items are picklable."""
        ...


@runtime_checkable
class DistributedRunner(Runner, Protocol):
    """A runner whose workers share neither memory nor disk with this process: it brings what they can all reach."""

    def open_ledger(self, folder: str, name: str) -> "LedgerProtocol":
        """The ledger of a build, made where it is missing.

        Args:
            folder: absolute path or address of the ledger.
            name: of the dataset that is built.

        Raises:
            UserError: another build is using it, or it cannot be written.
        """
        ...

    def read_ledger(self, folder: str, name: str) -> "LedgerProtocol":
        """A ledger to look at, also while a build is writing to it. Raises UserError where there is none."""
        ...

    def open_gate(self, flow: "FlowSettings", spent: int, currency: str) -> "AbstractContextManager[GateProtocol]":
        """Where the calls of all workers, and of this process, wait for their turn; it is closed with the build.

        Args:
            flow: limits, retries and budget.
            spent: before, in billionths of the currency.
            currency: for messages.
        """
        ...


class SerialRunner:
    """One after the other, in this process.

    Example:
        >>> list(SerialRunner().map(abs, [-1, 2, -3]))
        [1, 2, 3]
    """

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order."""
        return map(job, items)


class ThreadRunner:
    """In several threads: for jobs that wait for others, such as models behind a network.

    Args:
        workers: threads.

    Raises:
        UserError: fewer than one worker.
    """

    def __init__(self, workers: int = 64) -> None:
        self.workers = _checked(workers)

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order; one slow item does not keep the others from going on."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="source")
        return _in_order(pool, job, items, window=8 * self.workers)


class ProcessRunner:
    """In several processes, each with one thread. They end with this process, however it ends.

    Args:
        workers: processes; None takes one per core that this process may use.

    Raises:
        UserError: fewer than one worker.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = _cores() if workers is None else _checked(workers)

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order; at most a few items per worker are in flight.

        Raises:
            UserError: a worker was killed from outside.
        """
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin_worker)
        try:
            yield from _in_order(pool, job, items, window=4 * self.workers)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed, often for want of memory; run the same command again to go on, "
                f"with fewer workers than {self.workers}"
            ) from error


def _checked(workers: int) -> int:
    if workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")
    return workers


def _in_order(pool: Executor, job: Callable[[T], R], items: Iterable[T], window: int) -> Iterator[R]:
    """Results in the items' order, with at most `window` items taken ahead; the pool ends with the iteration."""
    remaining = iter(items)
    with pool:
        flight: deque[Future[R]] = deque(pool.submit(job, item) for item in islice(remaining, window))
        try:
            while flight:
                yield flight.popleft().result()
                flight.extend(pool.submit(job, item) for item in islice(remaining, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    """Cores this process may use; fewer than the machine has in a container or under `taskset`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_worker() -> None:
    """One thread for numpy's libraries, deaf to Ctrl-C (the parent tells it), gone when the parent is."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """A pool's workers wait for work forever when their parent is killed; this ends them, in the middle of an item."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
