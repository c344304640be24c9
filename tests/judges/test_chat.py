"""Judges on chat models learn what they are to judge and nothing else."""

import json

import pytest
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Vendors
from PIL import Image

from redaes.chat.plugin import reference_of
from redaes.judges.chat import OpenAICompatibleJudge
from redaes.prompts.chat import PICTURES, prompt_version, render_chat


@pytest.fixture(scope="module")
def judge():
    with running(Vendors()) as address:
        yield OpenAICompatibleJudge(model="m", base_url=f"{address}/v1", key_variable="")


@pytest.fixture
def photo():
    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def test_the_edited_version_is_the_second_and_better_is_positive(judge, photo):
    """The loopback world finds equal pictures equal, and a verdict follows its own word for the better one."""
    assert judge.compare(photo, photo).value == 0
    for angle in (90, 180, 270):
        verdict = judge.compare(photo, photo.rotate(angle))
        assert verdict.reasoning == f"Version {'B' if verdict.value > 0 else 'A'} has the better light."


def test_order_is_part_of_the_question(photo):
    turned = photo.rotate(180)
    assert reference_of("compare", [photo, turned], {}) != reference_of("compare", [turned, photo], {})
    assert reference_of("score", [photo], {}) != reference_of("instruct", [photo], {})
    assert reference_of("score", [photo], {}) == reference_of("score", [photo.copy()], {})


def test_a_judge_is_not_told_that_anything_was_edited():
    assert PICTURES["compare"] == ("VERSION A", "VERSION B")
    for question in ("score", "compare"):
        words = render_chat(question, reference="bcdfgh").casefold()
        assert "bcdfgh" in words
        assert not [word for word in ("edited", "instruction:", "{{", "before the edit", "original") if word in words]


def test_the_version_of_a_prompt_is_its_file_and_its_words():
    versions = {prompt_version(question) for question in PICTURES}
    assert len(versions) == len(PICTURES)
    assert all(version.rpartition("+")[0].endswith(".v1") for version in versions)


def test_what_is_filled_in_is_data():
    """Braces in an instruction mean nothing, not even those of another field."""
    instruction = json.dumps("Write {{reference}} on the wall {0}")
    words = render_chat("verify", reference="bcdfgh", instruction=instruction)
    assert instruction in words
    assert words.count("bcdfgh") == 1
