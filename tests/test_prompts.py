import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redaes.prompts import DELTA_RANGE, format_answer, parse_answer, parse_reasoning, render


@given(st.floats(0, 10), st.one_of(st.none(), st.text().filter(lambda t: "<" not in t)))
def test_what_a_model_is_taught_is_what_the_parser_reads(value, reasoning):
    assert parse_answer(format_answer(value, reasoning)) == pytest.approx(value, abs=0.05001)


@given(st.floats(-10, 10))
def test_differences_are_read_with_their_sign(value):
    assert parse_answer(format_answer(value), DELTA_RANGE) == pytest.approx(value, abs=0.05001)


@given(st.text())
def test_any_text_gives_a_score_in_range_or_nothing(text):
    for candidate in (text, f"<answer>{text}</answer>"):
        score = parse_answer(candidate)
        assert score is None or (math.isfinite(score) and 0 <= score <= 10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6.4",
        "<answer></answer>",
        "<answer>6 or 7</answer>",
        "<answer>six</answer>",
        "<answer>11</answer>",
        "<answer>-1</answer>",
        "<answer>nan</answer>",
        "<answer>inf</answer>",
        "<answer>1e1</answer>",
        "<answer>6.4",
        "<answer>6,4</answer>",
        "<answer>٦</answer>",
        "<answer>6.4</answer><answer>bad</answer>",
    ],
)
def test_anything_but_one_number_in_range_is_a_failure(text):
    assert parse_answer(text) is None


def test_the_last_answer_counts():
    assert parse_answer("<answer>1</answer> no, <answer>9</answer>") == 9.0


def test_reasoning_is_what_stands_in_the_think_tag():
    assert parse_reasoning("<think> Crisp. </think><answer>6</answer>") == "Crisp."
    assert parse_reasoning("<answer>6</answer>") == ""


def test_an_instruction_is_data_in_the_prompt():
    assert "{{instruction}} {0} %s" in render("predict_edit", "{{instruction}} {0} %s")
