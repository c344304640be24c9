"""Group commit: many callers hand in items and wait, one thread writes them, so that many share one costly commit.

In: items, from any thread. Out: batches of them, in their order, to the one function that makes a batch durable.

Source: DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984, section 5.2.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from redaes.errors import UserError

T = TypeVar("T")


class _Handed(NamedTuple, Generic[T]):
    """An item on its way to the writer; `done`, if somebody waits for it, is released when it is through."""

    item: T
    done: "threading.Lock | None"


class GroupCommit(Generic[T]):
    """The thread that writes, from its making until `close`.

    Args:
        commit: makes a batch durable; called by the one thread. Once it has raised, nothing more is written.
        batch: items in one commit, at most.
        gather: seconds between two commits where several callers wait.
    """

    def __init__(self, commit: Callable[[list[T]], None], batch: int, gather: float) -> None:
        self._commit = commit
        self._batch = batch
        self._gather = gather
        self._failure: BaseException | None = None
        self._handing = threading.Lock()
        self._handed: queue.Queue[_Handed[T] | None] = queue.Queue(4 * batch)
        self._writer: threading.Thread | None = threading.Thread(target=self._write_all, name="ledger", daemon=True)
        self._writer.start()

    def put(self, items: Sequence[T], wait: bool = True) -> None:
        """Hand items to the writer and, unless told otherwise, wait for their commit.

        Raises:
            UserError, RuntimeError: it failed, or one before it.
            ValueError: it is closed.
        """
        if not items:
            return
        done = None
        if wait:
            # The last one will do: they are committed in their order. (A bare lock costs a tenth of a Future.)
            done = threading.Lock()
            done.acquire()
        with self._handing:
            if self._writer is None:
                raise ValueError("the ledger is not open for writing")
            for item in items[:-1]:
                self._handed.put(_Handed(item, None))
            self._handed.put(_Handed(items[-1], done))
        if done is None:
            return
        done.acquire()
        failure = self._failure
        if isinstance(failure, UserError):
            raise UserError(str(failure)) from failure  # an exception of its own for every thread
        if failure is not None:
            raise RuntimeError("the ledger's writer failed") from failure

    def close(self) -> None:
        """Write what was handed in, and end the thread."""
        with self._handing:
            writer, self._writer = self._writer, None
            if writer:
                self._handed.put(None)
        if writer:
            writer.join()

    def _write_all(self) -> None:
        """The writer's thread."""
        while batch := self._take_batch():
            try:
                if self._failure is None:
                    self._commit([one.item for one in batch])
            except BaseException as error:  # whatever it is, the callers must not wait for ever
                self._failure = error
            waiting = [one.done for one in batch if one.done is not None]
            for done in waiting:
                done.release()
            if len(waiting) > 1:
                time.sleep(self._gather)

    def _take_batch(self) -> list[_Handed[T]]:
        """What was handed in since the last commit, once somebody waits for it; empty at the end."""
        batch: list[_Handed[T]] = []
        awaited = False
        while len(batch) < self._batch and not (awaited and self._handed.empty()):
            one = self._handed.get()
            if one is None:
                if batch:
                    self._handed.put(None)
                break
            batch.append(one)
            awaited = awaited or one.done is not None
        return batch
