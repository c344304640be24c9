"""The fusion of expert scores: every cell of the matrix, every rule at its edge, and what holds for any scores."""

import math
import random
import sys
from itertools import permutations
from subprocess import run

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from redaes.fusion import (
    STRATEGY,
    ConsensusFusion,
    Fusion,
    MeanFusion,
    MedianFusion,
    biweight_location,
    mad,
    mean,
    median,
    modified_z_scores,
    weighted_median,
)

score = st.floats(-10, 10, allow_nan=False)
scores = st.lists(score, min_size=1, max_size=9)
judged = st.lists(st.integers(-100, 100).map(lambda n: n / 10), min_size=1, max_size=9)  # as judges write: ties happen
FUSIONS = [ConsensusFusion(), MeanFusion(), MedianFusion()]

NEAR = (1 - 1 / 36) ** 2  # biweight of a score one MAD from the median; one at the median has 1, beyond 6 MADs 0

# For each cell scores that fall into it, and its value worked out by hand from App. A.
CELLS = {
    ("high", 0): ([6.0, 6.2, 6.4, 6.6, 7.3], 6.5),  # mean of all
    ("high", 1): ([6.0, 6.1, 6.2, 6.3, 7.2], 6.15),  # mean without 7.2
    ("high", 2): ([6.0, 6.0, 6.1, 6.1, 6.2, 7.0, 7.1], 6.1),  # median of all
    ("medium", 0): ([5.0, 6.0, 7.3], 6.1),  # mean of all
    ("medium", 1): ([6.0, 6.1, 6.2, 6.3, 8.0], 6.15),  # mean without 8.0
    ("medium", 2): ([6.0, 6.0, 6.1, 6.1, 6.2, 7.9, 8.0], 6.1),  # median of all
    ("low", 0): ([2.0, 5.0, 9.5], 5.25),  # half of the mean 5.5 and half of the median 5
    ("low", 1): ([6.0, 6.1, 6.2, 6.3, 9.5], 6.2),  # median of all
    ("low", 2): ([4.0, 4.0, 5.0, 5.0, 6.0, 14.0, 15.0], 5 - NEAR / (2 + 3 * NEAR)),  # NEAR pulls -2 + 1 times
}


def test_the_matrix_is_that_of_the_papers_table_7():
    assert STRATEGY == {
        "high": ("weighted_average", "normal_average", "weighted_median"),
        "medium": ("weighted_average", "normal_average", "median"),
        "low": ("conservative_average", "median", "robust_median"),
    }


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_of_the_matrix_is_reached_and_gives_the_value_worked_out_by_hand(cell):
    values, by_hand = CELLS[cell]
    fused = ConsensusFusion()(values)
    assert (fused.level, min(len(fused.outliers), 2)) == cell
    assert fused.method == STRATEGY[cell[0]][cell[1]]
    assert fused.value == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_fusions_satisfy_the_contract(fusion):
    assert isinstance(fusion, Fusion)


@pytest.mark.parametrize("fusion", FUSIONS)
@settings(deadline=None)
@given(values=scores)
def test_the_consensus_lies_between_the_lowest_and_the_highest_score(fusion, values):
    assert min(values) <= fusion(values).value <= max(values)


@pytest.mark.parametrize("fusion", FUSIONS)
@settings(deadline=None)
@given(values=st.one_of(scores, judged), seed=st.integers(0, 2**16))
def test_the_order_of_the_experts_changes_nothing_but_the_indices_of_the_outliers(fusion, values, seed):
    order = list(range(len(values)))
    random.Random(seed).shuffle(order)
    straight, shuffled = fusion(values), fusion([values[k] for k in order])
    assert repr(straight.value) == repr(shuffled.value)  # to the last bit, and the sign of a zero
    assert (straight.level, straight.method) == (shuffled.level, shuffled.method)
    assert set(straight.outliers) == {order[k] for k in shuffled.outliers}


@settings(deadline=None)
@given(values=judged, seed=st.integers(0, 2**16), data=st.data())
def test_experts_with_weights_may_change_places_together_with_them(values, seed, data):
    weights = data.draw(st.lists(st.integers(1, 5), min_size=len(values), max_size=len(values)))
    order = list(range(len(values)))
    random.Random(seed).shuffle(order)
    straight = ConsensusFusion(weights=weights)(values)
    shuffled = ConsensusFusion(weights=[weights[k] for k in order])([values[k] for k in order])
    assert straight.value == shuffled.value


@settings(deadline=None)
@given(values=scores, shift=st.integers(-5, 5).map(float))
def test_a_shift_of_all_scores_shifts_the_consensus(values, shift):
    values = [round(v * 1024) / 1024 for v in values]  # binary fractions, so that the shift itself rounds nothing
    fused, shifted = ConsensusFusion()(values), ConsensusFusion()([v + shift for v in values])
    assert (fused.level, fused.outliers, fused.method) == (shifted.level, shifted.outliers, shifted.method)
    assert shifted.value == pytest.approx(fused.value + shift, abs=1e-9)


@settings(deadline=None)
@given(values=judged)
def test_turning_the_scale_upside_down_turns_the_consensus(values):
    fused, mirrored = ConsensusFusion()(values), ConsensusFusion()([-v for v in values])
    assert mirrored.value == pytest.approx(-fused.value, abs=1e-9)
    assert mirrored.outliers == fused.outliers


@settings(deadline=None)
@given(values=st.one_of(scores, judged), uniform=st.floats(0.1, 10))
def test_equal_weights_are_no_weights(values, uniform):
    fused = ConsensusFusion(weights=[uniform] * len(values))(values)
    plain = ConsensusFusion()(values)
    assert fused.value == pytest.approx(plain.value, abs=1e-9)
    assert fused.method == plain.method


@settings(deadline=None)
@given(values=st.lists(st.one_of(score, judged.map(lambda v: v[0])), min_size=3, max_size=3))
def test_three_experts_never_have_several_outliers(values):
    assert len(ConsensusFusion()(values).outliers) <= 1


@settings(deadline=None)
@given(values=st.lists(score, min_size=1, max_size=2))
def test_one_or_two_experts_never_have_an_outlier(values):
    assert ConsensusFusion()(values).outliers == ()


@settings(deadline=None)
@given(values=scores, far=st.floats(100, 1e6))
def test_the_consensus_of_a_majority_is_not_dragged_away_by_one_expert(values, far):
    agreeing = [6.0 + v / 100 for v in values] + [5.95, 6.05]
    fused = ConsensusFusion()([*agreeing, far])
    assume(fused.method not in ("conservative_average", "weighted_average"))
    assert min(agreeing) <= fused.value <= max(agreeing)


@settings(deadline=None)
@given(value=score, count=st.integers(1, 9))
def test_unanimous_experts_are_taken_at_their_word(value, count):
    fused = ConsensusFusion()([value] * count)
    assert (fused.value, fused.level, fused.outliers, fused.method) == (value, "high", (), "weighted_average")


@pytest.mark.parametrize("values", [[6.0, 7.0], [5.0, 7.0]])
def test_a_deviation_at_a_threshold_is_the_lower_level(values):
    level = {1.0: "medium", 2.0: "low"}[values[1] - values[0]]
    assert ConsensusFusion()(values).level == level


def test_the_deviation_is_that_of_the_population():
    assert ConsensusFusion().level([6.0, 6.9]) == "high"  # 0.45; a sample's would be 0.64


def test_an_outlier_lies_beyond_the_threshold_and_not_at_it():
    values = [4.0, 5.0, 5.0 + 1, 5.0 + 4]
    z = max(abs(z) for z in modified_z_scores(values))
    assert ConsensusFusion(outlier_threshold=z)(values).outliers == ()
    assert ConsensusFusion(outlier_threshold=math.nextafter(z, 0))(values).outliers == (3,)


def test_where_most_agree_exactly_the_mean_deviation_takes_the_place_of_the_mad():
    assert mad([6, 6, 6, 6, 9]) == 0
    assert modified_z_scores([6, 6, 6, 6, 9]) == pytest.approx([0, 0, 0, 0, 5 / 1.253314])
    assert ConsensusFusion()([6.0, 6.0, 6.0, 6.0, 9.0]).outliers == (4,)
    assert ConsensusFusion()([6.0, 6.0, 9.0]).outliers == ()  # z is 2.4: two equal scores do not condemn the third


def test_float_rounding_is_not_disagreement():
    nearly = 0.1 + 0.2
    assert nearly != 0.3
    assert ConsensusFusion()([0.3, nearly, 5.0]).outliers == ConsensusFusion()([0.3, 0.3, 5.0]).outliers == ()
    assert ConsensusFusion()([0.3, 0.3, 0.3, 0.3, nearly]).outliers == ()
    assert biweight_location([0.3, nearly, 0.3, 5.0]) == median([0.3, nearly, 0.3, 5.0])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("order", list(permutations([0.0, -0.0, -0.0])))
def test_zero_has_no_sign(fusion, order):
    assert str(fusion(order).value) == "0.0"


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], 2),
        ([1, 2, 3, 4], [1, 1, 1, 1], 2.5),
        ([3, 1, 2], [5, 1, 1], 3),
        ([1, 2, 3], [0.1, 0.2, 0.3], 2.5),  # a tie that floats do not add up to
        ([1, 2, 9], [1, 0, 1], 5),  # the score without weight is not the upper median
        ([4], [0.3], 4),
    ],
)
def test_the_weighted_median_splits_the_weight_in_halves(values, weights, expected):
    assert weighted_median(values, weights) == expected


@settings(deadline=None)
@given(values=judged, data=st.data())
def test_a_whole_weight_says_how_often_a_score_counts(values, data):
    weights = data.draw(st.lists(st.integers(0, 4), min_size=len(values), max_size=len(values)).filter(any))
    repeated = [v for v, w in zip(values, weights, strict=True) for _ in range(w)]
    assert weighted_median(values, weights) == median(repeated)


def test_weights_speak_in_the_weighted_cells():
    assert ConsensusFusion(weights=[3, 1])([6.0, 6.8]).value == pytest.approx(6.2)
    high_with_two_outliers = CELLS["high", 2][0]
    fused = ConsensusFusion(weights=[1, 1, 1, 1, 1, 10, 1])(high_with_two_outliers)
    assert (fused.method, fused.value) == ("weighted_median", 7.0)
    low = ConsensusFusion(weights=[1, 1, 2])([2.0, 5.0, 9.0])
    assert low.value == pytest.approx(0.5 * 6.25 + 0.5 * 5.0)


def test_the_settings_that_the_paper_lost_can_be_set():
    values = [2.0, 5.0, 9.5]
    assert ConsensusFusion(blend=1.0)(values).value == pytest.approx(5.5)
    assert ConsensusFusion(blend=0.0)(values).value == 5.0
    assert ConsensusFusion(high_std=4.0, medium_std=4.0)(values).level == "high"
    assert ConsensusFusion(high_std=0.1, medium_std=4.0)(values).level == "medium"
    assert ConsensusFusion(outlier_threshold=1.0)(values).outliers == (2,)
    far = CELLS["low", 2][0]
    assert ConsensusFusion(biweight_c=1000.0)(far).value == pytest.approx(mean(far), abs=1e-2)


def test_mean_and_median_keep_the_audit():
    values = CELLS["low", 1][0]
    audit = ConsensusFusion()(values)
    for fusion, value, method in [(MeanFusion(), mean(values), "mean"), (MedianFusion(), median(values), "median")]:
        fused = fusion(values)
        assert (fused.value, fused.method) == (value, method)
        assert (fused.level, fused.outliers) == (audit.level, audit.outliers)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    ("values", "named"),
    [([], "no scores"), ([5.0, math.nan], "score 1 is nan"), ([math.inf], "score 0 is inf"), ([1, -math.inf], "-inf")],
)
def test_what_cannot_be_fused_is_named(fusion, values, named):
    with pytest.raises(ValueError, match=named):
        fusion(values)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"outlier_threshold": 0.0}, "outlier_threshold is 0.0"),
        ({"outlier_threshold": math.nan}, "outlier_threshold is nan"),
        ({"high_std": 2.0}, "high_std 2.0 and medium_std 1.0"),
        ({"high_std": 0.0}, "high_std 0.0"),
        ({"blend": 1.5}, "blend is 1.5"),
        ({"biweight_c": 1.0}, "biweight_c is 1.0"),
        ({"weights": []}, "weights are"),
        ({"weights": [0, 0]}, "not all 0"),
        ({"weights": [1, -1]}, "not negative"),
        ({"weights": [1, math.nan]}, "finite"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        ConsensusFusion(**settings)


def test_weights_are_one_for_each_score():
    with pytest.raises(ValueError, match="3 scores and 2 weights"):
        ConsensusFusion(weights=[1, 1])([1, 2, 3])


def test_fusing_needs_neither_torch_nor_scipy():
    code = "import sys, redaes.fusion as f; f.ConsensusFusion()([1, 2]); print({'torch', 'scipy'} & set(sys.modules))"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
