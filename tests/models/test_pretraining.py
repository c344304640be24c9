"""Nano's label-free lessons teach what they say, and leave the caller's random numbers alone."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from redaes.models.nano import build_nano
from redaes.models.pretraining import NAMES, descriptions, patch_statistics, pretrain_description, pretrain_tower
from redaes.sources.skimage_photos import SkimagePhotos


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def nano(request):
    return build_nano(["red 4, noise 2"] * 20, request.param, hidden=64, layers=2, vision=64)


@pytest.fixture(scope="module")
def photos():
    source = SkimagePhotos(["astronaut", "chelsea", "rocket", "camera"])
    rng = np.random.default_rng(0)
    images = []
    for photograph in source.photographs():
        image = source.open(photograph.name)
        for _ in range(10):
            left, top = rng.integers(0, image.width - 150), rng.integers(0, image.height - 150)
            images.append(image.crop((left, top, left + 150, top + 150)))
    return images


def statistics(processor, image):
    vision = processor.image_processor
    pixels, _ = processor.pixels([image])
    return patch_statistics(pixels, vision.patch_size, vision.merge_size)


def test_there_is_one_row_of_statistics_per_image_token(nano):
    _, processor = nano
    rows = statistics(processor, Image.new("RGB", (64, 64), (255, 0, 0)))
    assert rows.shape == (processor.tokens_per_image, len(NAMES))
    red, green, blue, contrast = rows[:, :4].unbind(1)
    assert (red == 1).all()
    assert (green == -1).all()
    assert (blue == -1).all()
    assert contrast.abs().max() < 1e-6


def test_the_statistics_follow_the_place_in_the_picture(nano):
    _, processor = nano
    side = processor.image_size
    image = Image.new("RGB", (side, side), "black")
    image.paste("white", (0, 0, side // 2, side))
    grid = int(processor.tokens_per_image**0.5)
    brightness = statistics(processor, image)[:, 0].view(grid, grid)
    assert (brightness[:, : grid // 2] == 1).all()
    assert (brightness[:, grid // 2 :] == -1).all()


def test_a_blur_lowers_detail_and_the_finest_detail_more(nano, photos):
    _, processor = nano
    sharp = statistics(processor, photos[0]).mean(0)
    soft = statistics(processor, photos[0].filter(ImageFilter.GaussianBlur(2))).mean(0)
    detail, noise = NAMES.index("detail"), NAMES.index("noise")
    assert soft[detail] < sharp[detail]
    assert sharp[noise] - soft[noise] > sharp[detail] - soft[detail]


def test_descriptions_are_ranks_as_digits():
    said = descriptions(torch.rand(40, len(NAMES), generator=torch.Generator().manual_seed(0)))
    digits = np.array([[int(part.split()[1]) for part in text.split(", ")] for text in said])
    assert digits.shape == (40, len(NAMES))
    for column in digits.T:
        assert sorted(column) == sorted(np.arange(40) * 10 // 40)


def test_the_tower_learns_its_statistics(photos):
    model, processor = build_nano(["red 4"], hidden=64, layers=1, vision=64)
    state = torch.get_rng_state()
    losses = []
    pretrain_tower(model, processor, photos, 40, batch_size=8, progress=lambda _, loss: losses.append(loss))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_language_part_learns_to_describe_and_the_tower_stays(photos, family):
    model, processor = build_nano([", ".join(NAMES)] * 20, family, hidden=64, layers=2, vision=64)
    tower = {name: weight.clone() for name, weight in model.model.visual.state_dict().items()}
    losses = []
    pretrain_description(model, processor, photos, 40, batch_size=8, progress=lambda _, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert all(torch.equal(weight, tower[name]) for name, weight in model.model.visual.state_dict().items())
