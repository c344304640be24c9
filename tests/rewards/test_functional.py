"""The rewards as mathematics: against plain double loops, and by what must hold for any scores."""

import math
from statistics import NormalDist, fmean, variance

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from redaes.rewards.functional import (
    Weight,
    absolute_accuracy,
    gaussian_accuracy,
    mean_scores,
    pair_weights,
    relative_ranking_consistency,
    score_hit,
    thurstone_fidelity,
    true_differences,
)

NAN = float("nan")
WEIGHTS: tuple[Weight, ...] = ("abs", "tanh", "uniform")

calm = settings(deadline=None)
points = st.one_of(st.integers(0, 100).map(lambda n: n / 10), st.floats(0, 10).map(lambda x: round(x, 6)))


@st.composite
def judged_sets(draw, min_images=1, unparsed=True, min_outputs=1):
    """Scores (N, K), some of them unparsed, and truths (N,), some of them tied."""
    n, k = draw(st.integers(min_images, 6)), draw(st.integers(min_outputs, 5))
    cell = st.one_of(points, st.just(NAN)) if unparsed else points
    scores = draw(st.lists(st.lists(cell, min_size=k, max_size=k), min_size=n, max_size=n))
    truths = draw(st.lists(points, min_size=n, max_size=n))
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(truths, dtype=torch.float64)


def _parsed(row):
    return [s for s in row if not math.isnan(s)]


def _naive_rrc(scores, truths, tau, weight):
    """Eq. 6 as it is written, one pair at a time."""
    size = {"abs": abs, "tanh": lambda d: math.tanh(abs(d)), "uniform": lambda d: float(d != 0)}[weight]
    rewards = []
    for i, row in enumerate(scores):
        rewards.append([])
        for s in row:
            top = bottom = 0.0
            for j, other in enumerate(scores):
                delta = truths[i] - truths[j]
                if j == i or delta == 0 or not _parsed(other) or math.isnan(s):
                    continue
                x = math.copysign(1.0, delta) * (s - fmean(_parsed(other))) / tau
                top += size(delta) * 0.5 * (1 + math.tanh(x / 2))  # the sigmoid, without overflow
                bottom += size(delta)
            rewards[-1].append(top / bottom if bottom else 0.0)
    return rewards


def _naive_thurstone(scores, truths, tie):
    """VisualQuality-R1's reward, one pair at a time."""
    spread = [variance(_parsed(row)) if len(_parsed(row)) > 1 else 0.0 for row in scores]
    rewards = []
    for i, row in enumerate(scores):
        rewards.append([])
        for s in row:
            terms = []
            for j, other in enumerate(scores):
                if j == i or not _parsed(other) or math.isnan(s):
                    continue
                p = NormalDist().cdf((s - fmean(_parsed(other))) / math.sqrt(spread[i] + spread[j] + 1e-6))
                g = 1.0 if truths[i] > truths[j] else 0.0 if truths[i] < truths[j] else tie
                terms.append(math.sqrt(p * g + 1e-6) + math.sqrt((1 - p) * (1 - g) + 1e-6))
            rewards[-1].append(fmean(terms) if terms else 0.0)
    return rewards


@calm
@given(data=judged_sets(), tau=st.floats(0.05, 5), weight=st.sampled_from(WEIGHTS))
def test_the_ranking_reward_equals_a_plain_double_loop(data, tau, weight):
    scores, truths = data
    expected = torch.tensor(_naive_rrc(scores.tolist(), truths.tolist(), tau, weight), dtype=torch.float64)
    torch.testing.assert_close(relative_ranking_consistency(*data, tau, weight), expected, rtol=0, atol=1e-12)


@calm
@given(data=judged_sets(), tie=st.sampled_from([0.5, 1.0]))
def test_the_thurstone_reward_equals_a_plain_double_loop(data, tie):
    scores, truths = data
    expected = torch.tensor(_naive_thurstone(scores.tolist(), truths.tolist(), tie), dtype=torch.float64)
    torch.testing.assert_close(thurstone_fidelity(*data, tie), expected, rtol=0, atol=1e-7)


REWARDS = {
    "rrc": relative_ranking_consistency,
    "rrc_tanh": lambda s, t: relative_ranking_consistency(s, t, weight="tanh"),
    "rrc_uniform": lambda s, t: relative_ranking_consistency(s, t, weight="uniform"),
    "rrc_sharp": lambda s, t: relative_ranking_consistency(s, t, tau=1e-3),
    "thurstone": thurstone_fidelity,
    "gaussian": gaussian_accuracy,
    "score_hit": score_hit,
    "absolute": absolute_accuracy,
}
RELATIVE = ("rrc", "rrc_tanh", "rrc_uniform", "thurstone")
every_reward = pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS.keys())
relative_reward = pytest.mark.parametrize("reward", [REWARDS[n] for n in RELATIVE], ids=RELATIVE)


@every_reward
@calm
@given(data=judged_sets(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_reward_is_finite_and_between_0_and_1(reward, data, dtype):
    scores, truths = (x.to(dtype) for x in data)
    rewards = reward(scores, truths)
    assert rewards.shape == scores.shape
    assert rewards.dtype == dtype
    assert bool((rewards >= 0).all())
    assert bool((rewards <= (1.002 if reward is thurstone_fidelity else 1.0)).all())


@every_reward
@calm
@given(data=judged_sets())
def test_an_unparsed_output_gets_nothing_and_weighs_nothing(reward, data):
    scores, truths = data
    rewards = reward(scores, truths)
    assert bool((rewards[scores.isnan()] == 0).all())
    longer = torch.cat([scores, torch.full((len(scores), 2), NAN, dtype=scores.dtype)], dim=1)
    torch.testing.assert_close(reward(longer, truths)[:, :-2], rewards, rtol=0, atol=1e-12)


@every_reward
def test_an_infinite_score_is_an_unparsed_one(reward):
    truths = torch.tensor([1.0, 5.0, 9.0])
    infinite = torch.tensor([[2.0, math.inf], [6.0, 4.0], [8.0, -math.inf]])
    torch.testing.assert_close(reward(infinite, truths), reward(infinite.where(infinite.isfinite(), NAN), truths))


@every_reward
@calm
@given(data=judged_sets(), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_images_and_of_outputs_does_not_matter(reward, data, shuffle):
    scores, truths = data
    images, outputs = list(range(scores.shape[0])), list(range(scores.shape[1]))
    shuffle.shuffle(images)
    shuffle.shuffle(outputs)
    moved = reward(scores[images][:, outputs], truths[images])
    torch.testing.assert_close(moved, reward(scores, truths)[images][:, outputs], rtol=0, atol=1e-9)


@relative_reward
@calm
@given(data=judged_sets(), shift=st.integers(-5, 5))
def test_relative_rewards_do_not_see_a_common_shift_of_scores_or_of_truths(reward, data, shift):
    scores, truths = data
    torch.testing.assert_close(reward(scores + shift, truths), reward(scores, truths), rtol=0, atol=1e-6)
    torch.testing.assert_close(reward(scores, truths + shift), reward(scores, truths), rtol=0, atol=1e-6)


@relative_reward
@calm
@given(data=judged_sets())
def test_relative_rewards_are_the_same_with_the_scale_upside_down(reward, data):
    scores, truths = data
    torch.testing.assert_close(reward(-scores, -truths), reward(scores, truths), rtol=0, atol=1e-6)


@calm
@given(data=judged_sets(min_images=2, unparsed=False), weight=st.sampled_from(WEIGHTS))
def test_what_one_order_gives_the_opposite_order_takes(data, weight):
    scores, truths = data
    assume(len(set(truths.tolist())) == len(truths))
    both = relative_ranking_consistency(scores, truths, weight=weight) + relative_ranking_consistency(
        scores, -truths, weight=weight
    )
    torch.testing.assert_close(both, torch.ones_like(both), rtol=0, atol=1e-9)


@calm
@given(
    data=judged_sets(min_images=2),
    rise=st.floats(0, 10),
    weight=st.sampled_from(WEIGHTS),
    best=st.booleans(),
    output=st.integers(0, 4),
)
def test_moving_an_extreme_images_score_toward_the_right_end_never_lowers_its_reward(data, rise, weight, best, output):
    scores, truths = data
    image = int(truths.argmax() if best else truths.argmin())
    output %= scores.shape[1]
    moved = scores.clone()
    moved[image, output] += rise if best else -rise
    before = relative_ranking_consistency(scores, truths, weight=weight)[image, output]
    after = relative_ranking_consistency(moved, truths, weight=weight)[image, output]
    assert after >= before - 1e-12


@calm
@given(data=judged_sets(min_images=2, unparsed=False), tau=st.floats(0.1, 2))
def test_scores_in_the_true_order_earn_more_than_half_and_those_in_the_reverse_order_less(data, tau):
    _, truths = data
    assume(len(set(truths.tolist())) > 1)
    in_order = truths[:, None].repeat(1, 3)
    ranked = [i for i, t in enumerate(truths.tolist()) if any(t != u for u in truths.tolist())]
    assert bool((relative_ranking_consistency(in_order, truths, tau)[ranked] > 0.5).all())
    assert bool((relative_ranking_consistency(10 - in_order, truths, tau)[ranked] < 0.5).all())


@calm
@given(data=judged_sets(min_images=2), factor=st.floats(0.1, 1))
def test_only_the_proportions_of_absolute_gaps_count(data, factor):
    scores, truths = data
    torch.testing.assert_close(
        relative_ranking_consistency(scores, truths * factor), relative_ranking_consistency(scores, truths)
    )


def test_a_wide_gap_counts_for_more_than_a_narrow_one():
    truths = torch.tensor([5.0, 5.5, 9.0])
    narrow_wrong = torch.tensor([[5.0], [3.0], [8.0]])  # image 0 is put above its near neighbour by mistake
    wide_wrong = torch.tensor([[5.0], [8.0], [3.0]])  # image 0 is put above the far one by mistake
    gap_aware = [float(relative_ranking_consistency(s, truths)[0, 0]) for s in (narrow_wrong, wide_wrong)]
    assert gap_aware[0] > 0.8
    assert gap_aware[1] < 0.3
    assert pair_weights(torch.tensor([0.5, 4.0, -10.0])).tolist() == [0.5, 4.0, 10.0]
    assert pair_weights(torch.tensor([4.0, -10.0]), "tanh").tolist() == pytest.approx([1, 1], abs=1e-3)
    assert pair_weights(torch.tensor([0.5, -10.0, 0.0]), "uniform").tolist() == [1.0, 1.0, 0.0]


def test_a_smaller_temperature_judges_more_sharply():
    scores, truths = torch.tensor([[6.0], [5.0]]), torch.tensor([1.0, 0.0])
    rewards = [float(relative_ranking_consistency(scores, truths, tau)[0, 0]) for tau in (4.0, 1.0, 0.25)]
    assert rewards == pytest.approx([1 / (1 + math.exp(-1 / tau)) for tau in (4.0, 1.0, 0.25)])


@pytest.mark.parametrize("reward", [REWARDS["rrc"], REWARDS["rrc_tanh"], REWARDS["rrc_uniform"]])
@pytest.mark.parametrize(
    ("scores", "truths"),
    [
        ([[5.0, 6.0]], [5.0]),  # alone
        ([[5.0, 6.0], [2.0, 3.0]], [5.0, 5.0]),  # all tied
        ([[5.0, 6.0], [NAN, NAN]], [5.0, 7.0]),  # the only opponent was never parsed
        ([[NAN], [NAN]], [5.0, 7.0]),
    ],
)
def test_without_opponents_of_another_truth_there_is_no_reward(reward, scores, truths):
    assert not reward(torch.tensor(scores), torch.tensor(truths)).any()


def test_an_image_that_was_never_parsed_is_nobodys_opponent():
    scores, truths = torch.tensor([[6.0, 7.0], [5.0, 4.0], [NAN, NAN]]), torch.tensor([2.0, 0.0, 8.0])
    for reward in (relative_ranking_consistency, thurstone_fidelity):
        torch.testing.assert_close(reward(scores, truths)[:2], reward(scores[:2], truths[:2]))


@pytest.mark.parametrize("source", [0.1, 3.3, 6.7, 9.9])
def test_rounding_of_single_precision_makes_no_difference_between_equal_truths(source):
    sources, g = torch.tensor([source, source - 1.1, source + 0.7]), torch.tensor([0.0, 1.1, -0.7])
    assert not true_differences(sources + g).any()
    assert true_differences(torch.tensor([5.0, 5.00001]))[1, 0] > 0  # while the smallest true ones stay


def test_collapsed_predictions_earn_the_constant_of_the_published_code():
    truths = torch.tensor([1.0, 4.0, 6.0, 9.0], dtype=torch.float64)
    rewards = thurstone_fidelity(torch.full((4, 6), 5.0, dtype=torch.float64), truths)
    torch.testing.assert_close(rewards, torch.full_like(rewards, math.sqrt(0.5 + 1e-6) + 1e-3))


def test_absolute_rewards_have_their_papers_scales():
    truth = torch.tensor([5.0])
    # Aes-R1: 0.1 on [0, 1] is one deviation; Q-Insight: below 0.35 on 1-5, that is 0.875 on 0-10.
    assert gaussian_accuracy(torch.tensor([[5.0, 6.0, 3.0]]), truth)[0].tolist() == pytest.approx(
        [1.0, math.exp(-0.5), math.exp(-2.0)]
    )
    assert score_hit(torch.tensor([[5.0, 5.87, 4.13, 5.88, 4.12]]), truth).tolist() == [[1, 1, 1, 0, 0]]
    assert absolute_accuracy(torch.tensor([[5.0, 10.0, 0.0]]), truth)[0].tolist() == [1.0, 0.5, 0.5]


def test_means_are_over_what_was_parsed():
    means = mean_scores(torch.tensor([[1.0, 3.0, NAN], [NAN, NAN, NAN]]))
    assert means[0] == 2
    assert means[1].isnan()


@every_reward
def test_no_gradient_flows_through_a_reward(reward):
    scores = torch.tensor([[5.0], [6.0]], requires_grad=True)
    assert not reward(scores, torch.tensor([1.0, 2.0])).requires_grad


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="weight is 'square'; it must be one of abs, tanh, uniform"):
        pair_weights(torch.tensor([1.0]), "square")  # type: ignore[arg-type]
