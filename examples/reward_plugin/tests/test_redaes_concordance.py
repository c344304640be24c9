"""The plug-in is found by its name, satisfies its contract and does what it says."""

import pytest
import torch
from scipy.stats import kendalltau

from redaes.errors import UserError
from redaes.registry import create, find
from redaes.rewards import RewardInputs


def inputs(scores: list[list[float]], g: list[float]) -> RewardInputs:
    texts = [[""] * len(row) for row in scores]
    return RewardInputs(torch.tensor(scores), torch.tensor(g), torch.full((len(g),), 5.0), texts)


def test_it_is_installed_under_its_name() -> None:
    assert "concordance" in find("rewards")


def test_it_does_what_it_says() -> None:
    plugin = create("rewards", "concordance")
    rewards = plugin(inputs([[8.0, 4.0, 1.0], [4.0, 4.0, 4.0]], [2.0, 0.0]))
    assert rewards.tolist() == [[1.0, 0.5, 0.0], [0.5, 0.5, 0.5]]


def test_its_mean_over_a_group_is_kendalls_tau() -> None:
    generator = torch.Generator().manual_seed(0)
    plugin = create("rewards", {"class_path": "concordance", "init_args": {"apart": 0.0}})
    for _ in range(20):
        scores, g = torch.randn(2, 8, generator=generator)
        rewards = plugin(inputs(scores[:, None].tolist(), g.tolist()))
        assert rewards.mean().item() == pytest.approx((1 + kendalltau(scores, g).statistic) / 2)


def test_distance_earns_nothing_only_order_does() -> None:
    plugin = create("rewards", "concordance")
    assert torch.equal(plugin(inputs([[5.1], [5.0]], [2.0, 0.0])), plugin(inputs([[9.9], [0.1]], [2.0, 0.0])))


def test_images_that_the_judges_hardly_tell_apart_are_no_pair() -> None:
    plugin = create("rewards", "concordance")
    assert plugin(inputs([[8.0], [2.0], [9.0]], [0.1, 0.0, 3.0])).tolist() == [[1.0], [1.0], [1.0]]
    assert plugin(inputs([[8.0], [2.0]], [0.1, 0.0])).tolist() == [[0.0], [0.0]]


def test_an_unreadable_answer_earns_nothing_and_is_nobodys_opponent() -> None:
    nan = float("nan")
    rewards = create("rewards", "concordance")(inputs([[8.0, nan], [nan, nan], [2.0, 2.0]], [2.0, 9.0, 0.0]))
    assert rewards.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]


def test_a_negative_setting_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="apart is -1"):
        create("rewards", {"class_path": "concordance", "init_args": {"apart": -1}})
