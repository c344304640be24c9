"""Nothing goes over a limit or the budget, whatever the network does to letters, and whoever dies."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.engine.config import LimitSettings, RetrySettings
from redaes.engine.figures import Figures
from redaes.engine.limits import Admission, Outcome, Request
from redaes_ray.desk import BURIED, Desk, Enter, Leave, Letter, Mailbox, Member, merged

LIMITS = {
    "a": LimitSettings(in_flight=3, requests_per_minute=7, tokens_per_minute=100),
    "b": LimitSettings(requests_per_minute=0.5),
}
RETRIES = RetrySettings(breaker_failures=3, breaker_seconds=20, give_up_seconds=100_000)
NAMES = ("one", "two", "three")

indices = st.integers(0, 50)
names = st.sampled_from(NAMES)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), names, st.sampled_from("ab"), st.integers(0, 40), st.integers(0, 30)),
        st.tuples(st.just("leave"), names, indices, st.floats(0, 1), st.sampled_from(Outcome)),
        st.tuples(st.just("withdraw"), names, indices),
        st.tuples(st.just("write"), names),
        st.tuples(st.just("listen"), names),
        st.tuples(st.sampled_from(["deliver", "repeat", "lose"]), indices),
        st.tuples(st.just("deliver"), st.just(0)),
        st.tuples(st.just("deliver"), st.just(0)),
        st.tuples(st.just("die"), names),
        st.tuples(st.just("bury"), names),
        st.tuples(st.just("wait"), st.floats(0, 40)),
    ),
    # Lists are short on average unless they must not be; a world has to come to life first.
    min_size=60,
    max_size=200,
)


class LoggedAdmission(Admission):
    """Writes down who was admitted when."""

    def __init__(self, budget: int | None, limits: dict[str, LimitSettings]) -> None:
        super().__init__(4, limits, RETRIES, budget=budget, currency="USD")
        self.log: list[tuple[float, Request]] = []

    def admit(self, now: float) -> list[Request]:
        admitted = super().admit(now)
        self.log += [(now, request) for request in admitted]
        return admitted


class Process:
    """A life of a process: what it has in flight is known here, whatever the desk believes."""

    def __init__(self, name: str, life: int) -> None:
        self.member = Member(f"{name}-{life}", name)
        self.mail = Mailbox(self.member.session)
        self.flying: list[Request] = []
        self.stopped = ""


class World:
    """Processes, a bad network, and the desk, under a fake clock."""

    def __init__(self, budget: int | None, limits: dict[str, LimitSettings]) -> None:
        self.admission = LoggedAdmission(budget, limits)
        self.desk = Desk(self.admission)
        self.now = 1000.0
        self.lives = itertools.count()
        self.living: dict[str, Process] = {}
        self.dead: list[Process] = []
        self.buried: set[str] = set()
        self.network: list[tuple] = []
        self.paid = 0
        self.lost: set[Request] = set()
        for name in NAMES:
            self.be_born(name)

    def be_born(self, name: str) -> None:
        process = Process(name, next(self.lives))
        self.living[name] = process
        self.desk.join(process.member, self.now)
        self.buried |= {dead.member.session for dead in self.dead if dead.member.worker == name}

    def act(self, action: tuple) -> None:
        match action:
            case ("enter", name, endpoint, tokens, cost) if not self.living[name].stopped:
                self.living[name].mail.enter(Request(endpoint, "a call", tokens, cost))
            case ("leave", name, index, share, outcome) if self.living[name].flying:
                self.leave(self.living[name], index, share, outcome)
            case ("withdraw", name, index) if self.living[name].mail.waiting:
                waiting = list(self.living[name].mail.waiting.values())
                self.living[name].mail.withdraw(waiting[index % len(waiting)])
            case ("write", name):
                self.network.append(("letter", self.living[name].mail.letter()))
            case ("listen", name):
                self.network.append(("listen", self.living[name].member.session, self.living[name].mail.heard))
            case ("deliver" | "repeat" | "lose" as fate, index) if self.network:
                at = index % len(self.network)
                message = self.network[at] if fate == "repeat" else self.network.pop(at)
                if fate != "lose":
                    self.arrive(message)
            case ("die", name):
                self.die(name)
            case ("bury", name):
                self.bury(self.living[name])
            case ("wait", seconds):
                self.now += seconds
        self.check()

    def leave(self, process: Process, index: int, share: float, outcome: Outcome) -> None:
        request = process.flying.pop(index % len(process.flying))
        cost = int(share * request.cost)
        self.paid += cost
        heir = process.mail.leave(request, outcome, int(share * request.tokens), cost, 0.0)
        if heir is not None:
            process.flying.append(heir)

    def die(self, name: str) -> None:
        process = self.living[name]
        self.dead.append(process)
        self.paid += sum(request.cost for request in process.flying)
        self.be_born(name)

    def bury(self, process: Process) -> None:
        """Wrongly, if it lives."""
        self.desk.bury(process.member.session, self.now)
        self.buried.add(process.member.session)
        self.desk.advance(self.now)

    def arrive(self, message: tuple) -> None:
        match message:
            case ("letter", letter):
                self.desk.receive(letter, self.now)
                self.desk.advance(self.now)
                self.network.append(("news", letter.session, self.desk.news(letter.session, letter.heard)))
            case ("listen", session, heard):
                self.network.append(("news", session, self.desk.news(session, heard)))
            case ("news", session, news):
                for process in self.living.values():
                    if process.member.session == session:
                        process.flying += process.mail.read(news)
                        process.stopped = process.stopped or news.stopped

    def check(self) -> None:
        counted = [p for p in [*self.living.values(), *self.dead] if p.member.session not in self.buried]
        flying = [request.endpoint for process in counted for request in process.flying]
        assert len(flying) <= self.admission.in_flight <= 4
        assert all(
            flying.count(name) <= limits.in_flight for name, limits in self.admission.limits.items() if limits.in_flight
        )
        assert all(process.mail.in_flight == len(process.flying) for process in self.living.values())
        if self.admission.budget is not None:
            perhaps = sum(request.cost for process in self.living.values() for request in process.flying)
            assert self.paid + perhaps <= self.admission.budget
            assert self.admission.spent + self.admission.reserved <= self.admission.budget

    def settle_down(self) -> None:
        """Every call ends, and the network works again."""
        for name, process in list(self.living.items()):
            if process.stopped:
                for request in list(process.mail.waiting.values()):
                    process.mail.withdraw(request)
            while process.flying:
                self.leave(process, 0, 1.0, Outcome.ANSWERED)
            self.act(("write", name))
        while self.network:
            self.act(("deliver", 0))
        self.check()

    def waits(self) -> bool:
        return any(process.mail.waiting or process.flying for process in self.living.values())

    def most_in_a_window(self, endpoint: str, seconds: float, amount) -> int:
        taken = [(at, amount(request)) for at, request in self.admission.log if request.endpoint == endpoint]
        return max((sum(n for at, n in taken if begin <= at < begin + seconds) for begin, _ in taken), default=0)


@settings(max_examples=150, deadline=None)
@given(actions, st.one_of(st.none(), st.integers(0, 300)), st.sampled_from([LIMITS, {}]))
def test_no_network_and_no_death_goes_over_a_limit_or_the_budget_and_nobody_is_forgotten(events, budget, limits):
    world = World(budget, limits)
    for event in events:
        world.act(event)
    for _ in range(1000):
        world.settle_down()
        if not world.waits():
            break
        ready = world.desk.advance(world.now)
        # Everybody's calls have ended, so somebody's turn comes by itself, at a time that is named.
        world.now = world.now if math.isinf(ready) else ready
        world.desk.advance(world.now)
    assert not world.waits()
    assert world.admission.in_flight == world.admission.reserved == 0
    assert not world.admission.waiting()
    assert world.paid <= world.admission.spent
    if not limits:
        return
    assert world.most_in_a_window("a", 60, lambda request: 1) <= 7
    assert world.most_in_a_window("a", 60, lambda request: request.charges[1].amount) <= 100
    assert world.most_in_a_window("b", 120, lambda request: 1) <= 1


def desk(**settings) -> Desk:
    return Desk(Admission(**{"in_flight": 2, "limits": {}, "retries": RETRIES} | settings))


def test_a_letter_that_comes_twice_happens_once():
    office = desk()
    office.join(Member("s", "w"), 0.0)
    letter = Letter("s", 0, (Enter(1, "a", "", 0, 0), Enter(2, "a", "", 0, 0)), 0)
    for _ in range(3):
        office.receive(letter, 0.0)
        office.advance(0.0)
    more = Letter("s", 0, (*letter.events, Leave(1, Outcome.ANSWERED, 0, 5, 0.0)), 0)
    office.receive(more, 1.0)
    office.receive(more, 1.0)
    assert office.standing()[:3] == (1, 0, 5)
    assert office.news("s", 0)[:3] == (3, 0, (1, 2))
    assert office.news("s", 1)[:3] == (3, 1, (2,))


def correspond(office: Desk, mail: Mailbox) -> list[Request]:
    """One letter and its answer."""
    office.receive(mail.letter(), 0.0)
    office.advance(0.0)
    return mail.read(office.news(mail.session, mail.heard))


def asking(office: Desk, name: str, calls: int) -> tuple[Mailbox, list[Request]]:
    """A process that asks so often, and what it may ask at once."""
    office.join(Member(name, name), 0.0)
    mail = Mailbox(name)
    for _ in range(calls):
        mail.enter(Request("a"))
    return mail, correspond(office, mail)


def test_a_process_hands_on_its_places_up_to_its_share_and_the_rest_goes_to_whoever_waits_longest():
    office = desk(in_flight=4)
    first, flying = asking(office, "first", 10)
    second, others = asking(office, "second", 10)
    assert (len(flying), len(others), second.share) == (4, 0, 2)
    correspond(office, first)
    heirs = [first.leave(request, Outcome.ANSWERED, 0, 0, 0.0) for request in flying]
    assert [heir is not None for heir in heirs] == [False, False, True, True]
    correspond(office, first)
    correspond(office, second)
    # The second has waited no longer than the first, whose calls are ahead of its own in the line.
    assert (first.in_flight, second.in_flight, office.standing().in_flight) == (4, 0, 4)


def test_a_call_that_was_admitted_and_has_inherited_a_place_has_one_place():
    office = desk(in_flight=2)
    first, flying = asking(office, "first", 3)
    assert first.leave(flying[0], Outcome.ANSWERED, 0, 0, 0.0) is not None
    # Before this is known at the desk, it admits that call by itself.
    office.admission.most = 3
    office.advance(0.0)
    assert correspond(office, first) == []
    assert office.standing()[:2] == (first.in_flight, 0) == (2, 0)


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        ({"budget": 100}, Outcome.ANSWERED),
        ({"limits": LIMITS}, Outcome.ANSWERED),
        ({}, Outcome.FAILED),
    ],
)
def test_where_more_counts_than_how_many_are_in_flight_every_place_goes_back_to_the_desk(settings, outcome):
    office = desk(**settings)
    mail, flying = asking(office, "one", 5)
    assert mail.leave(flying[0], outcome, 0, 0, 0.0) is None
    correspond(office, mail)
    assert mail.share == (0 if settings or outcome is Outcome.FAILED else 2)


def test_what_a_dead_process_had_in_flight_is_given_back_and_counts_as_spent():
    office = desk(budget=100)
    for name in ("one", "two"):
        office.join(Member(name, name), 0.0)
    calls = tuple(Enter(number, "a", "a call", 7, 20) for number in range(3))
    office.receive(Letter("one", 0, calls, 0), 0.0)
    office.receive(Letter("two", 0, calls, 0), 0.0)
    office.advance(0.0)
    assert office.standing()[:3] == (2, 4, 0)
    office.bury("one", 1.0)
    office.advance(1.0)
    assert office.standing()[:3] == (2, 1, 40)
    assert office.news("two", 0).admitted == (0, 1)
    assert office.news("one", 0).stopped == BURIED


def test_a_later_life_takes_the_place_of_an_earlier_one():
    office = desk()
    office.join(Member("first", "worker"), 0.0)
    office.receive(Letter("first", 0, (Enter(1, "a", "", 0, 0),), 0), 0.0)
    office.advance(0.0)
    office.join(Member("second", "worker"), 1.0)
    assert office.standing().in_flight == 0
    office.join(Member("first", "worker"), 2.0)
    assert office.named("worker") == ["second"]


def test_a_probe_that_dies_with_its_process_lets_another_try():
    office = desk(retries=RetrySettings(breaker_failures=1, breaker_seconds=10))
    for name in ("one", "two"):
        office.join(Member(name, name), 0.0)
    office.receive(Letter("one", 0, (Enter(1, "a", "", 0, 0),), 0), 0.0)
    office.advance(0.0)
    enter = Enter(2, "a", "", 0, 0)
    office.receive(Letter("one", 1, (Leave(1, Outcome.FAILED, 0, 0, 0.0), enter), 1), 0.0)
    office.receive(Letter("two", 0, (enter,), 0), 0.0)
    assert office.advance(0.0) == 10.0
    assert office.advance(10.0) == math.inf
    assert office.standing().endpoints == {"a": "half-open"}
    assert office.news("one", 1).admitted == (2,)
    office.bury("one", 11.0)
    office.advance(11.0)
    assert office.news("two", 0).admitted == (2,)


def test_everybody_is_told_once_why_everything_stops():
    office = desk()
    office.join(Member("s", "w"), 0.0)
    assert not office.has_news("s", 0)
    office.stop("the user is tired")
    office.stop("a later reason")
    assert office.has_news("s", 0)
    assert office.news("s", 0).stopped == "the user is tired"
    assert not office.has_news("s", 0)


def test_a_block_remembers_who_died_on_it():
    office = desk()
    assert office.begin("one", "block 1", ["a", "b"]) == 0
    assert office.begin("one", "block 1", ["a", "b"]) == 0
    office.bury("one", 1.0)
    assert office.begin("two", "block 1", ["a", "b"]) == 1
    assert office.begin_source("two", "a") == 0
    office.end_source("two", "a")
    assert office.begin_source("two", "b") == 0
    assert office.begin("three", "block 1", ["a", "b"]) == 2
    assert (office.deaths("three", "a"), office.deaths("three", "b")) == (0, 1)
    assert office.begin_source("three", "b") == 1
    office.end_source("three", "b")
    office.end("three", "block 1")
    assert office.deaths("four", "b") == 1
    assert office.begin("four", "block 2", []) == 0


def test_blocks_of_the_dead_keep_nobody_waiting():
    office = desk()
    for session in ("s", "t"):
        office.join(Member(session, session), 0.0)
        office.begin(session, f"block of {session}", ["a"])
    assert office.busy() == 2
    office.bury("s", 1.0)
    assert office.busy() == 1
    office.end("t", "block of t")
    assert office.busy() == 0


def test_figures_of_the_dead_stay():
    office = desk()
    office.join(Member("s", "w"), 0.0)
    office.post("s", {"score": Figures(asked=2, cost=0.5)})
    office.bury("s", 1.0)
    office.post("t", {"score": Figures(asked=1), "edit": Figures(images=1)})
    assert office.figures() == {"score": Figures(asked=3, cost=0.5), "edit": Figures(images=1)}
    assert merged() == {}


@pytest.mark.parametrize("seconds", [2.0, 4.0])
def test_a_process_is_silent_until_it_gives_a_sign_of_life(seconds):
    office = desk()
    member = Member("s", "w")
    office.join(member, 0.0)
    assert office.silent(seconds, 3.0) == ([(member, 4.0)] if seconds > 3 else [])
    office.alive("s", seconds)
    assert office.silent(seconds, 3.0) == []
