import random

import numpy as np
import pytest
from PIL import Image

from redaes.editors import Editor
from redaes.editors.operations import OPERATIONS, strength_of
from redaes.errors import UserError
from redaes.judges import measures as m
from redaes.judges.measures import Pixels
from redaes.records import Instruction
from redaes.registry import create, find
from redaes.sources.skimage_photos import SkimagePhotos
from redaes.verifiers.pixel import EXPECTED

EDITORS = [name for name in find("editors") if name.startswith("procedural/")]


@pytest.fixture(scope="module")
def photo():
    return SkimagePhotos(["astronaut"]).open("astronaut").resize((112, 112), Image.Resampling.LANCZOS)


def instruction(category, strength="clearly"):
    operation = OPERATIONS[category]
    return Instruction(text=operation.request.format(strength), category=category, orientation=operation.orientation)


def test_there_are_five_families_each_with_improving_or_harming_and_tagged_operations():
    assert len(EDITORS) == 5
    assert {op.family for op in OPERATIONS.values()} == {"tone", "colour", "detail", "geometry", "content"}
    for orientation in ("quality", "content"):
        assert {op.improving for op in OPERATIONS.values() if op.orientation == orientation} == {True, False}


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("category", OPERATIONS)
def test_every_editor_attempts_every_instruction_deterministically(name, category, photo):
    editor = create("editors", name)
    assert isinstance(editor, Editor)
    edited = editor.edit(photo, instruction(category), seed=3)
    assert edited.size == photo.size
    assert edited.mode == "RGB"
    assert edited.tobytes() == editor.edit(photo.copy(), instruction(category), seed=3).tobytes()


@pytest.mark.parametrize("category", EXPECTED)
def test_an_operation_moves_the_statistic_it_is_about_and_a_strong_one_more(category, photo):
    source = photo
    if category == "denoise":
        source = OPERATIONS["add_noise"].operator(photo, 1.0, random.Random(0))
    if category == "balance_white":
        source = OPERATIONS["warm"].operator(photo, 3.0, random.Random(0))
    measure, amount = EXPECTED[category]
    operator = OPERATIONS[category].operator
    before = measure(Pixels.of(source))
    slight, strong = (
        (measure(Pixels.of(operator(source, strength, random.Random(0)))) - before) / amount for strength in (0.6, 1.5)
    )
    assert slight > 0
    assert strong > slight


def test_removing_an_object_touches_a_small_region_only(photo):
    edited = OPERATIONS["remove_object"].operator(photo, 1.0, random.Random(0))
    changed = np.any(np.asarray(edited) != np.asarray(photo), axis=-1)
    assert 0 < changed.mean() < 0.03


def test_an_editor_outside_its_family_is_less_sure(photo):
    """Its strength varies more from seed to seed than that of the editor whose family it is."""

    def spread(name):
        editor = create("editors", name)
        values = [m.brightness(Pixels.of(editor.edit(photo, instruction("brighten"), seed))) for seed in range(20)]
        return np.std(values)

    assert spread("procedural/geometry") > 2 * spread("procedural/tone")


def test_an_unknown_category_is_named_with_the_nearest(photo):
    strange = Instruction(text="Brightn it.", category="brightn", orientation="quality")
    with pytest.raises(UserError, match="did you mean 'brighten'"):
        create("editors", "procedural/tone").edit(photo, strange, 0)


@pytest.mark.parametrize(
    ("text", "strength"), [("Blur it slightly.", 0.6), ("Strongly blur it", 1.5), ("Blur it", 1.0)]
)
def test_the_strength_is_read_from_the_words(text, strength):
    assert strength_of(text) == strength
