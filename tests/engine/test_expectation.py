"""Expected calls equal what walking through every possible world and weighing it gives."""

from itertools import product

import pytest

from redaes.engine.expectation import Rates, better_from, group_questions, pair_questions
from redaes.errors import UserError

PAPER = Rates()


def total(questions):
    return questions.edits + sum(questions.verifies) + sum(questions.compares)


def test_the_papers_rates_give_the_known_arithmetic():
    eager, lazy = (pair_questions(5, 2, 3, 4, PAPER, lazy) for lazy in (False, True))
    assert total(eager) == pytest.approx(20.2, abs=0.05)
    assert sum(eager.compares) == pytest.approx(5.2, abs=0.05)
    assert total(lazy) == pytest.approx(13.6, abs=0.1)
    assert sum(lazy.compares) == pytest.approx(1.8, abs=0.05)
    assert PAPER.better == pytest.approx(0.798, abs=5e-4)


def worlds(edits, judges, pass_rate, better):
    """Every course of events with its probability: per edit whether it passes and what each judge says."""
    fates = []
    for passes, *verdicts in product((True, False), repeat=1 + judges):
        chance = (pass_rate if passes else 1 - pass_rate) * better ** sum(verdicts) * (1 - better) ** verdicts.count(0)
        fates.append((passes, verdicts, chance))
    for world in product(fates, repeat=edits):
        chance = 1.0
        for _, _, share in world:
            chance *= share
        yield chance, [(passes, verdicts) for passes, verdicts, _ in world]


def judge(verdicts, asked, agree):
    """Ask one judge after the other until they can no longer agree; whether they do."""
    for index in range(len(verdicts)):
        if not agree(verdicts[:index]):
            return False
        asked[index] += 1
    return agree(verdicts)


def walk_for_a_pair(world, min_passing, judges):
    """What METHOD's lazy walk asks: edits, and comparisons by judge."""
    made, asked, passing, order = 0, [0] * judges, [], list(world)
    while len(passing) < min_passing:
        made += 1
        passes, verdicts = order.pop(0)
        if passes:
            passing.append(verdicts)
        if len(passing) + len(order) < min_passing:
            return made, asked
    if any(judge(verdicts, asked, all) for verdicts in passing):
        return made, asked
    for passes, verdicts in order:
        made += 1
        if passes and judge(verdicts, asked, all):
            break
    return made, asked


def walk_for_a_group(world, fewest, most, judges):
    made, kept, asked = 0, 0, [0] * judges
    for index, (_, verdicts) in enumerate(world):
        if kept == most or kept + len(world) - index < fewest:
            break
        made += 1
        kept += judge(verdicts, asked, lambda said: all(said) or not any(said))
    return made, asked


def mean(weighted):
    """Expected edits and comparisons by judge."""
    edits, compares = 0.0, None
    for chance, (made, asked) in weighted:
        edits += chance * made
        compares = [a + chance * b for a, b in zip(compares or [0.0] * len(asked), asked, strict=True)]
    return edits, compares


@pytest.mark.parametrize(
    ("editors", "judges", "min_passing", "rates"),
    [(5, 2, 4, PAPER), (3, 3, 2, PAPER), (3, 3, 3, Rates(0.9, 0.5)), (4, 1, 1, Rates(0.2, 0.3)), (1, 3, 1, PAPER)],
)
def test_the_lazy_walk_for_a_pair(editors, judges, min_passing, rates):
    everything = worlds(editors, judges, rates.edit_success, rates.better)
    edits, compares = mean((chance, walk_for_a_pair(world, min_passing, judges)) for chance, world in everything)
    expected = pair_questions(editors, 2, judges, min_passing, rates)
    assert expected.edits == pytest.approx(edits, abs=1e-9)
    assert expected.compares == pytest.approx(compares, abs=1e-9)
    assert expected.verifies == pytest.approx((edits, edits), abs=1e-9)


@pytest.mark.parametrize(("instructions", "judges", "fewest", "most"), [(4, 3, 2, 4), (5, 2, 2, 3), (4, 3, 3, 3)])
def test_the_lazy_walk_for_a_group(instructions, judges, fewest, most):
    everything = worlds(instructions, judges, 1.0, PAPER.better)
    edits, compares = mean((chance, walk_for_a_group(world, fewest, most, judges)) for chance, world in everything)
    expected = group_questions(instructions, judges, fewest, most, PAPER)
    assert expected.edits == pytest.approx(edits, abs=1e-9)
    assert expected.compares == pytest.approx(compares, abs=1e-9)


def test_a_verifier_that_settles_an_edit_alone_saves_the_others_questions_where_the_engine_is_lazy():
    half = Rates(settled=0.5)
    assert pair_questions(5, 3, 3, 4, half, lazy=False).verifies == (5, 5, 5)
    lazy = pair_questions(5, 3, 3, 4, half)
    assert lazy.verifies == (lazy.edits, lazy.edits / 2, lazy.edits / 2)


@pytest.mark.parametrize("rates", [{"edit_success": 1.2}, {"better": -0.1}, {"settled": float("nan")}])
def test_shares_out_of_range_are_refused(rates):
    with pytest.raises(UserError, match=next(iter(rates))):
        Rates(**rates)


def test_judges_who_agree_less_than_by_chance_are_refused():
    assert better_from(0.5) == 0.5
    assert Rates(better=better_from(0.9)).agreement == pytest.approx(0.9)
    with pytest.raises(UserError, match=r"agreement is 0.49.*between 0.5 and 1"):
        better_from(0.49)
