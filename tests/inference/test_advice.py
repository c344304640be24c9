"""Advice is ordered by what the model expects; the loop keeps an edit only if the model finds it better."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from redaes.calls import Declined
from redaes.editors.operations import OPERATIONS, STRENGTHS, request
from redaes.editors.procedural import PlainEditor
from redaes.errors import UserError
from redaes.inference import Difference
from redaes.inference.advice import Proposer, advise, improve, propose_all, propose_by
from redaes.inference.strip import strip
from redaes.instructors.pixel import PixelInstructor
from redaes.judges.pixel import ToneJudge
from redaes.records import Instruction


class ToneScorer:
    """Compares by a judge that measures pixels; expects of every edit what it is told to."""

    def __init__(self, expected: dict[str, float | None]) -> None:
        self.expected = expected
        self.compared = 0

    def predict_edits(self, questions: Sequence[tuple[Image.Image, str]]) -> list[Difference]:
        return [Difference(self.expected.get(text), "", text) for _, text in questions]

    def compare_pairs(self, pairs: Sequence[tuple[Image.Image, Image.Image]]) -> list[Difference]:
        self.compared += len(pairs)
        verdicts = [ToneJudge().compare(a, b) for a, b in pairs]
        return [Difference(verdict.value, verdict.reasoning, "") for verdict in verdicts]


@pytest.fixture(scope="module")
def dark() -> Image.Image:
    values = np.linspace(0, 70, 96 * 64 * 3).reshape(64, 96, 3)
    return Image.fromarray(values.astype(np.uint8))


BRIGHTER, DARKER, FLATTER = request("brighten"), request("darken"), request("flatten_contrast")


def proposing(*instructions: Instruction) -> Proposer:
    return lambda image, seed: list(instructions)


def test_advice_is_best_first_and_what_has_no_prediction_is_last(dark: Image.Image) -> None:
    scorer = ToneScorer({BRIGHTER.text: 1.5, DARKER.text: None, FLATTER.text: 2.0})
    advice = advise(dark, scorer, [DARKER, BRIGHTER, FLATTER])
    assert [one.instruction for one in advice] == [FLATTER, BRIGHTER, DARKER]
    assert advice[-1].predicted.value is None


def test_of_several_strengths_only_the_most_promising_is_advised(dark: Image.Image) -> None:
    strengths = [request("brighten", strength) for strength in STRENGTHS]
    scorer = ToneScorer({one.text: value for one, value in zip(strengths, (0.5, 1.0, 0.2), strict=True)})
    assert [one.instruction.text for one in advise(dark, scorer, strengths)] == ["Brighten the photograph clearly."]


def test_the_category_set_holds_every_improving_operation_in_every_strength(dark: Image.Image) -> None:
    proposed = propose_all(dark, 0)
    improving = [name for name, operation in OPERATIONS.items() if operation.improving]
    assert {one.category for one in proposed} == set(improving)
    assert len({one.text for one in proposed}) == len(improving) * len(STRENGTHS)


def test_an_instructor_proposes_its_targeted_edit_first_and_none_twice(dark: Image.Image) -> None:
    instructor = PixelInstructor(orientations=["quality"])
    proposed = propose_by(instructor, 30)(dark, 7)
    assert proposed[0].text == instructor.instruct(dark, 7).text
    assert len({one.text for one in proposed}) == len(proposed) <= 30
    assert len(propose_by(instructor, 1)(dark, 7)) == 1


def test_an_edit_that_disappoints_is_not_kept_and_the_next_is_tried(dark: Image.Image) -> None:
    scorer = ToneScorer({DARKER.text: 3.0, BRIGHTER.text: 1.0})
    attempts = list(improve(dark, scorer, PlainEditor(), proposing(BRIGHTER, DARKER), rounds=1))
    assert [(one.advice.instruction, one.kept) for one in attempts] == [(DARKER, False), (BRIGHTER, True)]
    assert attempts[1].verified is not None
    assert attempts[1].verified.value == ToneJudge().compare(dark, attempts[1].edited).value > 0


def test_a_round_begins_with_what_the_last_one_kept_and_the_loop_ends_when_nothing_is(dark: Image.Image) -> None:
    scorer = ToneScorer({BRIGHTER.text: 1.0})
    attempts = list(improve(dark, scorer, PlainEditor(), proposing(BRIGHTER), rounds=50))
    assert len(attempts) < 50
    assert [one.kept for one in attempts] == [True] * (len(attempts) - 1) + [False]
    before = dark
    for one in attempts:
        assert one.edited is not None
        assert one.edited.tobytes() == PlainEditor().edit(before, BRIGHTER, one.round).tobytes()
        before = one.edited


def test_advice_that_is_known_is_not_asked_for_again(dark: Image.Image) -> None:
    scorer = ToneScorer({BRIGHTER.text: 1.0})
    asked: list[int] = []

    def propose(image: Image.Image, seed: int) -> list[Instruction]:
        asked.append(seed)
        return [BRIGHTER]

    known = advise(dark, scorer, [BRIGHTER])
    attempts = list(improve(dark, scorer, PlainEditor(), propose, known=known, rounds=2))
    assert attempts[0].advice is known[0]
    assert asked == [2], "only the second round asks"


def test_an_edit_must_gain_more_than_asked(dark: Image.Image) -> None:
    scorer = ToneScorer({BRIGHTER.text: 1.0})
    gain = ToneJudge().compare(dark, PlainEditor().edit(dark, BRIGHTER, 1)).value
    attempts = list(improve(dark, scorer, PlainEditor(), proposing(BRIGHTER), rounds=1, min_gain=gain))
    assert [one.kept for one in attempts] == [False]


def test_what_is_expected_to_harm_is_never_made(dark: Image.Image) -> None:
    scorer = ToneScorer({BRIGHTER.text: -0.5, DARKER.text: None})
    assert list(improve(dark, scorer, PlainEditor(), proposing(BRIGHTER, DARKER))) == []
    assert scorer.compared == 0


class Fussy(PlainEditor):
    """Declines to darken."""

    def edit(self, image: Image.Image, instruction: Instruction, seed: int) -> Image.Image:
        if instruction.category == "darken":
            raise Declined("the service will not\ndarken")
        return super().edit(image, instruction, seed)


def test_an_edit_that_cannot_be_made_is_told_and_the_next_is_tried(dark: Image.Image) -> None:
    scorer = ToneScorer({DARKER.text: 3.0, BRIGHTER.text: 1.0})
    first, second = improve(dark, scorer, Fussy(), proposing(BRIGHTER, DARKER), rounds=1)
    assert (first.error, first.kept, first.verified) == ("the service will not darken", False, None)
    assert second.kept


def test_an_editor_that_makes_nothing_at_all_is_an_error(dark: Image.Image) -> None:
    scorer = ToneScorer({DARKER.text: 3.0})
    with pytest.raises(UserError, match="made none of the edits: the service will not"):
        list(improve(dark, scorer, Fussy(), proposing(DARKER)))


def test_a_strip_shows_every_picture_at_one_height_with_its_words() -> None:
    pictures = [(Image.new("RGB", (300, 200), "red"), "before"), (Image.new("RGB", (100, 400), "blue"), "after " * 50)]
    sheet = strip(pictures, height=100)
    assert sheet.size == (150 + 25 + 3 * 16, 100 + 2 * 16 + 34)
    assert sheet.getpixel((20, 20)) == (255, 0, 0)
    assert sheet.getpixel((16 + 150 + 16 + 5, 20)) == (0, 0, 255)
    words = np.asarray(sheet.crop((16, 116, 166, 150)).convert("L"))
    assert words.min() < 100
    beside = np.asarray(sheet.crop((16 + 150 + 16 + 25, 116, sheet.width, 150)).convert("L"))
    assert beside.min() > 200
