"""A scorer in this process, one in each of several processes on this machine, or many on a cluster: the same answers.

In: images of a benchmark. Out: answers, as they come. Every process opens the scorer once and is then given whole
batches of each benchmark in turn; answers travel back and are written by this process alone.
"""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Self

from redaes.data.benchmarks import Item
from redaes.errors import UserError
from redaes.evaluation.benchmarks import sharded
from redaes.evaluation.predictions import Answer
from redaes.evaluation.rivals import Rival
from redaes.evaluation.scoring import answer, answers, read_file
from redaes.inference.asking import LoadedScorer, ScorerGivenUp
from redaes.inference.pools import ScoringRunner

FAREWELL_SECONDS = 5.0


class InThisProcess(AbstractContextManager["InThisProcess"]):
    """A scorer here.

    Args:
        rival: which.
        how: `batch_size`, `device` and `samples` of `Rival.make`.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, rival: Rival, **how: Any) -> None:
        self._loaded: LoadedScorer | None = rival.make(**how)
        self.fingerprint, self.batch_size = self._loaded.fingerprint, self._loaded.batch_size

    def answers(self, benchmark: str, items: Sequence[Item]) -> Iterator[list[Answer]]:
        """See `redaes.evaluation.scoring.answers`."""
        assert self._loaded is not None
        return answers(benchmark, items, self._loaded.scorer, self.fingerprint, self.batch_size)

    def __exit__(self, *exception: object) -> None:
        """Let go of its memory, so that the next model finds room."""
        self._loaded = None
        gc.collect()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()


class OnDevices(AbstractContextManager["OnDevices"]):
    """A scorer in several processes, one for each device. They end with this process, however it ends.

    Args:
        rival: which.
        devices: where each is, such as `cuda:0`; on `cpu` the processes share the cores.
        how: `batch_size` and `samples` of `Rival.make`.

    Raises:
        UserError: it cannot be opened on one of them.
    """

    def __init__(self, rival: Rival, devices: Sequence[str], **how: Any) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // len(devices))
        self._devices: dict[Connection, str] = {}
        self._processes: list[SpawnProcess] = []
        try:
            for device in devices:
                here, there = context.Pipe()
                process = context.Process(
                    target=_serve, args=(there, rival, {**how, "device": device}, threads), daemon=True
                )
                process.start()
                there.close()
                self._processes.append(process)
                self._devices[here] = device
            marks = [self._received(pipe) for pipe in self._devices]
        except BaseException:
            self.__exit__()
            raise
        self.fingerprint, self.batch_size = marks[0]

    def answers(self, benchmark: str, items: Sequence[Item]) -> Iterator[list[Answer]]:
        """As of one process, in the order in which they come.

        Raises:
            ScorerGivenUp: in one of the processes, or one of them was killed.
        """
        busy = set(self._devices)
        for part, pipe in enumerate(self._devices, 1):
            self._send(pipe, (benchmark, sharded(items, part, len(self._devices), self.batch_size)))
        while busy:
            for pipe in busy.intersection(wait(list(busy))):
                rows = self._received(pipe)
                if rows is None:
                    busy.remove(pipe)
                else:
                    yield rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """A process that waits for work ends; one that is still at work is ended."""
        for pipe in self._devices:
            pipe.close()
        if exception and exception[0] is not None:
            for process in self._processes:
                process.terminate()
        for process in self._processes:
            process.join(FAREWELL_SECONDS)
            if process.is_alive():
                process.kill()

    def _send(self, pipe: Connection, work: object) -> None:
        with suppress(BrokenPipeError):  # it was killed: reading from it says so
            pipe.send(work)

    def _received(self, pipe: Connection) -> Any:
        try:
            kind, content = pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise ScorerGivenUp(f"the process on {self._devices[pipe]} was killed, often for want of memory") from error
        if kind == "refused":
            raise UserError(content)
        if kind == "given up":
            raise ScorerGivenUp(content)
        return content


class OnRunner(AbstractContextManager["OnRunner"]):
    """A scorer in each of several processes of a runner, such as those of a cluster.

    Args:
        rival: which.
        runner: opens it there.
        how: `batch_size`, `device` and `samples` of `Rival.make`.

    Raises:
        UserError: it cannot be opened there.
    """

    def __init__(self, rival: Rival, runner: ScoringRunner, **how: Any) -> None:
        self._opened = runner.scorers(partial(rival.make, **how))
        self._pool = self._opened.__enter__()
        self.fingerprint, self.batch_size = self._pool.fingerprint, self._pool.batch_size

    def answers(self, benchmark: str, items: Sequence[Item]) -> Iterator[list[Answer]]:
        """As of one process, in the order of the items."""
        remaining = iter(items)
        with closing(self._pool.ask([item.path for item in items], read_file)) as asked:
            for said in asked:
                yield [
                    answer(benchmark, item, self.fingerprint, each) for each, item in zip(said, remaining, strict=False)
                ]

    def __exit__(self, *exception: Any) -> None:
        """The processes end."""
        self._opened.__exit__(*exception)


def _serve(pipe: Connection, rival: Rival, how: dict[str, Any], threads: int) -> None:
    """One process: open the scorer, then answer until the other end closes. Ctrl-C is for the parent to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if how["device"] == "cpu":
        os.environ["OMP_NUM_THREADS"] = str(threads)  # torch is not loaded yet
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            scorer = InThisProcess(rival, **how)
        except UserError as error:
            pipe.send(("refused", str(error)))
            return
        pipe.send(("ready", (scorer.fingerprint, scorer.batch_size)))
        while True:
            benchmark, items = pipe.recv()
            try:
                for rows in scorer.answers(benchmark, items):
                    pipe.send(("answers", rows))
                pipe.send(("answers", None))
            except ScorerGivenUp as error:
                pipe.send(("given up", str(error)))


def device_names(devices: str) -> list[str]:
    """What `--devices` says: names, or how many GPUs; without a GPU, how many processes.

    Raises:
        UserError: no such number of GPUs, or no name.

    Example:
        >>> device_names("cuda:0,cuda:2")
        ['cuda:0', 'cuda:2']
    """
    if not devices.isdigit():
        names = [name.strip() for name in devices.split(",")]
        if not all(names):
            raise UserError(f"--devices is {devices!r}; give names such as cuda:0,cuda:1, or a number")
        return names
    import torch

    count, there = int(devices), torch.cuda.device_count()
    if count < 1:
        raise UserError(f"--devices is {count}; it must be at least 1")
    if there and count > there:
        raise UserError(f"--devices is {count}; there {'is 1 GPU' if there == 1 else f'are {there} GPUs'}")
    return [f"cuda:{index}" for index in range(count)] if there else ["cpu"] * count
