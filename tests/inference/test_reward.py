"""Scores as a reward: one callable for the trainers' conventions, and what an image without a score gets."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from redaes.data.images import ImageError
from redaes.errors import UserError
from redaes.inference import Score
from redaes.inference.images import opened
from redaes.inference.reward import Reward


class Brightness:
    """A scorer of a third party: mean brightness, and no answer for black."""

    def score(self, images: Sequence[object]) -> list[Score]:
        pictures = [opened(image, f"image {k}") for k, image in enumerate(images)]  # type: ignore[arg-type]
        values = [float(np.asarray(picture).mean()) / 25.5 for picture in pictures]
        return [Score(value or None, f"{value:.0f}", "") for value in values]


@pytest.fixture
def reward() -> Reward:
    return Reward(Brightness())


BATCH = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1, 1).expand(3, 3, 8, 8)


def test_a_batch_gives_one_number_each_on_its_own_device_without_a_gradient(reward: Reward) -> None:
    rewards = reward(BATCH.clone().requires_grad_())
    assert rewards.tolist() == pytest.approx([2, 4, 6], abs=0.05)
    assert (rewards.dtype, rewards.device, rewards.requires_grad) == (torch.float32, BATCH.device, False)
    pictures = [Image.new("RGB", (8, 8), (level, level, level)) for level in (51, 102, 153)]
    assert reward(pictures).tolist() == pytest.approx([2, 4, 6])


def test_with_prompts_and_metadata_it_is_the_reward_function_of_ddpo_and_flow_grpo(reward: Reward) -> None:
    rewards, details = reward(BATCH, ("a", "b", "c"), ({}, {}, {}))
    assert torch.as_tensor(rewards).shape == (3,)
    assert details == {"status": ["ok"] * 3, "std": [None] * 3, "reasoning": ["2", "4", "6"]}


def test_by_keyword_it_is_a_reward_function_of_trl(reward: Reward) -> None:
    given = reward(prompts=["p"] * 3, completions=list(BATCH), completion_ids=[[1]] * 3, trainer_state=None)
    assert isinstance(given, list)
    assert given == pytest.approx([2, 4, 6], abs=0.05)
    assert reward.__name__ == "redaes"


def test_an_image_without_a_score_gets_the_mean_of_its_batch_and_is_counted(
    reward: Reward, caplog: pytest.LogCaptureFixture
) -> None:
    batch = torch.cat([BATCH, torch.zeros(1, 3, 8, 8)])
    rewards, details = reward(batch, [""] * 4, [{}] * 4)
    assert rewards.tolist() == pytest.approx([2, 4, 6, 4], abs=0.05)
    assert details["status"] == ["ok", "ok", "ok", "unparsed"]
    assert (reward.seen, reward.unparsed) == (4, 1)
    assert "1 of 4 images have no score; they get 4.0" in caplog.text


def test_a_batch_without_any_score_is_zero_not_nan(reward: Reward) -> None:
    assert reward(torch.zeros(2, 3, 8, 8)).tolist() == [0.0, 0.0]
    assert (reward.seen, reward.unparsed) == (2, 2)


def test_counts_are_right_from_several_threads(reward: Reward) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reward, [BATCH] * 40))
    assert reward.seen == 120


def test_bad_batches_are_one_line(reward: Reward) -> None:
    with pytest.raises(ImageError, match="image 1: holds values from -1 to -1"):
        reward([BATCH[0], torch.full((3, 8, 8), -1.0)])
    for given in ({}, {"images": BATCH, "completions": BATCH}):
        with pytest.raises(UserError, match="give the reward a batch of images"):
            reward(**given)
