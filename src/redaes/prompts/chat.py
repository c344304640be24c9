"""Prompts of the chat models that build a dataset: judges, instructors and verifiers.

One versioned template file for each question; the paper's own were lost, so all of them are ours. A changed question is
a new file with the next version. Pictures are named in front of them, so that their order cannot be mistaken.
"""

import hashlib
import re
from functools import cache
from importlib import resources
from typing import Literal

ChatQuestion = Literal["score", "compare", "instruct", "diversify", "verify", "perceptual_quality"]

_FILES: dict[ChatQuestion, str] = {
    "score": "judge_score.v1",
    "compare": "judge_compare.v1",
    "instruct": "instruct.v1",
    "diversify": "diversify.v1",
    "verify": "verify.v1",
    "perceptual_quality": "perceptual_quality.v1",
}

PICTURES: dict[ChatQuestion, tuple[str, ...]] = {
    "score": ("PHOTOGRAPH",),
    "compare": ("VERSION A", "VERSION B"),
    "instruct": ("PHOTOGRAPH",),
    "diversify": ("PHOTOGRAPH",),
    "verify": ("SOURCE", "EDITED"),
    "perceptual_quality": ("IMAGE",),
}
"""What each question calls its pictures, in the order they are shown."""

_FIELD = re.compile(r"\{\{(\w+)\}\}")


@cache
def _template(question: ChatQuestion) -> str:
    return resources.files(__package__).joinpath(f"templates/{_FILES[question]}.txt").read_text("utf-8").strip()


def render_chat(question: ChatQuestion, **fields: str) -> str:
    """The words of one question.

    Args:
        question: which.
        fields: what its template leaves open: `reference` everywhere, `instruction`, `categories`, `count` where they
            are spoken of. Inserted as data, in one pass: braces in them mean nothing.
    """
    return _FIELD.sub(lambda found: fields[found[1]], _template(question))


def template_length(question: ChatQuestion) -> int:
    """Characters of a question before anything is filled in."""
    return len(_template(question))


def prompt_version(question: ChatQuestion) -> str:
    """Name of a template, its version, and a digest of its words, so that an edited file is not taken for the old one.

    Example:
        >>> prompt_version("score").rpartition("+")[0]
        'judge_score.v1'
    """
    return f"{_FILES[question]}+{hashlib.sha256(_template(question).encode()).hexdigest()[:8]}"
