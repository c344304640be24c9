"""The rewards as plug-ins: what each looks at, what it refuses, and that naming them costs nothing."""

import math
import sys
from subprocess import run
from typing import get_args

import pytest
import torch

from redaes.errors import UserError
from redaes.prompts import format_answer
from redaes.registry import create, find, load_plugin
from redaes.rewards import Composite, Format, Reward, RewardInputs, functional

NAN = float("nan")
BUILT_IN = ["composite", "format", "mae", "rapo", "rrc", "score_hit", "thurstone_fidelity"]
SETTINGS = {"composite": {"rewards": ["rrc", "format"], "weights": [1.0, 0.5]}}


def _inputs(scores, g, sources, texts=None):
    scores = torch.tensor(scores)
    texts = texts or [["" if s.isnan() else format_answer(float(s), "Why.") for s in row] for row in scores]
    return RewardInputs(scores, torch.tensor(g), torch.tensor(sources), texts)


@pytest.fixture
def group():
    """A source at 5 with a better and a worse edit; the last output was not parsed."""
    return _inputs([[5.0, 5.5], [7.0, 6.0], [4.0, NAN]], [0.0, 2.0, -1.0], [5.0, 5.0, 5.0])


def _make(name):
    return create("rewards", {"class_path": name, "init_args": SETTINGS.get(name, {})})


def test_the_built_in_rewards_are_found_by_name():
    assert set(BUILT_IN) <= set(find("rewards"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_reward_keeps_the_contract(name, group):
    reward = _make(name)
    assert isinstance(reward, Reward)
    rewards = reward(group)
    assert rewards.shape == group.scores.shape
    assert bool(rewards.isfinite().all())
    assert float(rewards[2, 1]) == 0


def test_truths_are_source_scores_plus_differences_within_the_scale():
    inputs = _inputs([[5.0], [5.0], [5.0]], [0.0, 6.0, -6.0], [5.0, 5.0, 5.0])
    assert inputs.truths.tolist() == [5.0, 10.0, 0.0]


def test_the_ranking_reward_compares_differences_or_on_request_absolute_truths():
    # Two groups in one shuffled batch: by g the first image is the better one, by S + g the second.
    shuffled = _inputs([[8.0], [2.0]], [1.0, 0.0], [2.0, 9.0])
    high = 1 / (1 + math.exp(-6))
    assert create("rewards", "rrc")(shuffled).flatten().tolist() == pytest.approx([high, high])
    by_score = create("rewards", {"class_path": "rrc", "init_args": {"across": "score"}})(shuffled)
    assert by_score.flatten().tolist() == pytest.approx([1 - high, 1 - high])


def test_within_one_group_both_ways_say_the_same(group):
    by_score = create("rewards", {"class_path": "rrc", "init_args": {"across": "score"}})
    torch.testing.assert_close(by_score(group), create("rewards", "rrc")(group))


def test_settings_reach_the_mathematics(group):
    made = create("rewards", {"class_path": "rrc", "init_args": {"tau": 0.25, "weight": "tanh"}})
    expected = functional.relative_ranking_consistency(group.scores, group.g, 0.25, "tanh")
    torch.testing.assert_close(made(group), expected)
    tight, loose = (create("rewards", {"class_path": "score_hit", "init_args": {"threshold": t}}) for t in (0.1, 2.0))
    assert int(tight(group).sum()) < int(loose(group).sum()) == 5
    narrow, wide = (create("rewards", {"class_path": "rapo", "init_args": {"width": w}}) for w in (0.1, 5.0))
    assert float(narrow(group)[0, 1]) < float(wide(group)[0, 1])


def test_rapo_is_the_sum_of_its_three_terms(group):
    fidelity = functional.thurstone_fidelity(group.scores, group.truths, tie=1.0)
    accuracy = functional.gaussian_accuracy(group.scores, group.truths)
    torch.testing.assert_close(create("rewards", "rapo")(group), fidelity + accuracy + Format()(group))


def test_rapo_counts_a_tie_as_a_win_and_thurstone_as_half_of_one():
    tied = _inputs([[9.0, 9.0], [2.0, 2.0]], [0.0, 0.0], [5.0, 5.0])
    assert create("rewards", "thurstone_fidelity")(tied)[:, 0].tolist() == pytest.approx([0.708, 0.708], abs=1e-3)
    without = 1 + functional.gaussian_accuracy(tied.scores, tied.truths)  # the format and the accuracy
    ranking = create("rewards", "rapo")(tied) - without
    assert ranking[:, 0].tolist() == pytest.approx([1.001, 0.002], abs=1e-3)


def test_regression_is_measured_against_the_absolute_truth(group):
    assert create("rewards", "mae")(group).flatten().tolist() == pytest.approx([1, 0.95, 1, 0.9, 1, 0])
    assert create("rewards", "score_hit")(group).flatten().tolist() == [1, 1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("text", "score", "expected"),
    [
        ("<think>Sharp.</think><answer>6.4</answer>", 6.4, 1),
        ("<think>Two\nlines</think>\n<answer> 6.4 </answer>\n", 6.4, 1),
        ("<think></think><answer>6.4</answer>", 6.4, 1),
        ("<think>a < b</think><answer>6.4</answer>", 6.4, 1),
        ("<think>Sharp.</think><answer>fine</answer>", NAN, 0),  # the form, but no score
        ("<answer>6.4</answer>", 6.4, 0),
        ("<think>Sharp.</think>6.4", NAN, 0),
        ("Well, <think>Sharp.</think><answer>6.4</answer>", 6.4, 0),
        ("<think>Sharp.</think><answer>6.4</answer> I hope", 6.4, 0),
        ("<think>a</think><answer>1</answer><answer>6.4</answer>", 6.4, 0),
        ("<think>a</think><think>b</think><answer>6.4</answer>", 6.4, 0),
        ("<think><think>a</think></think><answer>6.4</answer>", 6.4, 0),
        ("<answer>6.4</answer><think>Sharp.</think>", 6.4, 0),
        ("", NAN, 0),
    ],
)
def test_the_format_is_one_thought_and_one_answer_and_nothing_else(text, score, expected):
    assert Format()(_inputs([[score]], [0.0], [5.0], [[text]])).tolist() == [[expected]]


def test_a_long_text_without_an_end_is_refused_quickly():
    text = "<think>" * 2 + "a<" * 50_000
    assert Format()(_inputs([[5.0]], [0.0], [5.0], [[text]])).tolist() == [[0]]


def test_what_the_model_is_taught_has_the_right_format(group):
    assert Format()(group).tolist() == [[1, 1], [1, 1], [1, 0]]


def test_a_composite_is_the_weighted_sum_of_its_terms(group):
    composite = create(
        "rewards",
        {
            "class_path": "composite",
            "init_args": {
                "rewards": [{"class_path": "rrc", "init_args": {"tau": 0.5}}, "format", "mae"],
                "weights": [1.0, 0.25, -2],
            },
        },
    )
    rrc = functional.relative_ranking_consistency(group.scores, group.g, 0.5)
    mae = functional.absolute_accuracy(group.scores, group.truths)
    torch.testing.assert_close(composite(group), rrc + 0.25 * Format()(group) - 2 * mae)


def test_composites_nest(group):
    inner = {"class_path": "composite", "init_args": {"rewards": ["mae"], "weights": [2.0]}}
    torch.testing.assert_close(Composite([inner, "mae"], [1.0, 1.0])(group), 3 * create("rewards", "mae")(group))


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("rrc", {"tau": 0.0}, "tau is 0.0; it must be finite and above 0"),
        ("rrc", {"tau": NAN}, "tau is nan"),
        ("rrc", {"weight": "abz"}, "weight is 'abz' .did you mean 'abs'"),
        ("rrc", {"across": "gap"}, "across is 'gap'"),
        ("rrc", {"taus": 1.0}, "did you mean 'tau'"),
        ("rapo", {"width": -1.0}, "width is -1.0"),
        ("score_hit", {"threshold": 0.0}, "threshold is 0.0"),
        ("composite", {"rewards": [], "weights": []}, "0 rewards and 0 weights"),
        ("composite", {"rewards": ["rrc"], "weights": [1.0, 2.0]}, "1 rewards and 2 weights"),
        ("composite", {"rewards": ["rrc"], "weights": [math.inf]}, "finite"),
        ("composite", {"rewards": ["rrk"], "weights": [1.0]}, "unknown reward 'rrk' .did you mean 'rrc'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name, settings, named):
    with pytest.raises(UserError, match=named) as refusal:
        create("rewards", {"class_path": name, "init_args": settings})
    assert "\n" not in str(refusal.value)


def test_the_weights_that_a_config_may_name_are_those_the_mathematics_knows(group):
    rrc = load_plugin("rewards", "rrc")
    for weight in get_args(functional.Weight):
        assert bool(rrc(weight=weight)(group)[0, 0] > 0)


def test_naming_the_rewards_does_not_import_torch():
    code = "import sys, redaes.rewards; redaes.rewards.RelativeRankingConsistency(); print('torch' in sys.modules)"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
