"""Pictures are made smaller, never larger, and say what they lose."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from redaes.chat.pictures import Preparation
from redaes.errors import UserError


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))


def opened(encoded):
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_a_small_picture_goes_as_it_is_without_loss_in_png(photo):
    media_type, data = Preparation(longer_side=90, picture_format="png").encoded(photo)
    assert media_type == "image/png"
    assert opened(data).tobytes() == photo.tobytes()


def test_a_large_picture_keeps_its_proportions(photo):
    media_type, data = Preparation(longer_side=45).encoded(photo)
    assert (media_type, opened(data).size, opened(data).format) == ("image/jpeg", (45, 30), "JPEG")


def test_jpeg_keeps_colours_at_full_resolution(photo):
    from PIL import JpegImagePlugin

    assert JpegImagePlugin.get_sampling(opened(Preparation().encoded(photo)[1])) == 0


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_every_mode_is_shown_as_rgb(photo, mode):
    assert Preparation().resized(photo.convert(mode)).mode == "RGB"


@pytest.mark.parametrize("settings", [{"longer_side": 8}, {"picture_format": "bmp"}])
def test_a_preparation_there_is_not_is_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        Preparation(**settings)
