"""Runners give results in order, say what went wrong, and leave no process behind."""

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count, islice

import pytest

from redaes.engine.runners import ProcessRunner, SerialRunner, ThreadRunner
from redaes.errors import UserError

RUNNERS = pytest.mark.parametrize(
    "runner", [SerialRunner(), ThreadRunner(2), ProcessRunner(2)], ids=["serial", "threads", "processes"]
)


def slow_if_even(item: int) -> int:
    time.sleep(0.02 * (item % 2 == 0))
    return item * item


def die(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


@RUNNERS
def test_results_come_in_the_order_of_the_items(runner):
    assert list(runner.map(slow_if_even, range(20))) == [n * n for n in range(20)]


@RUNNERS
def test_nothing_in_nothing_out(runner):
    assert list(runner.map(slow_if_even, [])) == []


@RUNNERS
def test_items_are_taken_only_as_they_are_needed(runner):
    endless = count()
    results = runner.map(operator.neg, endless)
    assert list(islice(results, 3)) == [0, -1, -2]
    assert next(endless) < 20


def test_an_exception_comes_back_after_the_results_before_it():
    results = ProcessRunner(2).map(operator.truediv, [])
    assert list(results) == []
    results = ProcessRunner(2).map(reciprocal, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def reciprocal(item: int) -> float:
    return 1 / item


def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match="a worker was killed"):
        list(ProcessRunner(1).map(die, [1]))


@pytest.mark.parametrize("kind", [ThreadRunner, ProcessRunner])
def test_no_workers_is_refused(kind):
    with pytest.raises(UserError, match="workers is 0"):
        kind(0)


def test_threads_wait_at_the_same_time():
    meeting = threading.Barrier(8, timeout=10)
    assert len(list(ThreadRunner(8).map(lambda item: meeting.wait(), range(8)))) == 8


def test_one_slow_item_does_not_keep_the_others_of_a_window_waiting():
    rest = threading.Semaphore(0)

    def work(item: int) -> int:
        if item == 0:
            for _ in range(10):
                assert rest.acquire(timeout=10)
        else:
            rest.release()
        return item

    assert list(ThreadRunner(2).map(work, range(20))) == list(range(20))


def test_the_workers_end_when_their_parent_is_killed(tmp_path):
    """A pool of the standard library would leave them waiting for work forever."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from redaes.engine.runners import ProcessRunner\n"
        "def work(item):\n"
        "    time.sleep(0.05)\n"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    for pid in ProcessRunner(2).map(work, range(10000)):\n"
        "        print(pid, flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = {int(line) for line in islice(parent.stdout, 12)}
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def test_an_interrupted_run_says_it_once(tmp_path):
    """A terminal interrupts the workers too, the idle one among them; only the parent has something to say."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from redaes.engine.runners import ProcessRunner\n"
        "def work(item):\n"
        "    time.sleep(item)\n"
        "if __name__ == '__main__':\n"
        "    results = ProcessRunner(2).map(work, [0, 0, 0, 2.0])\n"
        "    try:\n"
        "        for _ in results:\n"
        "            print('done', flush=True)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert list(islice(parent.stdout, 3)) == ["done\n"] * 3
    time.sleep(1.0)
    os.killpg(parent.pid, signal.SIGINT)
    said, complained = parent.communicate()
    assert (said, complained) == ("interrupted\n", "")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
