"""Instructors on chat models ask for edits of the predefined categories, and tag them themselves."""

import pytest
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Vendors
from PIL import Image

from redaes.calls import UnusableAnswer, collecting
from redaes.errors import UserError
from redaes.instructors import Instructor
from redaes.instructors.categories import CATEGORIES
from redaes.instructors.chat import OpenAICompatibleInstructor


@pytest.fixture
def vendors():
    return Vendors()


@pytest.fixture
def make(vendors):
    with running(vendors) as address:
        yield lambda **settings: OpenAICompatibleInstructor(
            model="m", base_url=f"{address}/v1", key_variable="", **settings
        )


@pytest.fixture
def photo():
    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def test_one_targeted_edit_with_its_reason(make, photo):
    instructor = make()
    assert isinstance(instructor, Instructor)
    instruction = instructor.instruct(photo, 0)
    assert instruction.orientation == CATEGORIES[instruction.category].orientation
    assert instruction.text.startswith("Work")
    assert instruction.analysis


def test_diverse_edits_are_of_different_categories_that_the_seed_draws(make, photo):
    instructor = make()
    seven = instructor.diversify(photo, 7, seed=1)
    assert len({edit.category for edit in seven}) == 7
    assert seven == instructor.diversify(photo, 7, seed=1)
    assert {edit.category for edit in seven} != {edit.category for edit in instructor.diversify(photo, 7, seed=2)}
    assert all(edit.orientation == CATEGORIES[edit.category].orientation for edit in seven)


def test_every_category_comes_before_any_comes_again(make, photo):
    many = [edit.category for edit in make().diversify(photo, len(CATEGORIES) + 3, seed=0)]
    assert set(many[: len(CATEGORIES)]) == set(CATEGORIES)


@pytest.mark.parametrize("orientation", ["quality", "content"])
def test_one_orientation_alone(make, photo, orientation):
    instructor = make(orientations=[orientation])
    edits = [instructor.instruct(photo, 0), *instructor.diversify(photo, 5, seed=0)]
    assert {edit.orientation for edit in edits} == {orientation}
    assert instructor.identity("instruct") != make().identity("instruct")


def test_categories_of_your_own(make, photo):
    edits = make(categories={"Sepia": "content", "brighten": "quality"}).diversify(photo, 2, seed=0)
    assert {(edit.category, edit.orientation) for edit in edits} == {("Sepia", "content"), ("brighten", "quality")}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"orientations": ["qualty"]}, "did you mean 'quality'"),
        ({"orientations": []}, "no category"),
        ({"categories": {"sepia": "brown"}}, "unknown orientation 'brown'"),
        ({"categories": {"sepia": "content"}, "orientations": ["quality"]}, "no category"),
    ],
)
def test_nothing_to_ask_for_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        OpenAICompatibleInstructor(model="m", **settings)


def test_a_category_there_is_not_is_repaired_then_refused(make, vendors, photo):
    """An answer of the right form whose category another list had."""
    stray = {"analysis": "x", "score": 5, "category": "sepia", "instruction": "Do it."}
    vendors.answers["instruct"] = stray
    with collecting() as receipt, pytest.raises(UnusableAnswer, match="category"):
        make().instruct(photo, 0)
    assert len(receipt.replies) == 2
    vendors.answers["instruct"] = stray | {"category": "- Exposure (quality)", "instruction": "Line\n one.  "}
    instruction = make().instruct(photo, 0)
    assert (instruction.category, instruction.text) == ("exposure", "Line one.")
    vendors.answers["instruct"] = stray | {"category": "noise", "instruction": "word " * 200}
    with pytest.raises(UnusableAnswer, match="longer"):
        make().instruct(photo, 0)


def test_fewer_edits_than_asked_for_are_none(make, vendors, photo):
    vendors.answers["diversify"] = {"edits": [{"category": "noise", "instruction": "Remove it."}]}
    with pytest.raises(UnusableAnswer, match="one for each"):
        make().diversify(photo, 2, seed=0)
