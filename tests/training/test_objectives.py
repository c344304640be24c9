"""The mathematics of GRPO: cases worked by hand, properties, and the gradients that it must and must not give."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.training.objectives import (
    aggregate,
    clipped_objective,
    group_advantages,
    grpo_loss,
    importance_ratio,
    kl_divergence,
    truncated_importance_weights,
)

NAN = float("nan")
AGGREGATIONS = ("grpo", "dr_grpo", "dapo", "bnpo")
T_MAX = 6

calm = settings(deadline=None)


def _tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@st.composite
def rewards_of_groups(draw, min_outputs=1):
    n, k = draw(st.integers(1, 5)), draw(st.integers(min_outputs, 6))
    reward = st.integers(0, 100).map(lambda r: r / 100)
    return _tensor(draw(st.lists(st.lists(reward, min_size=k, max_size=k), min_size=n, max_size=n)))


@st.composite
def batches(draw):
    """Log-probabilities of a policy, of the one that sampled and of the reference; advantages; a mask of prefixes."""
    b, t = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    logprob = st.floats(-5, 0, width=32)
    table = st.lists(st.lists(logprob, min_size=t, max_size=t), min_size=b, max_size=b)
    logprobs, old, ref = (_tensor(draw(table)) for _ in range(3))
    advantages = _tensor(draw(st.lists(st.floats(-2, 2, width=32), min_size=b, max_size=b)))
    lengths = torch.tensor(draw(st.lists(st.integers(1, t), min_size=b, max_size=b)))
    return logprobs, old, ref, advantages, (torch.arange(t) < lengths[:, None]).long()


def _loss_and_gradient(logprobs, old, ref, advantages, mask, **options):
    leaf = logprobs.clone().requires_grad_()
    loss, metrics = grpo_loss(leaf, old, ref, advantages, mask, **{"max_completion_length": T_MAX, **options})
    loss.backward()
    return loss.detach(), leaf.grad, metrics


class TestAdvantages:
    def test_they_are_the_paper_s_with_the_unbiased_deviation(self):
        advantages, zero_std = group_advantages(_tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 4.0]]))
        assert advantages[0].tolist() == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])
        assert advantages[1].tolist() == pytest.approx([x / (math.sqrt(3) + 1e-4) for x in (-1, -1, 2)])
        assert zero_std.tolist() == [False, False]

    @calm
    @given(rewards=rewards_of_groups(), scale=st.sampled_from(["group", "batch", "none"]))
    def test_those_of_one_image_sum_to_zero_and_keep_its_order(self, rewards, scale):
        advantages, _ = group_advantages(rewards, scale)
        assert advantages.shape == rewards.shape
        assert advantages.sum(1).abs().max() < 1e-9
        better = rewards[:, :, None] > rewards[:, None, :]
        assert bool((advantages[:, :, None] > advantages[:, None, :])[better].all())

    @calm
    @given(rewards=rewards_of_groups(), shift=st.floats(-3, 3), scale=st.sampled_from(["group", "none"]))
    def test_an_image_that_is_easy_for_all_outputs_has_no_advantage_over_others(self, rewards, shift, scale):
        shifted = rewards.clone()
        shifted[0] += shift
        torch.testing.assert_close(group_advantages(shifted, scale)[0], group_advantages(rewards, scale)[0])

    @pytest.mark.parametrize("scale", ["group", "batch", "none"])
    @pytest.mark.parametrize("value", [0.0, 0.3, 0.7081, 1 / 3])
    def test_equal_rewards_give_exactly_no_advantage_and_are_counted(self, scale, value):
        rewards = torch.full((2, 6), value)
        rewards[1, 0] += 0.5
        advantages, zero_std = group_advantages(rewards, scale)
        assert advantages[0].tolist() == [0.0] * 6
        assert advantages[1].abs().min() > 0
        assert zero_std.tolist() == [True, False]

    def test_a_difference_of_rounding_counts_as_equal_and_one_above_it_does_not(self):
        _, zero_std = group_advantages(_tensor([[0.3, 0.3 + 9e-7], [0.3, 0.3 + 2e-6]]))
        assert zero_std.tolist() == [True, False]

    def test_one_output_has_nothing_to_be_compared_with(self):
        for scale in ("group", "batch", "none"):
            advantages, zero_std = group_advantages(_tensor([[0.3], [0.9]]), scale)
            assert advantages.tolist() == [[0.0], [0.0]]
            assert zero_std.all()

    def test_the_batch_s_deviation_keeps_the_proportions_between_images(self):
        rewards = _tensor([[0.0, 1.0], [0.4, 0.6]])
        assert group_advantages(rewards, "group")[0][:, 1].tolist() == pytest.approx([0.7071, 0.7071], abs=1e-3)
        wide, narrow = group_advantages(rewards, "batch")[0][:, 1].tolist()
        assert wide == pytest.approx(5 * narrow)
        assert wide == pytest.approx(0.5 / (float(rewards.std()) + 1e-4))
        assert group_advantages(rewards, "none")[0][:, 1].tolist() == pytest.approx([0.5, 0.1])

    @pytest.mark.parametrize("bad", [NAN, math.inf])
    def test_a_reward_that_is_no_number_is_refused(self, bad):
        with pytest.raises(ValueError, match=f"rewards must be finite, not .{bad}"):
            group_advantages(_tensor([[0.0, bad]]))

    def test_an_unknown_scale_is_refused(self):
        with pytest.raises(ValueError, match="scale is 'image'; it must be one of group, batch, none"):
            group_advantages(_tensor([[0.0, 1.0]]), "image")


class TestRatio:
    def test_it_is_one_where_nothing_has_changed(self):
        logprobs = _tensor([[-1.0, -2.0]])
        for level in ("token", "sequence"):
            assert bool((importance_ratio(logprobs, logprobs, torch.ones(1, 2), level) == 1).all())

    def test_a_sequence_s_is_the_geometric_mean_over_its_own_tokens(self):
        old, mask = torch.zeros(2, 3, dtype=torch.float64), _tensor([[1, 1, 0], [1, 1, 1]])
        new = _tensor([[0.1, 0.3, 99.0], [0.3, 0.3, 0.6]])
        ratio = importance_ratio(new, old, mask, "sequence")
        assert ratio.tolist() == [[pytest.approx(math.exp(0.2))], [pytest.approx(math.exp(0.4))]]

    def test_an_unknown_level_is_refused(self):
        with pytest.raises(ValueError, match="level is 'word'"):
            importance_ratio(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), "word")


class TestClip:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "expected"),
        [
            (1.0, 2.0, 2.0),
            (1.5, 1.0, 1.28),  # a good output is not pushed further up
            (0.5, 1.0, 0.5),  # but is pulled back if it fell
            (0.5, -1.0, -0.8),  # a bad output is not pushed further down
            (1.5, -1.0, -1.5),  # but is pulled back if it rose
        ],
    )
    def test_it_removes_the_reward_for_moving_further_and_nothing_else(self, ratio, advantage, expected):
        value = clipped_objective(_tensor([[ratio]]), _tensor([advantage]), clip_low=0.2, clip_high=0.28)
        assert float(value) == pytest.approx(expected)

    @calm
    @given(ratio=st.floats(0.01, 5), advantage=st.floats(-3, 3), low=st.floats(0, 0.9), high=st.floats(0, 3))
    def test_it_is_a_lower_bound_of_the_unclipped_objective(self, ratio, advantage, low, high):
        clipped = clipped_objective(_tensor([[ratio]]), _tensor([advantage]), low, high)
        assert float(clipped) <= ratio * advantage + 1e-12

    def test_its_gradient_is_exactly_zero_where_it_takes_hold(self):
        options = {"kl_coef": 0.0, "clip_low": 0.2, "clip_high": 0.2}
        logprobs = _tensor([[-1.0, -1.0], [-1.0, -1.0]])
        old = logprobs - _tensor([[0.5, 0.1], [-0.5, -0.1]])
        _, gradient, metrics = _loss_and_gradient(
            logprobs, old, None, _tensor([1.0, -1.0]), torch.ones(2, 2), **options
        )
        assert gradient[:, 0].tolist() == [0.0, 0.0]
        assert gradient[0, 1] < 0 < gradient[1, 1]
        assert (float(metrics["clip_high"]), float(metrics["clip_low"])) == (0.25, 0.25)


class TestKL:
    @calm
    @given(batch=batches())
    def test_it_is_never_negative_and_zero_only_where_both_agree(self, batch):
        logprobs, ref, *_ = batch
        kl = kl_divergence(logprobs, ref)
        assert bool((kl >= -1e-12).all())
        assert bool((kl[(logprobs - ref).abs() > 1e-3] > 0).all())
        assert not kl_divergence(logprobs, logprobs).any()

    def test_its_expectation_is_the_divergence_of_the_distributions(self):
        policy, reference = _tensor([0.1, 0.2, 0.7]), _tensor([0.3, 0.3, 0.4])
        estimate = (policy * kl_divergence(policy.log(), reference.log())).sum()
        exact = (policy * (policy / reference).log()).sum()
        assert float(estimate) == pytest.approx(float(exact))

    def test_it_pulls_the_policy_toward_the_reference(self):
        logprobs, ref = _tensor([[-1.0, -3.0]]), _tensor([[-2.0, -2.0]])
        _, gradient, _ = _loss_and_gradient(logprobs, None, ref, _tensor([0.0]), torch.ones(1, 2), kl_coef=0.1)
        assert gradient[0, 0] > 0 > gradient[0, 1]  # descent lowers the first and raises the second

    def test_without_a_reference_it_must_be_switched_off(self):
        with pytest.raises(ValueError, match=r"kl_coef is 0\.04, but there are no reference"):
            grpo_loss(torch.zeros(1, 1), None, None, torch.zeros(1), torch.ones(1, 1))


class TestAggregation:
    VALUES = _tensor([[4.0, 9.0, 9.0], [1.0, 2.0, 6.0]])
    MASK = _tensor([[1, 0, 0], [1, 1, 1]])

    @pytest.mark.parametrize(
        ("how", "expected"),
        [("grpo", (4 + 3) / 2), ("dr_grpo", 13 / (2 * 6)), ("dapo", 13 / 4), ("bnpo", 13 / 4)],
    )
    def test_each_weighs_long_completions_its_own_way(self, how, expected):
        assert float(aggregate(self.VALUES, self.MASK, how, T_MAX)) == pytest.approx(expected)

    def test_dapo_counts_the_tokens_of_the_whole_step(self):
        for count in (20, torch.tensor(20.0)):
            assert float(aggregate(self.VALUES, self.MASK, "dapo", token_count=count)) == pytest.approx(13 / 20)

    def test_dapo_over_parts_of_a_step_adds_up_to_the_whole(self):
        parts = [
            aggregate(self.VALUES[i : i + 1], self.MASK[i : i + 1], "dapo", token_count=self.MASK.sum()) for i in (0, 1)
        ]
        assert float(sum(parts)) == pytest.approx(float(aggregate(self.VALUES, self.MASK, "dapo")))

    @pytest.mark.parametrize("how", AGGREGATIONS)
    def test_nothing_but_masked_tokens_is_zero_and_not_nan(self, how):
        assert float(aggregate(self.VALUES, torch.zeros(2, 3), how, T_MAX, token_count=0.0)) == 0.0

    def test_dr_grpo_needs_the_longest_length(self):
        with pytest.raises(ValueError, match="dr_grpo divides by max_completion_length"):
            aggregate(self.VALUES, self.MASK, "dr_grpo")

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(ValueError, match="aggregation is 'mean'; it must be one of grpo, dr_grpo, dapo, bnpo"):
            aggregate(self.VALUES, self.MASK, "mean")


class TestLoss:
    def test_a_case_worked_by_hand(self):
        # One completion of two tokens: ratios e^0.1 and e^-0.5, A = 1, d = 0 and ln 2.
        logprobs, old = _tensor([[-1.0, -2.0]]), _tensor([[-1.1, -1.5]])
        ref = _tensor([[-1.0, -2.0 + math.log(2)]])
        loss, _ = grpo_loss(logprobs, old, ref, _tensor([1.0]), torch.ones(1, 2), kl_coef=0.5)
        kl = 2 - math.log(2) - 1
        assert float(loss) == pytest.approx(-(math.exp(0.1) + math.exp(-0.5) - 0.5 * kl) / 2)

    @calm
    @given(batch=batches(), aggregation=st.sampled_from(AGGREGATIONS), level=st.sampled_from(["token", "sequence"]))
    def test_what_stands_at_masked_tokens_cannot_matter(self, batch, aggregation, level):
        logprobs, old, ref, advantages, mask = batch
        options = {"aggregation": aggregation, "ratio_level": level}
        loss, gradient, metrics = _loss_and_gradient(logprobs, old, ref, advantages, mask, entropy=-old, **options)
        for junk in (NAN, -math.inf, 50.0):
            dirty = [x.masked_fill(mask == 0, junk) for x in (logprobs, old, ref)]
            again, same, logged = _loss_and_gradient(*dirty, advantages, mask, entropy=-dirty[1], **options)
            assert float(again) == float(loss)
            assert torch.equal(same, gradient)
            assert logged == metrics
        assert not gradient[mask == 0].any()

    @calm
    @given(batch=batches(), aggregation=st.sampled_from(AGGREGATIONS))
    def test_on_policy_it_is_the_policy_gradient(self, batch, aggregation):
        logprobs, _, _, advantages, mask = batch
        _, gradient, metrics = _loss_and_gradient(
            logprobs, None, None, advantages, mask, kl_coef=0.0, aggregation=aggregation
        )
        leaf = logprobs.clone().requires_grad_()
        (-aggregate(leaf * advantages[:, None], mask.double(), aggregation, T_MAX)).backward()
        torch.testing.assert_close(gradient, leaf.grad)
        assert float(metrics["ratio"]) == 1.0

    @calm
    @given(batch=batches())
    def test_on_policy_with_balanced_advantages_the_printed_loss_is_the_kl_term(self, batch):
        logprobs, _, ref, advantages, _ = batch
        balanced = advantages - advantages.mean()
        loss, gradient, metrics = _loss_and_gradient(logprobs, None, ref, balanced, torch.ones_like(logprobs))
        assert float(loss) == pytest.approx(0.04 * float(metrics["kl"]), abs=1e-9)
        assert gradient.abs().max() > 0 or balanced.abs().max() < 1e-3  # a loss of 0 still teaches

    @calm
    @given(batch=batches(), level=st.sampled_from(["token", "sequence"]), shuffle=st.randoms(use_true_random=False))
    def test_the_order_of_completions_does_not_matter(self, batch, level, shuffle):
        order = list(range(len(batch[0])))
        shuffle.shuffle(order)
        loss, gradient, _ = _loss_and_gradient(*batch, ratio_level=level)
        again, moved, _ = _loss_and_gradient(*(x[order] for x in batch), ratio_level=level)
        torch.testing.assert_close(again, loss)
        torch.testing.assert_close(moved, gradient[order])

    @pytest.mark.parametrize("aggregation", AGGREGATIONS)
    @pytest.mark.parametrize("level", ["token", "sequence"])
    def test_its_gradient_is_that_of_finite_differences(self, aggregation, level):
        generator = torch.Generator().manual_seed(0)
        logprobs, old, ref = (-3 * torch.rand(3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
        mask = _tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
        options = {"aggregation": aggregation, "ratio_level": level, "max_completion_length": T_MAX}

        def loss(x):
            return grpo_loss(x, old, ref, _tensor([1.0, -0.5, 2.0]), mask, **options)[0]

        assert torch.autograd.gradcheck(loss, logprobs.requires_grad_())

    def test_descent_makes_good_outputs_likelier_and_bad_ones_less_likely(self):
        logprobs = _tensor([[-1.0, -1.0], [-1.0, -1.0]])
        _, gradient, _ = _loss_and_gradient(logprobs, None, None, _tensor([1.0, -1.0]), torch.ones(2, 2), kl_coef=0.0)
        assert bool((gradient[0] < 0).all())
        assert bool((gradient[1] > 0).all())

    def test_what_is_logged_holds_no_graph(self):
        logprobs, entropy = (torch.zeros(1, 2, requires_grad=True) for _ in range(2))
        loss, metrics = grpo_loss(
            logprobs, None, torch.ones(1, 2), torch.ones(1), torch.ones(1, 2), entropy=entropy.exp()
        )
        assert loss.requires_grad
        assert {"kl", "entropy", "ratio", "clip_low", "clip_high"} == set(metrics)
        assert not any(value.requires_grad for value in metrics.values())

    def test_what_is_logged_is_a_mean_over_tokens(self):
        logprobs, old = _tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), _tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        ref, entropy = _tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), _tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        _, metrics = grpo_loss(logprobs, old, ref, _tensor([1.0, 1.0]), mask, entropy=entropy)
        assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
            {
                "ratio": (math.e + 2) / 3,
                "clip_low": 0.0,
                "clip_high": 1 / 3,
                "kl": (math.e - 2) / 3,
                "entropy": 2.0,
            }
        )

    def test_negative_clips_are_refused(self):
        with pytest.raises(ValueError, match=r"clip_low is -0\.1"):
            grpo_loss(torch.zeros(1, 1), None, None, torch.zeros(1), torch.ones(1, 1), clip_low=-0.1, kl_coef=0.0)


CORRECTIONS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


class TestSamplingWeights:
    TRAINER = _tensor([[0.8, 0.5, 0.1], [0.3, 0.3, 0.6]]).log()
    ENGINE = _tensor([[0.2, 0.5, 0.4], [0.3, 0.6, 0.1]]).log()
    MASK = _tensor([[1, 1, 1], [1, 1, 0]])

    @pytest.mark.parametrize(
        ("correction", "expected"),
        [
            ("token_truncate", [[2.0, 1.0, 0.3], [1.0, 0.5, 1.0]]),
            ("token_mask", [[0.0, 1.0, 0.0], [1.0, 0.5, 1.0]]),
            ("sequence_truncate", [[1.0], [0.5]]),
            ("sequence_mask", [[1.0], [0.5]]),
        ],
    )
    def test_a_case_worked_by_hand(self, correction, expected):
        weights, _ = truncated_importance_weights(self.TRAINER, self.ENGINE, self.MASK, correction, 2.0, floor=0.3)
        torch.testing.assert_close(weights, _tensor(expected))

    def test_what_is_logged_is_taken_over_completion_tokens(self):
        _, metrics = truncated_importance_weights(self.TRAINER, self.ENGINE, self.MASK, cap=2.0)
        assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
            {
                "sampling_logp_difference_mean": (math.log(4) + math.log(4) + math.log(2)) / 5,
                "sampling_logp_difference_max": math.log(4),
                "importance_sampling_ratio_mean": (2 + 1 + 0.25 + 1 + 0.5) / 5,
                "importance_sampling_ratio_min": 0.25,
                "importance_sampling_ratio_max": 2.0,
            }
        )

    def test_without_a_correction_the_mismatch_is_measured_and_nothing_else(self):
        weights, metrics = truncated_importance_weights(self.TRAINER, self.ENGINE, self.MASK, "none")
        assert weights is None
        assert set(metrics) == {"sampling_logp_difference_mean", "sampling_logp_difference_max"}

    @calm
    @given(batch=batches(), correction=st.sampled_from(CORRECTIONS))
    def test_the_trainers_own_samples_are_left_as_they_are(self, batch, correction):
        logprobs, old, ref, advantages, mask = batch
        weights, metrics = truncated_importance_weights(logprobs, logprobs, mask, correction)
        assert bool((weights == 1).all())
        assert float(metrics["sampling_logp_difference_max"]) == 0
        plain = _loss_and_gradient(logprobs, old, ref, advantages, mask)
        weighted = _loss_and_gradient(logprobs, old, ref, advantages, mask, sampling_weights=weights)
        assert torch.equal(plain[1], weighted[1])
        assert float(plain[0]) == float(weighted[0])

    @calm
    @given(batch=batches(), correction=st.sampled_from(CORRECTIONS), cap=st.floats(1, 4), floor=st.floats(0.1, 0.9))
    def test_they_stay_within_their_bounds_or_are_zero(self, batch, correction, cap, floor):
        weights, _ = truncated_importance_weights(batch[0], batch[1], batch[4], correction, cap, floor)
        within = (weights >= floor) & (weights <= cap)
        assert bool((within | (weights == 0) if "mask" in correction else within).all())

    @calm
    @given(batch=batches(), correction=st.sampled_from(CORRECTIONS), junk=st.sampled_from([NAN, -math.inf, 50.0]))
    def test_what_stands_at_masked_tokens_cannot_matter(self, batch, correction, junk):
        logprobs, engine, *_, mask = batch
        weights, metrics = truncated_importance_weights(logprobs, engine, mask, correction)
        dirty = [x.masked_fill(mask == 0, junk) for x in (logprobs, engine)]
        again, logged = truncated_importance_weights(*dirty, mask, correction)
        assert torch.equal(again, weights)
        assert logged == metrics

    @calm
    @given(batch=batches(), correction=st.sampled_from(CORRECTIONS))
    def test_a_token_that_the_engine_could_not_score_counts_as_equal_and_is_not_measured(self, batch, correction):
        logprobs, engine, *_, mask = batch
        unscored, equal = engine.clone(), engine.clone()
        unscored[:, 0], equal[:, 0] = NAN, logprobs[:, 0]
        weights, metrics = truncated_importance_weights(logprobs, unscored, mask, correction)
        torch.testing.assert_close(weights, truncated_importance_weights(logprobs, equal, mask, correction)[0])
        rest = mask[:, 1:] != 0
        differences = (logprobs - engine).abs()[:, 1:][rest]
        expected = float(differences.mean()) if len(differences) else 0.0
        assert float(metrics["sampling_logp_difference_mean"]) == pytest.approx(expected)

    def test_weighted_by_the_ratio_a_mean_over_the_engines_samples_is_one_over_the_trainers(self):
        # A vocabulary of three: sum over the engine's probabilities of weight * value = sum over the trainer's.
        engine, trainer, value = _tensor([0.5, 0.3, 0.2]), _tensor([0.2, 0.3, 0.5]), _tensor([1.0, -2.0, 4.0])
        rows = torch.ones(3, 1)
        weights, _ = truncated_importance_weights(trainer.log()[:, None], engine.log()[:, None], rows, cap=10.0)
        assert float((engine * weights[:, 0] * value).sum()) == pytest.approx(float((trainer * value).sum()))

    def test_they_scale_the_policy_term_and_not_the_penalty(self):
        logprobs, ref = _tensor([[-1.0, -3.0]]), _tensor([[-2.0, -2.0]])
        arguments = (logprobs, None, ref, _tensor([1.0]), torch.ones(1, 2))
        _, plain, _ = _loss_and_gradient(*arguments)
        _, penalty, _ = _loss_and_gradient(*arguments, sampling_weights=torch.zeros(1, 1))
        _, doubled, _ = _loss_and_gradient(*arguments, sampling_weights=torch.full((1, 2), 2.0))
        torch.testing.assert_close(doubled, 2 * plain - penalty)
        assert penalty[0, 0] > 0 > penalty[0, 1]

    def test_they_hold_no_graph(self):
        logprobs = self.TRAINER.clone().requires_grad_()
        weights, _ = truncated_importance_weights(logprobs, self.ENGINE, self.MASK)
        assert not weights.requires_grad

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"correction": "truncate"}, "correction is 'truncate'; it must be one of none, token_truncate"),
            ({"cap": 0.0}, r"cap is 0\.0, floor 0\.0"),
            ({"cap": 1.0, "floor": 1.5}, r"cap is 1\.0, floor 1\.5; they must be 0 <= floor < cap"),
        ],
    )
    def test_options_out_of_range_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            truncated_importance_weights(self.TRAINER, self.ENGINE, self.MASK, **options)
