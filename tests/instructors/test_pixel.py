import random

import pytest
from PIL import Image

from redaes.editors.operations import OPERATIONS
from redaes.instructors import Instructor
from redaes.instructors.pixel import PixelInstructor
from redaes.sources.skimage_photos import SkimagePhotos


@pytest.fixture(scope="module")
def photo():
    return SkimagePhotos(["astronaut"]).open("astronaut").resize((112, 112), Image.Resampling.LANCZOS)


@pytest.mark.parametrize(
    ("fault", "remedies"),
    [
        ("underexpose", {"brighten", "lift_shadows"}),
        ("blur", {"sharpen"}),
        ("desaturate", {"saturate"}),
        ("flatten_contrast", {"raise_contrast", "stretch_levels", "local_contrast"}),
    ],
)
def test_the_worst_deficiency_is_asked_for_most(photo, fault, remedies):
    broken = OPERATIONS[fault].operator(photo, 1.5, random.Random(0))
    instructor = PixelInstructor(orientations=["quality"])
    asked = [instructor.instruct(broken, seed).category for seed in range(60)]
    assert sum(a in remedies for a in asked) > 20


def test_targeted_edits_mean_to_improve(photo):
    instructor = PixelInstructor()
    assert isinstance(instructor, Instructor)
    for seed in range(30):
        instruction = instructor.instruct(photo, seed)
        assert OPERATIONS[instruction.category].improving
        assert instruction.analysis


@pytest.mark.parametrize("orientations", [("quality",), ("content",), ("quality", "content")])
def test_diverse_edits_differ_and_keep_to_the_kinds_asked_for(photo, orientations):
    chosen = PixelInstructor(orientations).diversify(photo, 7, seed=1)
    assert len({i.category for i in chosen}) == 7
    assert {i.orientation for i in chosen} <= set(orientations)
    assert chosen == PixelInstructor(orientations).diversify(photo, 7, seed=1)
    assert chosen != PixelInstructor(orientations).diversify(photo, 7, seed=2)


def test_a_black_and_white_photograph_is_not_called_dull():
    grey = SkimagePhotos(["camera"]).open("camera").resize((112, 112))
    asked = {PixelInstructor(["quality"]).instruct(grey, seed).category for seed in range(60)}
    assert "saturate" not in asked
