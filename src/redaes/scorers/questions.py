"""What a scorer asks and how it reads the answer: a template, a pattern, and the range the numbers are in.

Values are mapped linearly from the native range to [0, 10]. What cannot be read, or lies outside the range, is None.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.data.images import VIEW_SIDE, open_image
from redaes.errors import UserError
from redaes.inference import Score
from redaes.prompts import parse_reasoning

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE = "{{image}}"
"""Where in a template the photograph stands; without it, before the words."""
ANSWER = r"<answer>\s*([+-]?\d+(?:\.\d+)?)\s*</answer>"
"""The default pattern: one number in answer tags."""


@dataclass(frozen=True)
class Question:
    """A question with its reading.

    Attributes:
        prompt: a template of the package such as `rate.v1`, or the path of a text file.
        pattern: regular expression with one group, the number; the last match counts.
        low: lowest score of the native range.
        high: highest score of it.

    Raises:
        UserError: a template, a pattern or a range that cannot be.
    """

    prompt: str = "rate.v1"
    pattern: str = ANSWER
    low: float = 1.0
    high: float = 10.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"the native range is {self.low} to {self.high}; low must be below high")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise UserError(f"pattern {self.pattern!r} is no regular expression: {error}") from error
        if groups != 1:
            raise UserError(f"pattern {self.pattern!r} has {groups} groups; it needs one, the number")
        _ = self.words

    @property
    def words(self) -> str:
        """The template."""
        return template(self.prompt)

    def parts(self, image: "Image") -> "tuple[str | Image, ...]":
        """Photograph and words in the order they are shown."""
        before, mark, after = self.words.partition(IMAGE)
        return (before, image, after) if mark else (image, before)

    def read(self, text: str) -> Score:
        """The score in an answer, in [0, 10]; no value where there is none, or one outside the native range."""
        found = re.findall(self.pattern, text, re.DOTALL)
        try:
            value = float(found[-1]) if found else math.nan
        except ValueError:
            value = math.nan
        inside = self.low <= value <= self.high
        return Score(to_ten(value, self.low, self.high) if inside else None, parse_reasoning(text), text)

    def identity(self) -> dict[str, Any]:
        """All that answers depend on."""
        digest = hashlib.sha256(self.words.encode()).hexdigest()[:8]
        return {"prompt": f"{self.prompt}+{digest}", "pattern": self.pattern, "range": [self.low, self.high]}


def template(name: str) -> str:
    """The words of a template of the package, or of a text file.

    Raises:
        UserError: there is none of that name.
    """
    packaged = resources.files("redaes.prompts").joinpath(f"templates/{name}.txt")
    file = packaged if packaged.is_file() else Path(name)
    if not file.is_file():
        raise UserError(f"no prompt {name!r}: neither a template such as 'rate.v1' nor a text file")
    return file.read_text("utf-8").strip()


def to_ten(value: float, low: float, high: float) -> float:
    """A score of the range [low, high] on [0, 10].

    Example:
        >>> to_ten(3.0, 1.0, 5.0)
        5.0
    """
    return 10.0 * (value - low) / (high - low)


def digest(scorer: str, identity: dict[str, Any]) -> str:
    """A fingerprint: the scorer's name and 12 digits for all that its answers depend on."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return f"{scorer}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def opened(image: "Image | str | Path") -> "Image":
    """An image, or the file of one, as RGB.

    Raises:
        ImageError: a file that cannot be read as an image.
    """
    if isinstance(image, str | Path):
        return open_image(image, max_side=VIEW_SIDE)
    return image if image.mode == "RGB" else image.convert("RGB")


def model_path(model: str) -> str:
    """What transformers opens: the folder of the shipped `nano`, or a checkpoint directory or hub id of any family."""
    from redaes.models.vlm import shipped_nano

    return str(shipped_nano()) if model == "nano" else model


def require_samples(samples: int, batch_size: int) -> None:
    """Refuse numbers below 1.

    Raises:
        UserError: one of them is.
    """
    if samples < 1 or batch_size < 1:
        raise UserError(f"samples is {samples} and batch_size is {batch_size}; both must be at least 1")
