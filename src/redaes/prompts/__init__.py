"""Prompts as versioned template files, and pure functions that read the answers.

The paper's own templates were lost in the text we have; these are ours. Every stage and the inference use the same
three questions: `compare` (PT-O1), `predict_edit` (PT-O2), `score` (stages 2 and 3, and inference).
"""

import math
import re
from functools import cache
from importlib import resources
from typing import Literal

Question = Literal["compare", "predict_edit", "score"]
PROMPT_VERSION = 1
SCORE_RANGE = (0.0, 10.0)
DELTA_RANGE = (-10.0, 10.0)

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*", re.ASCII)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)


@cache
def _template(question: Question) -> str:
    return (
        resources.files(__package__).joinpath(f"templates/{question}.v{PROMPT_VERSION}.txt").read_text("utf-8").strip()
    )


def render(question: Question, instruction: str = "") -> str:
    """The user's turn for one question; images are put before it by the chat template.

    Args:
        question: which of the three questions.
        instruction: the edit instruction, for `predict_edit` only. Inserted as data: braces in it mean nothing.
    """
    return _template(question).replace("{{instruction}}", instruction)


def format_answer(value: float, reasoning: str | None = None) -> str:
    """The answer a model is taught to give, `<think>reasoning</think><answer>6.4</answer>`.

    Args:
        value: written with one decimal.
        reasoning: left out of the answer if None (PT-O2).

    Example:
        >>> format_answer(6.43, "Crisp detail.")
        '<think>Crisp detail.</think><answer>6.4</answer>'
        >>> format_answer(-0.04)
        '<answer>0.0</answer>'
    """
    number = f"{round(value, 1) + 0.0:.1f}"
    thought = "" if reasoning is None else f"<think>{reasoning}</think>"
    return f"{thought}<answer>{number}</answer>"


def parse_answer(text: str, value_range: tuple[float, float] = SCORE_RANGE) -> float | None:
    """The number in the last answer tag, or None.

    Anything but exactly one finite number inside `value_range` is a parse failure (None), never a made-up score.

    Example:
        >>> parse_answer("<think>7 or 8?</think><answer> 6.4 </answer>")
        6.4
        >>> parse_answer("<answer>6 or 7</answer>") is None
        True
    """
    answers = _ANSWER.findall(text)
    match = _NUMBER.fullmatch(answers[-1]) if answers else None
    if match is None:
        return None
    value = float(match.group(1))
    low, high = value_range
    return value if math.isfinite(value) and low <= value <= high else None


def parse_reasoning(text: str) -> str:
    """What stands in the first think tag, or the empty string."""
    match = _THINK.search(text)
    return match.group(1).strip() if match else ""
