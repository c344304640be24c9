"""Tiny models of both real families, built once per test session."""

import numpy as np
import pytest
from PIL import Image

from redaes.models.nano import build_nano

WORDS = ["Sharp detail with little noise; light is balanced; colours are dull."]


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen3_vl"])
def nano(request):
    model, processor = build_nano(WORDS, request.param, seed=1, hidden=64, layers=2, vision=64)
    return model.eval(), processor


@pytest.fixture
def photos():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (90, 130, 3), dtype=np.uint8)) for _ in range(6)]
