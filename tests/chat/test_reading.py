"""Answers are found in whatever a model wraps them in, and nothing is ever made up."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redaes.calls import UnusableAnswer
from redaes.chat.answers import CompareAnswer, DiversifyAnswer, ScoreAnswer, VerifyAnswer
from redaes.chat.reading import LONGEST_TEXT, Unreadable, clean, read_answer

GOOD = {"reference": "bcdfgh", "reasoning": "Soft light.", "score": 7.5}


def read(text, form=ScoreAnswer):
    return read_answer(text, form, "bcdfgh")


def with_score(value):
    """The JSON of an answer with this score, spelt as given."""
    return json.dumps(GOOD | {"score": "HERE"}).replace('"HERE"', value)


plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}"), max_size=60)
words = plain_text.filter(lambda text: text.strip())


@given(before=plain_text, after=plain_text, score=st.floats(0, 10), reasoning=words, indent=st.none() | st.just(2))
def test_an_answer_is_read_from_prose_and_fences(before, after, score, reasoning, indent):
    body = json.dumps(GOOD | {"score": score, "reasoning": reasoning}, indent=indent)
    answer = read(f"{before}\n```json\n{body}\n```\n{after}")
    assert (answer.score, answer.reasoning) == (score, reasoning.strip())


@given(st.text())
@example('{"reference": "bcdfgh", "reasoning": "x", "score": ' + "9" * 5000 + "}")
@example("{" * 100_000)
@example("{" + '"a":[' * 50_000 + "}")
def test_no_text_brings_the_reader_down(text):
    with pytest.raises(UnusableAnswer):
        read(text)


@given(st.floats(0, 10).map(lambda x: round(x, 2)))
def test_a_number_may_be_written_as_text(score):
    assert read(with_score(f'" {score} "')).score == score


@pytest.mark.parametrize(
    "score",
    [
        *(
            "NaN",
            "Infinity",
            "-Infinity",
            '"NaN"',
            '"inf"',
            "-0.1",
            "10.01",
            '"42"',
            "1e400",
            "9" * 400,
            "null",
            "true",
        ),
        *("[7]", "{}", '"7 or 8"', '"7/10"', '"7,5"', '"seven"', '""', '"٧"', "7 8"),
    ],
)
def test_what_is_not_one_number_in_range_is_no_score(score):
    with pytest.raises(Unreadable):
        read(with_score(score))


@given(st.floats().filter(lambda x: not 0 <= x <= 10))
def test_no_number_out_of_range_gets_through(score):
    with pytest.raises(Unreadable):
        read(with_score(json.dumps(score)))


@given(st.integers(1, len(json.dumps(GOOD)) - 1))
def test_half_an_answer_is_no_answer(length):
    with pytest.raises(Unreadable):
        read(json.dumps(GOOD)[:length])


@pytest.mark.parametrize("key", GOOD)
def test_every_key_must_be_there_once(key):
    with pytest.raises(Unreadable):
        read(json.dumps({k: v for k, v in GOOD.items() if k != key}))
    doubled = json.dumps(GOOD)[:-1] + f', "{key}": {json.dumps(GOOD[key])}}}'
    with pytest.raises(Unreadable):
        read(doubled)


def test_two_answers_are_none():
    with pytest.raises(Unreadable):
        read(f"{json.dumps(GOOD)} or rather {json.dumps(GOOD | {'score': 3})}")


def test_an_object_inside_half_of_another_is_not_taken_for_the_answer():
    with pytest.raises(Unreadable):
        read(f'{{"draft": {json.dumps(GOOD)}, "final": {{"score": 2')


def test_thoughts_before_the_answer_do_not_count():
    assert read(f"<think>Perhaps {{score: 3}}?</think>{json.dumps(GOOD)}").score == 7.5


def test_an_answer_to_another_question_is_noticed():
    with pytest.raises(UnusableAnswer, match="another question") as caught:
        read(json.dumps(GOOD | {"reference": "zzzzzz"}))
    assert not isinstance(caught.value, Unreadable)  # telling the model so would not help
    assert read(json.dumps(GOOD | {"reference": " BCDFGH "})).score == 7.5


def test_text_is_bounded_and_can_be_stored():
    with pytest.raises(Unreadable, match="longer"):
        read(json.dumps(GOOD | {"reasoning": "x" * (LONGEST_TEXT + 1)}))
    with pytest.raises(Unreadable, match="empty"):
        read(json.dumps(GOOD | {"reasoning": "  "}))
    broken = read('{"reference": "bcdfgh", "reasoning": "half \\ud83d of a pair", "score": 1}').reasoning
    assert broken.encode() == b"half ? of a pair"


@given(st.text(st.characters()))
def test_cleaned_text_is_utf_8_and_the_rest_is_kept(text):
    cleaned = clean(text)
    assert len(cleaned.encode()) and clean(cleaned) == cleaned if text else cleaned == ""
    assert cleaned == "".join("?" if "\ud800" <= c <= "\udfff" else c for c in text)


@pytest.mark.parametrize(
    ("better", "difference", "is_read"),
    [
        ("B", 2.5, True),
        ("version a", -1, True),
        ("Neither", 0, True),
        ("B", -2.5, False),
        ("A", 1, False),
        ("B", 0, False),
        ("neither", 1, False),
        ("C", 1, False),
        ("B", "−3", False),
        ("A", "−3", True),
    ],
)
def test_a_difference_and_the_better_version_must_agree(better, difference, is_read):
    text = json.dumps({"reference": "bcdfgh", "reasoning": "x", "better": better, "difference": difference})
    if is_read:
        assert read(text, CompareAnswer).difference == float(str(difference).replace("−", "-"))
    else:
        with pytest.raises(Unreadable):
            read(text, CompareAnswer)


@pytest.mark.parametrize("form", [ScoreAnswer, CompareAnswer, VerifyAnswer, DiversifyAnswer])
def test_forms_can_be_asked_for_strictly(form):
    """Strict JSON schemas need every key required and no other allowed, in every object."""
    schema = form.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part["additionalProperties"] is False
        assert set(part["required"]) == set(part["properties"])


def test_a_refusal_to_read_quotes_no_model():
    with pytest.raises(Unreadable) as caught:
        read(json.dumps(GOOD | {"score": "<script>secret</script>"}))
    assert "secret" not in str(caught.value)
