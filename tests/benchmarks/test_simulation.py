"""A simulated build asks what a real one asks, and takes as long as its limits say."""

import pytest
from benchmarks._engine import calls, redaes, write_config
from benchmarks._simulation import Attempt, Outcomes, Pilot, Simulation, Tempo
from benchmarks._worlds import configuration

from redaes.engine.config import EngineConfig
from redaes.engine.expectation import Rates, pair_questions
from redaes.engine.plan import plan_jobs
from redaes.engine.stages import Crew
from redaes.registry import create

PROMPT = (Attempt(1.0),)


def simulated(sources, attempts=PROMPT, outcomes=None, **settings):
    config = EngineConfig.model_validate(configuration(sources) | settings)
    crew = Crew.from_config(config)
    asked = [(role, m.plugin.name) for m in crew.members(config) for role in m.roles]
    jobs = plan_jobs(create("sources", config.source).photographs(), config)
    outcomes = outcomes or Outcomes.expected(Rates(), len(crew.judges))
    tokens = dict.fromkeys(asked, 100.0)
    return Simulation(config, crew, outcomes, Tempo(dict.fromkeys(asked, attempts)), tokens).run(jobs)


@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_it_asks_as_much_as_the_closed_form_expects(mode):
    expected = pair_questions(5, 2, 3, 4, Rates(), lazy=mode == "lazy")
    course = simulated(4000, mode=mode)
    wanted = {"edit": expected.edits, "verify": sum(expected.verifies), "compare": sum(expected.compares)}
    assert {role: course.calls[role] / 4000 for role in wanted} == pytest.approx(wanted, rel=0.05)
    assert course.calls["score"] == 3 * 4000


def test_calls_in_flight_bound_its_time():
    course = simulated(200, flow={"in_flight": 8})
    assert course.seconds == pytest.approx(course.calls.total() / 8, rel=0.05)


def test_an_endpoint_s_rate_bounds_its_time():
    course = simulated(200, flow={"limits": {"world": {"requests_per_minute": 120}}})
    assert course.seconds == pytest.approx(course.calls.total() / 2, rel=0.05)


def test_failures_are_tried_again_and_then_given_up():
    failing = (*[Attempt(1.0)] * 9, Attempt(0.1, "unusable"))
    again, never = simulated(300, failing), simulated(300, failing, flow={"retries": {"unusable": 0}})
    assert again.calls["score"] == pytest.approx(900 / 0.9, rel=0.05)
    assert again.incomplete == 0 < never.incomplete
    broken = (*[Attempt(1.0)] * 4, Attempt(1.0, "transient"))
    waiting = simulated(300, broken, flow={"retries": {"breaker_failures": 1000}})
    assert waiting.seconds > waiting.calls.total() / 64


def test_a_pilot_tells_how_a_build_went(tmp_path):
    write_config(tmp_path, configuration(60, groups=20, latency=0.01) | {"flow": {"in_flight": 8, "workers": 8}})
    redaes(tmp_path, "data", "build", "out", "--config", "data.yaml")
    pilot = Pilot.read(tmp_path / "out.ledger")
    made = calls(tmp_path / "out")
    assert {role: pilot.calls[role] for role in made} == made
    seen = Outcomes.seen(pilot.edits, Outcomes(0.0, 0.0, (0.0,) * 3, (0.0,) * 3), verifiers=2)
    assert seen.edit_success == pytest.approx(0.637, abs=0.12)
    assert seen.better == pytest.approx((0.798,) * 3, abs=0.15)
    again = simulated(60, outcomes=seen, groups={"train": 20})
    assert again.calls.total() == pytest.approx(pilot.calls.total(), rel=0.12)
    assert min(a.seconds for some in pilot.tempo.attempts.values() for a in some) >= 0.01
