"""AesCoT, the training data of Aes-R1 (arXiv 2509.21871): one photograph, a thought and a score to a line.

    {"messages": [{"role": "user", "content": "... this picture <image> ? ... between 1 and 5 ..."},
                  {"role": "assistant", "content": "<think>...</think><answer>0.62</answer>"}], "images": "a.jpg"}

As its repository's example has it: `images` is a string, the answer may be the bare number, and the file may be one
JSON array. Paths of images start from the file's own folder and stay in it.

**The scale.** The prompt speaks of 1 to 5, but the example's targets are 0.25 and 0.80, and Aes-R1's training code
takes them for [0, 1]. So what counts is what the numbers are [ours]: a file in which at least half of them lie in
[0, 1] is on [0, 1], any other on [1, 5]; what lies outside the file's scale is a bad line. Scores become [0, 10], and
the question becomes that of this package, which asks for 0 to 10.
"""

import codecs
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.data.images import open_image, path_inside
from redaes.errors import UserError
from redaes.prompts import parse_answer, parse_reasoning

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE = "<image>"
SCALES = ((0.0, 1.0), (1.0, 5.0))
_NAMED = 5


@dataclass(frozen=True)
class Scored:
    """One photograph, its score in [0, 10], and why (empty where the line has the number alone)."""

    image: str
    score: float
    reasoning: str


class Aescot:
    """An AesCoT file that was read.

    Args:
        file: JSON lines, or one JSON array.

    Attributes:
        root: the folder that paths of images start from.
        lines: number of lines with anything on them.
        samples: what the good ones hold, in the file's order.
        scale: of the file's own numbers, (0, 1) or (1, 5).
        bad: lines that were left out and why, by line number (in an array: the number of the entry).

    Raises:
        UserError: the file cannot be read, or holds no good line.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self.root = self.file.parent
        self.bad: dict[int, str] = {}
        read: dict[int, Scored] = {}
        self.lines = 0
        for number, entry in _entries(self.file):
            self.lines += 1
            try:
                read[number] = _read(entry)
            except ValueError as error:
                self.bad[number] = str(error)
        low, high = self.scale = _scale([sample.score for sample in read.values()])
        self.samples: list[Scored] = []
        for number, sample in read.items():
            if low <= sample.score <= high:
                ten = 10 * (sample.score - low) / (high - low)
                self.samples.append(Scored(sample.image, ten, sample.reasoning))
            else:
                self.bad[number] = f"score {sample.score:g} where the file's are {low:g} to {high:g}"
        if not self.samples:
            raise UserError(f"{self.file} is no AesCoT file: {self.problems or 'it is empty'}")

    @property
    def problems(self) -> str:
        """What is wrong with the file in one line, the first bad lines by number; empty if nothing is."""
        if not self.bad:
            return ""
        named = "; ".join(f"line {number}: {self.bad[number]}" for number in sorted(self.bad)[:_NAMED])
        more = "; ..." if len(self.bad) > _NAMED else ""
        return f"{len(self.bad)} of {self.lines} lines left out: {named}{more}"

    def path(self, image: str) -> Path:
        """The file of an image; never outside the file's folder."""
        return path_inside(self.root, image, "the file's folder")

    def has(self, image: str) -> bool:
        """Whether there is such an image."""
        return self.path(image).is_file()

    def open(self, image: str) -> "Image":
        """Load an image as upright RGB.

        Raises:
            ImageError: it cannot be decoded.
        """
        return open_image(self.path(image))


def _entries(file: Path) -> Iterator[tuple[int, Any]]:
    """Lines, or the array's entries, by number; a line that is no JSON comes as None."""
    try:
        with file.open("rb") as lines:
            array = lines.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
            lines.seek(0)
            if array:
                yield from enumerate(json.loads(lines.read().decode("utf-8-sig")), 1)
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _json(line)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return None


def _read(entry: Any) -> Scored:
    """One entry, its score as the file has it.

    Raises:
        ValueError: why it is none.
    """
    if not isinstance(entry, dict):
        raise ValueError("no JSON object")
    said = {"user": "", "assistant": ""}
    messages = entry.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and isinstance(message.get("content"), str) and message.get("role") in said:
            said[message["role"]] += message["content"]
    for role, text in said.items():
        if not text.strip():
            raise ValueError(f"no message of the {role}")
    images = entry.get("images")
    images = [images] if isinstance(images, str) else images
    if not (isinstance(images, list) and len(images) == 1 and isinstance(images[0], str) and images[0].strip()):
        raise ValueError("images is not the path of one image")
    if said["user"].count(IMAGE) != 1:
        raise ValueError(f"{said['user'].count(IMAGE)} times {IMAGE} in the question, not once")
    answer = said["assistant"]
    score = parse_answer(answer if "<answer>" in answer else f"<answer>{answer}</answer>", (-math.inf, math.inf))
    if score is None:
        raise ValueError("no score in the answer")
    return Scored(images[0].strip(), score, parse_reasoning(answer))


def _scale(scores: list[float]) -> tuple[float, float]:
    unit = sum(0 <= score <= 1 for score in scores)
    return SCALES[0] if 2 * unit >= len(scores) else SCALES[1]
