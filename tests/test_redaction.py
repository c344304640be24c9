"""Keys are blotted out of any text, and nothing else is."""

import json
from urllib.parse import quote

import pytest

from redaes.redaction import BLOT, keep_secret, redact


@pytest.mark.parametrize("key", ["s3cret-key", 'with "quotes" and \\ and /', "späte?ücke&x=1"])
def test_the_value_of_a_named_variable_is_blotted_out_however_it_is_written(monkeypatch, key):
    monkeypatch.setenv("SOME_KEY", key)
    keep_secret("SOME_KEY")
    forms = (
        key,
        json.dumps(key),
        json.dumps(json.dumps(key)),
        f"https://x.example/?k={quote(key, safe='')}",
        quote(key),
    )
    for form in forms:
        assert BLOT in redact(f"before {form} after")
        assert key not in redact(form)
        assert redact(f"before {form} after").startswith("before")


def test_white_space_around_a_key_is_no_part_of_it(monkeypatch):
    monkeypatch.setenv("SOME_KEY", " a-planted-key\n")
    keep_secret("SOME_KEY")
    assert redact("it is a-planted-key.") == f"it is {BLOT}."


@pytest.mark.parametrize("value", ["", "1", "true"])
def test_a_value_too_short_for_a_key_is_none(monkeypatch, value):
    monkeypatch.setenv("SOME_FLAG", value)
    keep_secret("SOME_FLAG")
    assert redact("1 is true") == "1 is true"


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-Ab1Cd2Ef3Gh4Ij5Kl6",
        "sk-ant-api03-Ab1Cd2Ef3Gh4Ij5Kl6",
        "AIzaSyA1234567890abcdefghij",
        "hf_abcdefghijklmnopqrst",
        "gsk_abcdefghijklmnopqrst",
        "Authorization: Bearer q7Zk39dd0a",
        "{'Authorization': 'Basic dXNlcjpwYXNzMTIz'}",
        '{"x-api-key": "0123456789abcdef"}',
        "x-goog-api-key=0123456789abcdef",
        "https://host.example/v1/models?key=0123456789abcdef",
        "access_token: 0123456789abcdef",
    ],
)
def test_what_looks_or_stands_like_a_key_is_blotted_out(text):
    for shown in (redact(text), redact(f"error: {text}")):
        assert BLOT in shown
        assert not any(part in shown for part in ("Ab1Cd2", "0123456789", "1234567890", "q7Zk39", "dXNlc", "ghijklm"))


@pytest.mark.parametrize(
    "text",
    [
        "The key of the picture is a high key; its secret: light. A basic photograph, token: none.",
        '{"value": 7.25, "reasoning": "Bearers of basic ideas at f/2.8, 1/250s, authorization not needed"}',
        "ask-a-photographer-about-composition-and-light",
    ],
)
def test_a_judges_words_are_left_alone(text):
    assert redact(text) == text
