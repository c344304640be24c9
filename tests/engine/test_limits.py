"""Nothing goes over a limit or a budget, whatever the order of events; whoever waits is let in or told to stop."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.engine.config import LimitSettings, RetrySettings
from redaes.engine.limits import Admission, Outcome, Rate, Request

ENDPOINTS = ("a", "b")
LIMITS = {
    "a": LimitSettings(in_flight=3, requests_per_minute=7, tokens_per_minute=100),
    "b": LimitSettings(requests_per_minute=0.5),
}
RETRIES = RetrySettings(breaker_failures=3, breaker_seconds=20, give_up_seconds=100_000)

actions = st.lists(
    st.one_of(
        st.tuples(st.just("queue"), st.sampled_from(ENDPOINTS), st.integers(0, 40), st.integers(0, 30)),
        st.tuples(st.just("settle"), st.integers(0, 50), st.floats(0, 1), st.sampled_from(Outcome)),
        st.tuples(st.just("wait"), st.floats(0, 40)),
    ),
    max_size=120,
)


class World:
    """An admission under a fake clock, with everything that happens to it written down."""

    def __init__(self, budget: int | None) -> None:
        self.admission = Admission(4, LIMITS, RETRIES, budget=budget, spent=0, currency="USD")
        self.now = 1000.0
        self.flying: list[Request] = []
        self.log: list[tuple[float, Request]] = []
        self.final: dict[Request, int] = {}

    def act(self, action: tuple) -> None:
        match action:
            case ("queue", endpoint, tokens, cost):
                self.admission.queue(Request(endpoint, "a call", tokens, cost))
            case ("settle", index, share, outcome) if self.flying:
                self.settle(self.flying.pop(index % len(self.flying)), share, outcome)
            case ("wait", seconds):
                self.now += seconds
        self.admit()

    def settle(self, request: Request, share: float, outcome: Outcome) -> None:
        self.final[request] = int(share * request.tokens)
        self.admission.settle(request, self.now, outcome, self.final[request], int(share * request.cost))

    def admit(self) -> None:
        for request in self.admission.admit(self.now):
            self.flying.append(request)
            self.log.append((self.now, request))
        self.check()

    def check(self) -> None:
        flying = [r.endpoint for r in self.flying]
        assert len(flying) == self.admission.in_flight <= 4
        assert flying.count("a") <= 3
        if self.admission.budget is not None:
            assert self.admission.spent + sum(r.cost for r in self.flying) <= self.admission.budget

    def most_in_a_window(self, endpoint: str, seconds: float, amount) -> int:
        taken = [(at, amount(request)) for at, request in self.log if request.endpoint == endpoint]
        return max((sum(n for at, n in taken if begin <= at < begin + seconds) for begin, _ in taken), default=0)

    def tokens(self, request: Request) -> int:
        return self.final.get(request, request.tokens)


@settings(max_examples=300, deadline=None)
@given(actions, st.one_of(st.none(), st.integers(0, 300)))
def test_no_order_of_events_goes_over_a_limit_or_the_budget_and_nobody_is_forgotten(events, budget):
    world = World(budget)
    for event in events:
        world.act(event)
    for _ in range(1000):
        if world.admission.stopped or not (world.flying or world.admission.waiting()):
            break
        if world.flying:
            world.settle(world.flying.pop(), 1.0, Outcome.ANSWERED)
        else:
            # Nobody is in flight, so somebody's turn comes by itself, at a time that is named.
            world.now = min(ready for _, ready in world.admission.heads(world.now))
        world.admit()
    assert world.admission.stopped or not world.admission.waiting()
    assert world.most_in_a_window("a", 60, lambda r: 1) <= 7
    assert world.most_in_a_window("a", 60, world.tokens) <= 100
    assert world.most_in_a_window("b", 120, lambda r: 1) <= 1


@pytest.mark.parametrize("limit", [7, 60, 500])
def test_a_limit_is_used_to_the_full_and_evenly(limit):
    rate, now, taken = Rate(limit), 0.0, []
    while now < 180:
        now = max(now, rate.ready(now, 1))
        rate.take(now, 1)
        taken.append(now)
    assert len(taken) >= 3 * limit - 1
    in_any_second = max(sum(t <= u < t + 1 for u in taken) for t in taken)
    assert in_any_second <= 2 + 2 * limit / 60


def test_tokens_that_were_not_used_are_given_back():
    rate = Rate(100)
    charge = rate.take(0.0, 90)
    assert rate.ready(1.0, 20) == 60
    rate.correct(charge, 10)
    assert rate.ready(5.0, 20) <= 5


def test_a_correction_after_the_minute_is_over_changes_nothing_any_more():
    rate = Rate(100)
    charge = rate.take(0.0, 90)
    assert rate.ready(61.0, 100) <= 61
    rate.take(61.0, 100)
    rate.correct(charge, 10)
    assert rate.ready(62.0, 1) == 121


def test_the_budget_waits_for_calls_in_flight_to_turn_out_cheaper_and_stops_only_when_it_cannot_bear_one_more():
    admission = Admission(9, {}, RETRIES, budget=100, currency="EUR")
    first, second, third = (Request("a", "compare of gpt-5", cost=60) for _ in range(3))
    for request in (first, second, third):
        admission.queue(request)
    assert admission.admit(0.0) == [first]
    admission.settle(first, 1.0, Outcome.ANSWERED, cost=30)
    assert admission.admit(1.0) == [second]
    assert not admission.stopped
    admission.settle(second, 2.0, Outcome.ANSWERED, cost=20)
    assert admission.admit(2.0) == []
    assert "EUR is reached" in admission.stopped
    assert "compare of gpt-5" in admission.stopped
    assert "flow.budget" in admission.stopped


def test_endpoints_take_turns_where_calls_at_the_same_time_are_few():
    admission = Admission(1, {}, RETRIES)
    for name in ("a", "a", "a", "b"):
        admission.queue(Request(name))
    order = []
    for _ in range(4):
        (request,) = admission.admit(0.0)
        order.append(request.endpoint)
        admission.settle(request, 0.0, Outcome.ANSWERED)
    assert order == ["a", "b", "a", "a"]


def test_a_breaker_opens_after_failures_in_a_row_lets_one_call_try_and_closes_when_it_is_answered():
    admission = Admission(9, {}, RETRIES)

    def breaker() -> str:
        return admission.endpoints["a"].breaker.state()

    def one(now: float, outcome: Outcome) -> bool:
        admission.queue(Request("a"))
        admitted = admission.admit(now)
        for request in admitted:
            admission.settle(request, now, outcome)
        return bool(admitted)

    one(0, Outcome.FAILED), one(1, Outcome.FAILED), one(2, Outcome.ANSWERED)
    one(3, Outcome.FAILED), one(4, Outcome.FAILED)
    assert breaker() == "closed"
    one(5, Outcome.FAILED)
    assert breaker() == "open"
    assert not one(24.9, Outcome.ANSWERED)
    admission.queue(Request("a"))
    (probe,) = admission.admit(25.0)
    assert breaker() == "half-open"
    admission.settle(probe, 26.0, Outcome.FAILED)
    assert admission.admit(45.9) == []
    (probe,) = admission.admit(46.0)
    admission.settle(probe, 46.0, Outcome.ANSWERED)
    assert breaker() == "closed"


def test_an_endpoint_that_asks_to_wait_longer_than_the_pause_is_left_alone_for_so_long():
    admission = Admission(9, {}, RETRIES)
    requests = [Request("a") for _ in range(4)]
    for request in requests:
        admission.queue(request)
    for request in admission.admit(0.0):
        admission.settle(request, 0.0, Outcome.FAILED, retry_after=50.0)
    admission.queue(Request("a"))
    assert admission.admit(49.0) == []
    assert len(admission.admit(50.0)) == 1


def test_an_endpoint_that_fails_for_too_long_or_asks_for_too_long_a_wait_stops_everything():
    retries = RetrySettings(give_up_seconds=60)
    for ends in ([(0.0, 0.0), (60.0, 0.0)], [(0.0, 86400.0)]):
        admission = Admission(9, {}, retries)
        for now, retry_after in ends:
            admission.queue(Request("api.example.com"))
            (request,) = admission.admit(now)
            admission.settle(request, now, Outcome.FAILED, retry_after=retry_after)
        assert "api.example.com" in admission.stopped
        assert "give_up_seconds" in admission.stopped
