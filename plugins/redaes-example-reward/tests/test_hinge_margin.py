"""The plug-in is found by its name, and pays for the right order up to its margin."""

import pytest
import torch

from redaes.errors import UserError
from redaes.registry import create, find
from redaes.rewards import RewardInputs


def _inputs(scores: list[list[float]], g: list[float]) -> RewardInputs:
    texts = [[""] * len(row) for row in scores]
    return RewardInputs(torch.tensor(scores), torch.tensor(g), torch.full((len(g),), 5.0), texts)


def test_it_is_installed_under_its_name() -> None:
    assert "hinge_margin" in find("rewards")


def test_the_right_order_earns_one_and_the_wrong_order_nothing() -> None:
    reward = create("rewards", "hinge_margin")
    assert reward(_inputs([[8.0, 8.0], [2.0, 2.0]], [3.0, 0.0])).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert reward(_inputs([[2.0, 2.0], [8.0, 8.0]], [3.0, 0.0])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_within_the_margin_the_reward_is_a_straight_line() -> None:
    reward = create("rewards", {"class_path": "hinge_margin", "init_args": {"margin": 2.0}})
    assert reward(_inputs([[6.0], [5.0]], [1.0, 0.0])).tolist() == [[0.75], [0.75]]


def test_an_unreadable_answer_earns_nothing_and_is_nobodys_opponent() -> None:
    nan = float("nan")
    rewards = create("rewards", "hinge_margin")(_inputs([[8.0, nan], [nan, nan], [2.0, 2.0]], [2.0, 9.0, 0.0]))
    assert rewards.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]


def test_a_margin_of_zero_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="margin is 0"):
        create("rewards", {"class_path": "hinge_margin", "init_args": {"margin": 0}})
