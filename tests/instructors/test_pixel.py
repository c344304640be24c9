import random

import pytest
from PIL import Image

from redaes.editors.operations import OPERATIONS
from redaes.errors import UserError
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


@pytest.mark.parametrize(
    ("fault", "remedies"), [("add_noise", {"denoise"}), ("overexpose", {"darken", "recover_highlights"})]
)
def test_noise_and_too_much_light_are_seen(photo: Image.Image, fault: str, remedies: set[str]) -> None:
    broken = OPERATIONS[fault].operator(photo, 1.5, random.Random(0))
    asked = [PixelInstructor(["quality"]).instruct(broken, seed).category for seed in range(60)]
    assert sum(a in remedies for a in asked) > 20


def test_the_analysis_speaks_of_what_is_asked_for(photo: Image.Image) -> None:
    instructions = [PixelInstructor().instruct(photo, seed) for seed in range(60)]
    assert len({i.analysis for i in instructions}) > 3
    assert all(i.analysis == "The framing is loose." for i in instructions if i.category == "crop")


def test_content_alone_can_be_asked_for(photo: Image.Image) -> None:
    assert {PixelInstructor(["content"]).instruct(photo, seed).orientation for seed in range(20)} == {"content"}
    assert {PixelInstructor(["quality"]).instruct(photo, seed).orientation for seed in range(20)} == {"quality"}


def test_two_of_seven_diverse_edits_change_the_content(photo: Image.Image) -> None:
    drawn = [i for seed in range(60) for i in PixelInstructor().diversify(photo, 7, seed)]
    assert 0.2 < sum(i.orientation == "content" for i in drawn) / len(drawn) < 0.36
    improving = sum(OPERATIONS[i.category].improving for i in drawn) / len(drawn)
    assert 0.3 < improving < 0.7


def test_more_diverse_edits_than_there_are_kinds_differ_in_strength(photo: Image.Image) -> None:
    chosen = PixelInstructor(["content"]).diversify(photo, 20, seed=0)
    assert len({i.text for i in chosen}) == 20


def test_a_kind_of_edit_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'quality'"):
        PixelInstructor(["qualty"])
    with pytest.raises(UserError, match="at least one"):
        PixelInstructor([])


def test_what_is_not_wrong_is_not_mended() -> None:
    bright = SkimagePhotos(["camera"]).open("camera").resize((112, 112), Image.Resampling.LANCZOS)
    asked = {PixelInstructor(["quality"]).instruct(bright, seed).category for seed in range(60)}
    assert not asked & {"brighten", "lift_shadows", "denoise", "balance_white"}
