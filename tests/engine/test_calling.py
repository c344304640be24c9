"""Answers are bought once, written down before they are used, and asked again only where that makes sense."""

import json
import logging
import random
import re
import threading
import time
import traceback
from collections import Counter

import pytest
from PIL import Image

from redaes.calls import Declined, Transient, UnusableAnswer, Usage, note
from redaes.engine.calling import Calls, GivenUp, Lost, Stopped, backoff
from redaes.engine.config import FlowSettings
from redaes.engine.ledger import Ledger
from redaes.engine.objects import Picture
from redaes.errors import UserError

KEY = "planted-7f3a9c51e0d24b68"


class Judge:
    """Answers as the script says, one entry a call: an exception is raised, anything else is the answer; then 7.0.

    Args:
        together: so many calls, the first ones, are answered when all of them have come.
    """

    def __init__(self, *script, endpoint="judge.example.com", model="judge-1", seconds=0.0, together=0):
        self.name = "judge"
        self.endpoint = endpoint
        self.model = model
        self.script = list(script)
        self.seconds = seconds
        self.calls: list[float] = []
        self.lock = threading.Lock()
        self.together = threading.Barrier(together) if together else None

    def identity(self, role):
        return {"model": self.model, "prompt": "score.v1", "version": "2"}

    def largest_usage(self, role):
        return Usage(1000, 500, 0)

    def score(self):
        with self.lock:
            self.calls.append(time.monotonic())
            said = self.script.pop(0) if self.script else 7.0
            number = len(self.calls)
        if self.together and number <= self.together.parties:
            self.together.wait()
        time.sleep(self.seconds)
        if isinstance(said, Transient):
            raise said
        note(f"raw {said}", model=f"{self.model}-2026", input_tokens=900, output_tokens=100)
        if isinstance(said, BaseException):
            raise said
        return said


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create_or_open(tmp_path / "set.ledger") as ledger:
        yield ledger


@pytest.fixture
def prices(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("prices: [{models: [judge-1], input: 1000, output: 2000, as_of: 2026-01}]")
    return str(path)


def flow(**settings):
    retries = {"base_seconds": 0.001, "breaker_failures": 1000, **settings.pop("retries", {})}
    return FlowSettings(retries=retries, **settings)


def picture(shade=0):
    return Picture.of(Image.new("RGB", (4, 4), (shade % 256, shade // 256, 0)))


def ask(calls, judge, shade=0, question=None, source="train-000000", load=lambda value: value, role="score"):
    return calls.ask(role, judge, [picture(shade)], question or {}, judge.score, source, lambda value: value, load)


def only_key(ledger):
    """The key of the one call in it."""
    (segment,) = ledger.folder.glob("segments/*.jsonl")
    (key,) = re.findall(r'"key":"([0-9a-f]{64})"', segment.read_text())
    return key


def text_of(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_same_question_is_bought_once_and_then_found(ledger, prices):
    judge = Judge(6.5)
    for _ in range(2):
        calls = Calls(ledger, flow(prices=prices))
        assert ask(calls, judge) == 6.5
        assert ask(calls, judge) == 6.5
    assert len(judge.calls) == 1
    figures = calls.snapshot().roles["score"]
    assert (figures.asked, figures.from_ledger, figures.answered, figures.cost) == (2, 2, 0, 0)


def test_an_answer_is_written_down_with_all_that_it_came_from_and_cost(ledger, prices):
    calls = Calls(ledger, flow(prices=prices))
    ask(calls, Judge(6.5), source="train-000007")
    record = ledger.find(only_key(ledger))
    assert (record.role, record.plugin, record.version, record.prompt) == ("score", "judge", "2", "score.v1")
    assert (record.model, record.source, record.status, record.attempt) == ("judge-1-2026", "train-000007", "ok", 1)
    assert json.loads(record.replies) == ["raw 6.5"]
    assert record.result == "6.5"
    assert record.images == (picture().sha,)
    assert (record.input_tokens, record.output_tokens) == (900, 100)
    assert record.cost == pytest.approx(0.9 + 0.2)
    assert record.at == pytest.approx(time.time(), abs=60)
    assert calls.snapshot().spent == pytest.approx(1.1)


def test_another_image_question_model_or_role_is_another_question(ledger):
    calls = Calls(ledger, flow())
    judge, other = Judge(), Judge(model="judge-2")
    ask(calls, judge)
    ask(calls, judge, shade=1)
    ask(calls, judge, question={"seed": 1})
    ask(calls, judge, role="compare")
    ask(calls, other)
    assert (len(judge.calls), len(other.calls)) == (4, 1)


def test_where_a_plug_in_is_reached_is_no_part_of_the_question(ledger):
    ask(Calls(ledger, flow()), Judge(5.0))
    elsewhere = Judge(endpoint="another.example.com")
    assert ask(Calls(ledger, flow()), elsewhere) == 5.0
    assert not elsewhere.calls


def test_a_question_that_many_threads_have_at_the_same_time_is_bought_once(ledger):
    judge = Judge(seconds=0.2)
    calls = Calls(ledger, flow())
    answers = in_parallel(16, lambda i: ask(calls, judge))
    assert answers == [7.0] * 16
    assert len(judge.calls) == 1
    assert calls.snapshot().roles["score"].shared == 15


def test_threads_that_share_a_question_share_its_failure(ledger):
    judge = Judge(Declined("no"), seconds=0.2)
    calls = Calls(ledger, flow())
    outcomes = in_parallel(8, lambda i: ask(calls, judge))
    assert [type(o) for o in outcomes] == [GivenUp] * 8
    assert len(judge.calls) == 1


def test_an_answer_is_durable_before_anybody_has_it(ledger, tmp_path):
    calls = Calls(ledger, flow())
    for shade in range(20):
        ask(calls, Judge(), shade=shade)
        with Ledger.open_for_reading(ledger.folder) as reader:
            assert sum(total.calls for total in reader.totals()) == shade + 1


def test_a_busy_endpoint_is_asked_again_and_every_attempt_is_written_down(ledger):
    judge = Judge(Transient("429"), Transient("503"), 8.0)
    assert ask(Calls(ledger, flow()), judge) == 8.0
    assert {(t.status, t.calls) for t in ledger.totals()} == {("retried", 2), ("ok", 1)}


def test_a_paid_answer_that_cannot_be_used_is_counted_and_asked_again(ledger, prices):
    judge = Judge(UnusableAnswer("no number in it"), 8.0)
    calls = Calls(ledger, flow(prices=prices))
    assert ask(calls, judge) == 8.0
    assert {(t.status, t.calls, t.cost) for t in ledger.totals()} == {("retried", 1, 1.1), ("ok", 1, 1.1)}
    assert calls.snapshot().spent == pytest.approx(2.2)


@pytest.mark.parametrize(
    ("failure", "tries"),
    [(Transient("503: try later"), 4), (UnusableAnswer("not a number"), 3), (Declined("against the rules"), 1)],
)
def test_a_call_that_keeps_failing_becomes_a_dead_letter_and_is_not_asked_again(ledger, failure, tries):
    judge = Judge(*[failure] * 10)
    settings = flow(retries={"transient": 3, "unusable": 2})
    with pytest.raises(GivenUp, match=str(failure)) as given_up:
        ask(Calls(ledger, settings), judge, source="train-000003")
    assert len(judge.calls) == tries
    assert given_up.value.source == "train-000003"
    assert [(r.key, r.attempt, r.status) for r in ledger.failures()] == [(given_up.value.key, tries, "failed")]
    with pytest.raises(GivenUp, match=str(failure)):
        ask(Calls(ledger, settings), judge)
    assert len(judge.calls) == tries
    ledger.forget_failures()
    judge.script.clear()
    assert ask(Calls(ledger, settings), judge) == 7.0


def test_an_answer_whose_image_is_gone_is_bought_again(ledger, caplog):
    judge = Judge(5.0, 6.0)
    ask(Calls(ledger, flow()), judge)

    def load(value):
        raise Lost("its image is gone")

    assert ask(Calls(ledger, flow()), judge, load=load) == 6.0
    assert "its image is gone" in caplog.text


def test_what_the_far_side_asks_to_wait_is_waited(ledger):
    judge = Judge(Transient("429", retry_after=0.4), 8.0)
    ask(Calls(ledger, flow()), judge)
    assert 0.4 <= judge.calls[1] - judge.calls[0] < 2.0


def test_waits_double_with_full_jitter_up_to_the_longest():
    retries = flow(retries={"base_seconds": 1.0, "max_seconds": 10.0}).retries
    rng = random.Random(0)
    for failures, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (5000, 10.0)):
        waits = [backoff(failures, retries, rng=rng) for _ in range(2000)]
        assert 0 <= min(waits) < 0.02 * longest
        assert 0.98 * longest < max(waits) <= longest
        assert sum(waits) / len(waits) == pytest.approx(longest / 2, rel=0.05)
    told = [backoff(9, retries, retry_after=5.0, rng=rng) for _ in range(1000)]
    assert 5.0 <= min(told) <= max(told) <= 6.0


def test_a_call_that_waits_for_its_next_try_is_in_nobodys_way(ledger):
    judge = Judge(Transient("429", retry_after=1.0))
    calls = Calls(ledger, flow(in_flight=1))
    threads = start(2, lambda i: ask(calls, judge, shade=i))
    end(threads, 0.8, alive=1)
    end(threads, 5)
    assert len(judge.calls) == 3


def test_a_dead_endpoint_is_left_alone_and_tried_by_one_call_at_a_time(ledger):
    judge = Judge(*[Transient("503")] * 8, seconds=0.3, together=6)  # all six are asked before the first has failed
    settings = flow(retries={"breaker_failures": 6, "breaker_seconds": 0.4})
    calls = Calls(ledger, settings)
    assert ask_all(calls, judge, 6) == [7.0] * 6
    pauses = [b - a for a, b in zip(judge.calls[5:8], judge.calls[6:9], strict=True)]
    assert all(pause >= 0.4 for pause in pauses)
    assert calls.snapshot().endpoints == {"judge.example.com": "closed"}


def test_an_endpoint_that_is_dead_for_too_long_stops_everything(ledger):
    judge = Judge(*[Transient("503")] * 1000)
    settings = flow(retries={"breaker_failures": 2, "breaker_seconds": 0.1, "give_up_seconds": 0.5, "transient": 1000})
    calls = Calls(ledger, settings)
    outcomes = ask_all(calls, judge, 4)
    assert [type(o) for o in outcomes] == [Stopped] * 4
    assert "judge.example.com has answered nothing" in calls.stopped


def test_a_stop_lets_calls_in_flight_finish_and_keeps_their_answers(ledger):
    judge = Judge(seconds=0.5)
    calls = Calls(ledger, flow(in_flight=3))
    outcomes: list = []
    threads = start(8, lambda i: outcomes.append(attempt(lambda: ask(calls, judge, shade=i))))
    time.sleep(0.2)
    calls.stop("interrupted")
    end(threads, 5)
    assert Counter(map(str, outcomes)) == {"7.0": 3, "interrupted": 5}
    assert sum(t.calls for t in ledger.totals() if t.status == "ok") == 3
    with pytest.raises(Stopped, match="interrupted"):
        ask(calls, judge, shade=99)


def test_a_call_that_waits_for_its_next_try_gives_up_at_once_when_everything_stops(ledger):
    judge = Judge(Transient("503", retry_after=500.0))
    calls = Calls(ledger, flow())
    outcomes: list = []
    threads = start(1, lambda i: outcomes.append(attempt(lambda: ask(calls, judge))))
    time.sleep(0.2)
    calls.stop("interrupted")
    end(threads, 2)
    assert isinstance(outcomes[0], Stopped)


@pytest.mark.parametrize("budgets", [(20.0,), (20.0, 31.0)])
def test_the_budget_is_never_crossed_also_not_by_several_runs_together(ledger, prices, budgets):
    judge = Judge(seconds=0.002)
    for budget in budgets:
        calls = Calls(ledger, flow(prices=prices, budget=budget))
        outcomes = ask_all(calls, judge, 40)
    spent = 1.1 * sum(total.calls for total in ledger.totals())
    # A call costs 1.1 and may cost 2.0: only a call that could cross the budget is left out.
    assert budgets[-1] - 2.0 < spent <= budgets[-1]
    assert {type(outcome) for outcome in outcomes} == {float, Stopped}
    assert f"budget of {budgets[-1]:g} USD is reached" in calls.stopped
    assert "score of judge" in calls.stopped


def test_a_budget_needs_to_know_what_calls_cost(ledger, prices):
    calls = Calls(ledger, flow(budget=5.0))
    with pytest.raises(UserError, match=r"no price is known of 'judge-1'.*flow.prices"):
        ask(calls, Judge())
    silent = Judge()
    silent.__class__ = Silent
    with pytest.raises(UserError, match="largest_usage"):
        ask(Calls(ledger, flow(budget=5.0, prices=prices)), silent)
    assert ledger.totals() == []


class Silent(Judge):
    """Does not say how large a call may be."""

    largest_usage = property()


def test_without_a_budget_a_model_without_a_price_is_asked_with_one_warning(ledger, caplog):
    calls, judge = Calls(ledger, flow()), Judge()
    for shade in range(3):
        ask(calls, judge, shade=shade)
    assert caplog.text.count("no price is known of 'judge-1'") == 1


def test_a_plug_in_without_an_endpoint_computes_here_and_is_free_and_unlimited(ledger, prices):
    judge = Judge(endpoint="", seconds=0.3)
    calls = Calls(ledger, flow(prices=prices, budget=0.0, in_flight=1))
    began = time.monotonic()
    assert ask_all(calls, judge, 4) == [7.0] * 4
    assert time.monotonic() - began < 1.1
    ledger.close()
    with Ledger.create_or_open(ledger.folder) as again:
        assert ask(Calls(again, flow()), judge) == 7.0
        assert [(t.status, t.calls, t.cost) for t in again.totals()] == [("ok", 4, 0.0)]


def test_what_is_wrong_shows_when_a_plug_in_is_enlisted_before_anything_is_spent(ledger):
    spec = {"class_path": "tests.Judge"}
    with pytest.raises(UserError, match="no price is known"):
        Calls(ledger, flow(budget=5.0)).enlist("judges", spec, Judge(), ("score",))
    limits = {"judge.example.com": {"tokens_per_minute": 1000}}
    with pytest.raises(UserError, match=r"score of judge may take 1500 tokens.*1000 a minute"):
        Calls(ledger, flow(limits=limits)).enlist("judges", spec, Judge(), ("score",))


class Plain:
    """Says nothing of itself."""

    name = "plain"
    times = 0

    def score(self):
        self.times += 1
        return 3.0


def test_a_plug_in_that_says_nothing_of_itself_is_told_apart_by_its_settings(tmp_path):
    asked = []
    for tau in (1, 2, 1):
        plain = Plain()
        with Ledger.create_or_open(tmp_path / "set.ledger") as ledger:
            calls = Calls(ledger, flow())
            calls.enlist("judges", {"class_path": "tests.Plain", "init_args": {"tau": tau}}, plain, ("score",))
            ask(calls, plain)
        asked.append(plain.times)
    assert asked == [1, 1, 0]


def test_a_plug_in_that_says_nothing_of_itself_must_be_enlisted(ledger):
    with pytest.raises(UserError, match="enlist"):
        ask(Calls(ledger, flow()), Plain())


@pytest.mark.parametrize("paid", [True, False])
def test_a_fault_of_a_plug_in_stops_everything_and_names_it_and_the_source(ledger, paid):
    judge = Judge(ZeroDivisionError("division by zero"))
    if not paid:
        judge.score = lambda: 1 / 0
    calls = Calls(ledger, flow())
    with pytest.raises(
        RuntimeError, match=r"score of judge.*train-000005.*ZeroDivisionError: division by zero"
    ) as fault:
        ask(calls, judge, source="train-000005")
    assert "ZeroDivisionError" in calls.stopped
    # Where in the plug-in it happened is told.
    assert "in score" in "".join(traceback.format_exception(fault.value)) or not paid
    assert sum(t.calls for t in ledger.totals()) == paid
    assert ask(Calls(ledger, flow()), Judge()) == 7.0


def test_a_wrong_configuration_stops_everything(ledger):
    calls = Calls(ledger, flow())
    with pytest.raises(UserError, match="no such model"):
        ask(calls, Judge(UserError("404: no such model")))
    with pytest.raises(Stopped, match="no such model"):
        ask(calls, Judge(), shade=1)


@pytest.mark.parametrize("problem", [UserError("cannot write x.png: No space left on device"), TypeError("not JSON")])
def test_an_answer_that_cannot_be_kept_stops_everything_and_its_reply_is_kept(ledger, problem):
    def dump(value):
        raise problem

    judge, calls = Judge(), Calls(ledger, flow())
    with pytest.raises((UserError, RuntimeError), match=str(problem)):
        calls.ask("score", judge, [picture()], {}, judge.score, "train-000000", dump, float)
    assert str(problem) in calls.stopped
    assert [(t.status, t.calls) for t in ledger.totals()] == [("retried", 1)]


def test_a_ledger_that_fails_stops_everything(ledger):
    calls = Calls(ledger, flow())
    ledger.close()
    with pytest.raises(Exception, match="closed"):
        ask(calls, Judge())
    with pytest.raises(Stopped, match="closed"):
        ask(calls, Judge())


@pytest.mark.parametrize("kind", [UnusableAnswer, Declined, Transient, UserError, ZeroDivisionError])
@pytest.mark.parametrize("shape", ["{}", "Authorization: Bearer {}", "https://x.example/v1?key={}&a=1"])
def test_a_key_in_an_error_reaches_no_file_message_log_or_traceback(ledger, monkeypatch, caplog, kind, shape):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    judge = Judge(*[kind(f"401: {shape.format(KEY)} is wrong")] * 9)
    judge.key_variable = "JUDGE_KEY"
    calls = Calls(ledger, flow(retries={"transient": 1, "unusable": 1}))
    with pytest.raises((GivenUp, UserError, RuntimeError)) as error:
        ask(calls, judge)
    shown = "".join(traceback.format_exception(error.value)) + str(calls.snapshot()) + calls.stopped + caplog.text
    assert "redacted" in shown
    assert KEY not in shown
    assert KEY.encode() not in text_of(ledger.folder)


def test_a_key_in_an_answer_is_blotted_out_of_it_and_of_the_reply(ledger, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    judge = Judge(f"fine, {KEY}")
    judge.key_variable = "JUDGE_KEY"
    first = ask(Calls(ledger, flow()), judge)
    assert first == ask(Calls(ledger, flow()), judge) == "fine, [redacted]"
    assert KEY.encode() not in text_of(ledger.folder)


def test_words_that_utf_8_cannot_hold_and_huge_ones_are_written_down(ledger):
    judge = Judge("half a pair \ud800", UnusableAnswer("\udfff" + "long " * 100_000), Declined("x" * 10**6))
    calls = Calls(ledger, flow())
    ask(calls, judge)
    with pytest.raises(GivenUp) as error:
        ask(calls, judge, shade=1)
    assert len(str(error.value)) < 1000
    assert sum(t.calls for t in ledger.totals()) == 3


def test_figures_say_what_became_of_the_questions(ledger, prices):
    judge = Judge(Transient("503"), 1.0, UnusableAnswer("?"), Declined("no"), 2.0)
    calls = Calls(ledger, flow(prices=prices))
    for shade in (0, 1, 2, 0):
        attempt(lambda shade=shade: ask(calls, judge, shade=shade))
    snapshot = calls.snapshot()
    figures = snapshot.roles["score"]
    assert (figures.asked, figures.from_ledger, figures.answered) == (4, 1, 2)
    assert (figures.retried, figures.failed) == (2, 1)
    assert (figures.input_tokens, figures.output_tokens) == (4 * 900, 4 * 100)
    assert figures.cost == snapshot.spent == pytest.approx(4.4)
    assert (snapshot.in_flight, snapshot.waiting, snapshot.currency) == (0, 0, "USD")


def ask_all(calls, judge, count):
    """As many different questions, all at the same time."""
    return in_parallel(count, lambda index: ask(calls, judge, shade=index))


def attempt(job):
    """What it returns or raises."""
    try:
        return job()
    except Exception as error:
        return error


def start(count, job):
    threads = [threading.Thread(target=job, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    return threads


def end(threads, seconds, alive=0):
    limit = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, limit - time.monotonic()))
    assert sum(thread.is_alive() for thread in threads) == alive


def in_parallel(count, job):
    """What `job` returns or raises for every index, all at the same time."""
    outcomes = [None] * count

    def run(index):
        outcomes[index] = attempt(lambda: job(index))

    end(start(count, run), 20)
    return outcomes
