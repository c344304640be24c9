"""Verifiers on chat models: VIEScore's sub-scores, and its perceptual quality where it is wanted."""

import math

import pytest
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Vendors
from PIL import Image

from redaes.calls import collecting
from redaes.records import Instruction, Verification
from redaes.verifiers import Verifier
from redaes.verifiers.chat import OpenAICompatibleVerifier

INSTRUCTION = Instruction(text='Warm "the light".', category="white_balance", orientation="quality")


@pytest.fixture(scope="module")
def make():
    with running(Vendors()) as address:
        yield lambda **settings: OpenAICompatibleVerifier(
            model="m", base_url=f"{address}/v1", key_variable="", **settings
        )


@pytest.fixture
def photo():
    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def test_two_sub_scores_and_their_minimum(make, photo):
    verifier = make()
    assert isinstance(verifier, Verifier)
    seen = verifier.verify(photo, photo.rotate(180), INSTRUCTION)
    assert seen.perceptual_quality is None
    assert seen.value == min(seen.success, seen.over_editing)
    assert verifier.verify(photo, photo, INSTRUCTION).success == 0


def test_the_instruction_is_part_of_the_question(make, photo):
    other = INSTRUCTION.model_copy(update={"text": "Cool the light."})
    verifier, edited = make(), photo.rotate(180)
    assert verifier.verify(photo, edited, INSTRUCTION) != verifier.verify(photo, edited, other)


def test_perceptual_quality_is_a_question_of_its_own(make, photo):
    verifier = make(perceptual_quality=True)
    with collecting() as receipt:
        seen = verifier.verify(photo, photo.rotate(180), INSTRUCTION)
    assert len(receipt.replies) == 2
    assert seen.value == math.sqrt(min(seen.success, seen.over_editing) * seen.perceptual_quality)
    assert verifier.identity("verify") != make().identity("verify")
    assert verifier.largest_usage("verify").output_tokens == 2 * make().largest_usage("verify").output_tokens


def test_verifications_stored_without_it_still_open():
    stored = Verification.model_validate_json('{"verifier": "v", "success": 9, "over_editing": 8}')
    assert stored.value == 8
