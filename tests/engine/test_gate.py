"""Threads wait for their turn, go ahead when it comes, and are woken at once when everything stops."""

import threading
import time

import pytest

from redaes.engine.config import LimitSettings, RetrySettings
from redaes.engine.gate import Gate, Stopped
from redaes.engine.limits import Admission, Outcome, Request

RETRIES = RetrySettings()


class Flight:
    """Counts who is between `enter` and `leave`."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.lock = threading.Lock()
        self.now = self.most = self.done = self.stopped = 0

    def fly(self, endpoint: str, seconds: float = 0.002, cost: int = 0) -> None:
        request = Request(endpoint, "a call", cost=cost)
        try:
            self.gate.enter(request)
        except Stopped:
            with self.lock:
                self.stopped += 1
            return
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(seconds)
        with self.lock:
            self.now -= 1
            self.done += 1
        self.gate.leave(request, Outcome.ANSWERED, cost=cost)

    def rest(self, index: int) -> None:
        try:
            self.gate.pause(1000.0)
        except Stopped:
            with self.lock:
                self.stopped += 1


def in_threads(count: int, job) -> list[threading.Thread]:
    threads = [threading.Thread(target=job, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    return threads


def all_end(threads: list[threading.Thread], seconds: float) -> bool:
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def test_many_threads_pass_the_gate_few_at_a_time():
    flight = Flight(Gate(Admission(5, {}, RETRIES)))

    def job(index: int) -> None:
        for turn in range(20):
            flight.fly("ab"[(index + turn) % 2])

    assert all_end(in_threads(40, job), 20)
    assert flight.done == 800
    assert flight.most == 5


def test_threads_that_wait_for_the_clock_go_ahead_when_their_time_has_come():
    flight = Flight(Gate(Admission(50, {"a": LimitSettings(requests_per_minute=1200)}, RETRIES)))
    began = time.monotonic()
    assert all_end(in_threads(50, lambda _: flight.fly("a")), 10)
    # 21 at once, then one every 50 ms.
    assert 1.3 < time.monotonic() - began < 4
    assert flight.done == 50


def test_a_stop_wakes_everybody_who_waits_at_once():
    limits = {"slow": LimitSettings(requests_per_minute=1), "narrow": LimitSettings(in_flight=1)}
    gate = Gate(Admission(50, limits, RETRIES))
    flight = Flight(gate)
    threads = in_threads(20, lambda i: flight.fly("slow" if i % 2 else "narrow", 1.0))
    threads += in_threads(1, flight.rest)
    time.sleep(0.3)
    gate.stop("the user is tired")
    gate.stop("a later reason")
    assert all_end(threads, 5)
    assert (flight.done, flight.stopped) == (2, 19)
    assert gate.standing()[:2] == (0, 0)
    with pytest.raises(Stopped, match="the user is tired"):
        gate.enter(Request("a"))


def test_threads_never_spend_more_than_the_budget():
    gate = Gate(Admission(20, {}, RETRIES, budget=1000))
    flight = Flight(gate)
    assert all_end(in_threads(100, lambda i: flight.fly("a", cost=10 + i % 7)), 10)
    assert gate.admission.reserved == 0
    assert 980 < gate.admission.spent <= 1000
    assert flight.done + flight.stopped == 100
