"""Runners: apply a job to many items, in this process or in several; results always come in the items' order."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from redaes.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Runner(Protocol):
    """The contract of the entry-point group `redaes.runners`."""

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order; `job` and items are picklable."""
        ...


class SerialRunner:
    """One after the other, in this process."""

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order."""
        return map(job, items)


class ProcessRunner:
    """In several processes, each with one thread.

    Args:
        workers: processes; None takes one per core.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise UserError(f"workers is {workers}; give 1 or more")
        self.workers = workers or os.cpu_count() or 1

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order; at most a few items per worker are in flight."""
        remaining = iter(items)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, mp_context=context, initializer=_one_thread) as pool:
            flight: list[Future[R]] = [pool.submit(job, item) for item in islice(remaining, 4 * self.workers)]
            try:
                while flight:
                    yield flight.pop(0).result()
                    flight += [pool.submit(job, item) for item in islice(remaining, 1)]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    """Let numpy's libraries use one thread: the processes are the parallelism."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
