"""Carrying out a sweep: every step once, as soon as what it reads is there, several at the same time."""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from redaes.errors import UserError
from redaes.pipeline import INHERITED, RUNNING, Run, State, Step, handling


@contextmanager
def alone_in(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a sweep's folder; wait for whoever has it.

    The steps inherit the lock: one that outlives a killed sweep keeps the next from doing the same step beside it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another sweep, or a step that one has left, is at work in {folder}; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        INHERITED.add(file.fileno())
        try:
            yield
        finally:
            INHERITED.discard(file.fileno())


def carry_out(run: Run, jobs: int, say: Callable[[str], None], finished: Callable[[], object]) -> dict[str, str]:
    """Do what is left of a sweep's steps.

    Args:
        run: of all steps.
        jobs: steps at the same time.
        say: told of every step that begins or fails.
        finished: called after every step.

    Returns:
        Why, for every step that failed or could not be begun, by name.

    Raises:
        KeyboardInterrupt: told to stop by SIGINT or SIGTERM; the steps have been told and have ended.
    """
    makers = {output: step.name for step in run.pipeline.steps for output in step.outputs}
    waiting = {step.name: step for step in run.left()}
    failed: dict[str, str] = {}
    going: dict[Future[State], Step] = {}
    with ThreadPoolExecutor(jobs) as pool, handling(signal.default_int_handler):
        try:
            while waiting or going:
                for step in list(waiting.values()):
                    needed = {makers[name] for name in step.inputs or () if name in makers}
                    broken = next((name for name in needed if name in failed), None)
                    if broken is not None:
                        failed[step.name] = f"needs {broken}, which failed"
                        del waiting[step.name]
                    elif len(going) < jobs and not needed & (waiting.keys() | {s.name for s in going.values()}):
                        say(f"{step.name}: redaes {' '.join(step.command)}")
                        going[pool.submit(run.carry_out, step)] = waiting.pop(step.name)
                for done in wait(going, return_when=FIRST_COMPLETED).done if going else ():
                    _judge(done, going.pop(done).name, failed, say)
                    finished()
        except KeyboardInterrupt:
            told: set[int] = set()
            while not all(step.done() for step in going):  # one that was just handed over may begin only now
                for group in RUNNING - told:
                    with suppress(ProcessLookupError):
                        os.killpg(group, signal.SIGINT)
                    told.add(group)
                wait(going, timeout=0.2)
            raise
    return failed


def _judge(done: "Future[State]", name: str, failed: dict[str, str], say: Callable[[str], None]) -> None:
    try:
        code = done.result().exit_code
        problem = f"exit code {code}" if code else ""
    except UserError as error:
        problem = str(error)
    if problem:
        failed[name] = problem
        say(f"{name} failed: {problem}")
