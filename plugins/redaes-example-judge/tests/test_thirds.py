"""The plug-in is found by its name, and prefers what lies on the thirds."""

import numpy as np
import pytest
from PIL import Image

from redaes.errors import UserError
from redaes.registry import create, find


def _with_line_at(share: float) -> Image.Image:
    pixels = np.full((96, 96, 3), 60, dtype=np.uint8)
    pixels[:, int(96 * share) :] = 200
    return Image.fromarray(pixels)


def test_it_is_installed_under_its_name() -> None:
    assert "pixel/thirds" in find("judges")


def test_an_edge_on_a_third_scores_above_an_edge_in_the_middle() -> None:
    judge = create("judges", "pixel/thirds")
    assert judge.score(_with_line_at(1 / 3)).value > 5 > judge.score(_with_line_at(1 / 2)).value
    assert judge.compare(_with_line_at(1 / 2), _with_line_at(1 / 3)).value > 0


def test_an_empty_picture_gets_the_middle_and_a_copy_no_difference() -> None:
    judge = create("judges", "pixel/thirds")
    grey = Image.new("RGB", (50, 40), "gray")
    assert judge.score(grey).value == 5
    assert judge.compare(grey, grey).value == 0


def test_a_setting_out_of_range_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="width is"):
        create("judges", {"class_path": "pixel/thirds", "init_args": {"width": 0.5}})
