import random

import pytest
from PIL import Image

from redaes.editors.operations import OPERATIONS
from redaes.records import Instruction
from redaes.sources.skimage_photos import SkimagePhotos
from redaes.verifiers import Verifier
from redaes.verifiers.pixel import FidelityVerifier, SuccessVerifier

VERIFIERS = [SuccessVerifier(), FidelityVerifier()]


@pytest.fixture(scope="module")
def photo():
    return SkimagePhotos(["chelsea"]).open("chelsea").resize((112, 112), Image.Resampling.LANCZOS)


def asked(category):
    operation = OPERATIONS[category]
    return Instruction(text=operation.request.format("clearly"), category=category, orientation=operation.orientation)


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda v: v.name)
def test_an_edit_that_was_made_passes_and_one_that_was_not_fails(verifier, photo):
    assert isinstance(verifier, Verifier)
    made = OPERATIONS["brighten"].operator(photo, 1.0, random.Random(0))
    assert verifier.verify(photo, made, asked("brighten")).value >= 7.5
    undone = verifier.verify(photo, photo.copy(), asked("brighten"))
    assert undone.success == 0
    assert undone.value == 0


def test_the_wrong_direction_is_no_success(photo):
    darkened = OPERATIONS["darken"].operator(photo, 1.0, random.Random(0))
    assert VERIFIERS[0].verify(photo, darkened, asked("brighten")).success == 0


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda v: v.name)
def test_another_picture_is_over_edited(verifier, photo):
    other = SkimagePhotos(["rocket"]).open("rocket").resize((112, 112))
    assert verifier.verify(photo, other, asked("brighten")).value < 7.5
