"""Tiny models of both real families and prompts for them; the modules beside this file can be imported."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from redaes.models.nano import build_nano
from redaes.prompts import render

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def nano(request):
    return build_nano(["Sharp detail."], request.param, seed=1, hidden=64, layers=2, vision=64)


@pytest.fixture
def prompts(nano):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    return nano[1].batch([[image] for image in images], [render("score"), render("predict_edit", "Blur it."), "Score?"])
