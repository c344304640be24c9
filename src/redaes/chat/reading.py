"""From a model's words to a checked answer: tolerant of how it is wrapped, never guessing what it says.

Fences, prose around the object, thoughts in front of it and a number written as text are put up with. A number out of
range, NaN, a missing or doubled key, two objects, or half of one are no answer.
"""

import json
import math
import re
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from redaes.calls import UnusableAnswer
from redaes.prompts import DELTA_RANGE, SCORE_RANGE

LONGEST_TEXT = 4000
"""Characters of one text in an answer; more is not what was asked for."""

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)", re.ASCII)
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


class Unreadable(UnusableAnswer):
    """The words hold no answer of the form that was asked for; saying so may help. The message quotes no model."""


def _number(value: object) -> float:
    if isinstance(value, str):
        text = value.strip().replace("\N{MINUS SIGN}", "-")
        if not _NUMBER.fullmatch(text):
            raise ValueError("is not one number")
        return float(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a number")
    if isinstance(value, int) and abs(value) > 10**6:  # float() of a long one fails
        raise ValueError("is out of range")
    return float(value)


def _within(low: float, high: float) -> AfterValidator:
    def check(value: float) -> float:
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"is not between {low:g} and {high:g}")
        return value + 0.0

    return AfterValidator(check)


def _text(value: str) -> str:
    text = clean(value).strip()
    if not text:
        raise ValueError("is empty")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"is longer than {LONGEST_TEXT} characters")
    return text


ScoreNumber = Annotated[float, BeforeValidator(_number), _within(*SCORE_RANGE)]
DeltaNumber = Annotated[float, BeforeValidator(_number), _within(*DELTA_RANGE)]
Text = Annotated[str, AfterValidator(_text)]


class Answer(BaseModel):
    """Base of all answers. Back-ends that keep a model to the form refuse other keys; reading ignores them."""

    model_config = ConfigDict(frozen=True, extra="ignore", json_schema_extra={"additionalProperties": False})

    reference: str


A = TypeVar("A", bound=Answer)


def clean(text: str) -> str:
    """The text without what UTF-8 cannot hold: JSON may spell half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_answer(text: str, form: type[A], reference: str) -> A:
    """The answer in a model's words.

    Args:
        text: what the model said.
        form: of the answer.
        reference: that the question carried.

    Raises:
        Unreadable: there is no answer of this form in the text.
        UnusableAnswer: there is one, to another question.

    Example:
        >>> class Plain(Answer):
        ...     score: ScoreNumber
        >>> read_answer('Here it is: {"reference": "bcd", "score": "7.5"}', Plain, "bcd").score
        7.5
    """
    try:
        answer = form.model_validate(_object(text))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the object"
        raise Unreadable(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from None
    if answer.reference.strip().casefold() != reference.casefold():
        raise UnusableAnswer(f"the answer is to another question: it does not repeat the reference {reference}")
    return answer


def _object(text: str) -> dict[str, Any]:
    """The one JSON object in a text: all from the first brace to the last."""
    said = _THOUGHTS.sub("", text)
    start, end = said.find("{"), said.rfind("}")
    if start < 0 or end < start:
        raise Unreadable("it has no JSON object")
    try:
        found = json.loads(
            said[start : end + 1], strict=False, object_pairs_hook=_without_doubles, parse_constant=_not_a_number
        )
    except (ValueError, RecursionError):
        raise Unreadable("it is not one whole JSON object with each key once and with finite numbers") from None
    return dict(found)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
