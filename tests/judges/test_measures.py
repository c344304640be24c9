"""The measures recover what was put into a picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from redaes.judges import measures as m
from redaes.judges.measures import Pixels

CLEAN = np.tile(np.linspace(0.3, 0.6, 112, dtype=np.float32)[:, None, None], (1, 112, 3))


def noisy(deviation: float, channels: int = 3) -> Pixels:
    """A smooth ramp with Gaussian noise of a deviation in points of 255, one draw for each channel or for all."""
    noise = np.random.default_rng(0).normal(0, deviation / 255, (112, 112, channels))
    return Pixels((CLEAN + noise).astype(np.float32))


@given(deviation=st.floats(2, 20))
@settings(deadline=None, max_examples=20)
def test_grain_in_brightness_is_about_the_deviation_put_in(deviation: float) -> None:
    assert m.luma_grain(noisy(deviation, channels=1)) == pytest.approx(deviation, rel=0.25)


@given(deviation=st.floats(2, 20))
@settings(deadline=None, max_examples=20)
def test_grain_in_colour_is_what_independent_channels_leave_in_brightness(deviation: float) -> None:
    pixels = noisy(deviation)
    assert m.chroma_grain(pixels) == pytest.approx(m.luma_grain(pixels), rel=0.15)
    assert m.chroma_grain(noisy(deviation, channels=1)) < 0.02


@given(deviation=st.floats(0, 20))
@settings(deadline=None, max_examples=20)
def test_noise_alone_has_no_sharpness(deviation: float) -> None:
    assert m.edge_contrast(noisy(deviation)) < 0.02


@given(red=st.floats(0.7, 1.3), blue=st.floats(0.7, 1.3), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_a_tint_leaves_the_measures_of_colour_where_they_were(red: float, blue: float, seed: int) -> None:
    patches = np.random.default_rng(seed).uniform(0.25, 0.7, (7, 7, 3)).repeat(16, 0).repeat(16, 1)
    plain, tinted = Pixels(patches.astype(np.float32)), Pixels((patches * [red, 1, blue]).astype(np.float32))
    for measure in (m.colour_variety, m.colour_distance, m.balanced_saturation):
        assert measure(tinted) == pytest.approx(measure(plain), rel=0.12)


@pytest.mark.parametrize("cast", [m.colour_cast, m.bright_cast, m.middle_cast])
def test_a_cast_is_nothing_on_grey_and_grows_with_the_tint(cast: m.Measure) -> None:
    casts = [cast(Pixels(CLEAN * np.array([1 + a, 1, 1 - a], dtype=np.float32))) for a in (0, 0.1, 0.2, 0.4)]
    assert casts[0] == pytest.approx(0, abs=1e-6)
    assert casts == sorted(casts)


def test_the_same_pixels_are_measured_once() -> None:
    image = Image.new("RGB", (32, 32), (10, 200, 30))
    assert Pixels.of(image) is Pixels.of(image.copy())
    assert Pixels.of(image) is not Pixels.of(Image.new("RGB", (32, 32), (10, 200, 31)))
