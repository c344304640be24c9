"""The pixel judges measure what they say, agree on what is plain, and do not know which edit was made."""

import random

import pytest
from PIL import Image, ImageEnhance, ImageFilter

from redaes.editors.operations import OPERATIONS
from redaes.judges import Judge
from redaes.judges.pixel import ColourJudge, DetailJudge, ToneJudge
from redaes.sources.skimage_photos import SkimagePhotos

JUDGES = [DetailJudge(), ToneJudge(), ColourJudge()]


@pytest.fixture(scope="module", params=["astronaut", "chelsea", "coffee", "motorcycle", "rocket"])
def photo(request):
    image = SkimagePhotos([request.param]).open(request.param)
    side = min(image.size)
    return image.crop((0, 0, side, side)).resize((112, 112), Image.Resampling.LANCZOS)


def harmed(photo, category, strength):
    return OPERATIONS[category].operator(photo, strength, random.Random(0))


def total(image):
    return sum(judge.score(image).value for judge in JUDGES)


@pytest.mark.parametrize("judge", JUDGES, ids=lambda j: j.name)
def test_a_judge_keeps_its_contract(judge, photo):
    assert isinstance(judge, Judge)
    verdict = judge.score(photo)
    assert verdict.judge == judge.name
    assert 0 <= verdict.value <= 10
    assert verdict.reasoning[0].isupper()
    assert verdict.reasoning.endswith(".")
    assert len(verdict.reasoning.split()) <= 14
    assert judge.score(photo.copy()) == verdict


@pytest.mark.parametrize("judge", JUDGES, ids=lambda j: j.name)
def test_nothing_changed_is_no_difference(judge, photo):
    verdict = judge.compare(photo, photo.copy())
    assert verdict.value == 0
    assert verdict.reasoning == "The two look alike."


@pytest.mark.parametrize("judge", JUDGES, ids=lambda j: j.name)
@pytest.mark.parametrize("category", ["blur", "underexpose", "flatten_contrast", "sepia"])
def test_a_difference_exchanged_changes_its_sign(judge, category, photo):
    edited = harmed(photo, category, 1.0)
    assert judge.compare(edited, photo).value == pytest.approx(-judge.compare(photo, edited).value, abs=0.011)


@pytest.mark.parametrize("category", ["blur", "add_noise", "flatten_contrast", "underexpose"])
def test_more_harm_is_worse(category, photo):
    scores = [total(photo)] + [total(harmed(photo, category, s)) for s in (0.8, 1.6)]
    assert scores[0] > scores[1] > scores[2]


def test_each_speciality_notices_its_own_harm_most(photo):
    detail, tone, colour = JUDGES
    blurred = photo.filter(ImageFilter.GaussianBlur(2.5))
    assert detail.compare(photo, blurred).value < -1
    dark = ImageEnhance.Brightness(photo).enhance(0.3)
    assert tone.compare(photo, dark).value < -1


def test_noise_is_not_taken_for_sharpness(photo):
    noisy = harmed(photo, "add_noise", 1.5)
    verdict = JUDGES[0].compare(photo, noisy)
    assert verdict.value < 0
    assert "noise is stronger" in verdict.reasoning.lower()


def test_dull_colours_are_named_by_the_judge_of_colour():
    photo = SkimagePhotos(["chelsea"]).open("chelsea").resize((112, 112))
    grey = ImageEnhance.Color(photo).enhance(0.0)
    verdict = JUDGES[2].compare(photo, grey)
    assert verdict.value < 0
    assert "colour is duller" in verdict.reasoning.lower()


def test_the_judges_disagree_sometimes_and_agree_mostly():
    """So that the consensus has work to do, and something to keep."""
    source = SkimagePhotos()
    rng = random.Random(0)
    same, n = 0, 0
    for name in ("astronaut", "chelsea", "rocket", "camera"):
        photo = source.open(name).resize((112, 112))
        for operation in OPERATIONS.values():
            edited = operation.operator(photo, rng.uniform(0.6, 1.4), rng)
            signs = {judge.compare(photo, edited).value > 0 for judge in JUDGES}
            same, n = same + (len(signs) == 1), n + 1
    assert 0.3 < same / n < 0.8


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (640, 427)])
def test_any_size_can_be_judged(size):
    for judge in JUDGES:
        assert 0 <= judge.score(Image.new("RGB", size, (120, 90, 60))).value <= 10
