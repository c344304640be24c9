"""The verifiers ask whether an edit was done, and whether nothing else was touched."""

import random
from statistics import mean

import pytest
from PIL import Image

from redaes.editors.operations import OPERATIONS
from redaes.errors import UserError
from redaes.instructors.pixel import PixelInstructor
from redaes.records import Instruction
from redaes.registry import create, find
from redaes.sources.skimage_photos import SkimagePhotos
from redaes.verifiers import Verifier
from redaes.verifiers.pixel import EFFECTS, FidelityVerifier, PixelVerifier, SuccessVerifier

VERIFIERS = [SuccessVerifier(), FidelityVerifier()]
PASSES = 7.5

each_verifier = pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda v: v.name)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return SkimagePhotos(["chelsea"]).open("chelsea").resize((112, 112), Image.Resampling.LANCZOS)


def asked(category: str, strength: str = "clearly") -> Instruction:
    operation = OPERATIONS[category]
    return Instruction(text=operation.request.format(strength), category=category, orientation=operation.orientation)


def applied(category: str, image: Image.Image, strength: float = 1.0) -> Image.Image:
    return OPERATIONS[category].operator(image, strength, random.Random(0))


@each_verifier
def test_an_edit_that_was_made_passes_and_one_that_was_not_fails(verifier: PixelVerifier, photo: Image.Image) -> None:
    assert isinstance(verifier, Verifier)
    made = verifier.verify(photo, applied("brighten", photo), asked("brighten"))
    assert made.value >= PASSES
    assert made.verifier == verifier.name
    undone = verifier.verify(photo, photo.copy(), asked("brighten"))
    assert undone.success == 0
    assert undone.over_editing == 10
    assert undone.value == 0


def test_every_operation_has_its_effect_and_no_other() -> None:
    assert set(EFFECTS) == set(OPERATIONS)


@pytest.mark.parametrize("category", [c for c in OPERATIONS if c not in {"denoise", "straighten"}])
def test_an_edit_done_as_asked_mostly_passes(category: str, photo: Image.Image) -> None:
    edited = applied(category, photo)
    assert mean(v.verify(photo, edited, asked(category)).value for v in VERIFIERS) >= 6.5


@each_verifier
def test_half_an_edit_is_less_successful(verifier: PixelVerifier, photo: Image.Image) -> None:
    successes = [
        verifier.verify(photo, applied("saturate", photo, s), asked("saturate")).success for s in (0.1, 0.4, 1)
    ]
    assert successes == sorted(successes)
    assert successes[0] < successes[-1]


def test_a_strong_instruction_wants_a_strong_edit(photo: Image.Image) -> None:
    edited = applied("brighten", photo, 0.6)
    slight, strong = (
        VERIFIERS[0].verify(photo, edited, asked("brighten", w)).success for w in ("slightly", "strongly")
    )
    assert slight > PASSES > strong


def test_the_wrong_direction_is_no_success(photo: Image.Image) -> None:
    assert VERIFIERS[0].verify(photo, applied("darken", photo), asked("brighten")).success == 0


def test_structure_lost_is_over_editing(photo: Image.Image) -> None:
    spoilt = applied("blur", applied("brighten", photo), 4.0)
    assert VERIFIERS[0].verify(photo, spoilt, asked("brighten")).over_editing < PASSES


def test_what_was_not_asked_for_must_stay_still(photo: Image.Image) -> None:
    sharpened = applied("sharpen", photo)
    clean = VERIFIERS[1].verify(photo, sharpened, asked("sharpen"))
    tinted = VERIFIERS[1].verify(photo, applied("warm", sharpened, 1.5), asked("sharpen"))
    assert clean.over_editing > PASSES > tinted.over_editing


@each_verifier
def test_another_picture_is_over_edited(verifier: PixelVerifier, photo: Image.Image) -> None:
    other = SkimagePhotos(["rocket"]).open("rocket").resize((112, 112))
    assert verifier.verify(photo, other, asked("brighten")).value < PASSES


@each_verifier
def test_what_cannot_be_verified_is_said(verifier: PixelVerifier, photo: Image.Image) -> None:
    strange = Instruction(text="Brightn it.", category="brightn", orientation="quality")
    with pytest.raises(UserError, match="did you mean 'brighten'"):
        verifier.verify(photo, photo, strange)
    with pytest.raises(UserError, match="size"):
        verifier.verify(photo, photo.resize((100, 100)), asked("brighten"))


def test_most_edits_pass_and_some_do_not() -> None:
    """As in the paper (Tab. 8: 56 to 72 % by editor), so that verification selects something and leaves something."""
    rng, source, instructor = random.Random(0), SkimagePhotos(), PixelInstructor()
    editors = [create("editors", name) for name in find("editors") if name.startswith("procedural/")]
    passed: dict[str, list[bool]] = {editor.name: [] for editor in editors}
    enough = []
    for seed, photograph in enumerate(source.photographs() * 5):
        image = source.open(photograph.name)
        side = round(min(image.size) * rng.uniform(0.35, 0.9))
        left, top = rng.randint(0, image.width - side), rng.randint(0, image.height - side)
        crop = image.resize((112, 112), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
        instruction = instructor.instruct(crop, seed)
        found = 0
        for editor in editors:
            edited = editor.edit(crop, instruction, seed)
            ok = mean(v.verify(crop, edited, instruction).value for v in VERIFIERS) >= PASSES
            passed[editor.name].append(ok)
            found += ok
        enough.append(found >= 4)
    assert all(0.45 < mean(values) < 0.85 for values in passed.values()), {k: mean(v) for k, v in passed.items()}
    assert 0.3 < mean(enough) < 0.7
