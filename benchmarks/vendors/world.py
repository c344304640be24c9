"""What the models of the loopback server see: a pure function of pixels, words and model.

A dataset that is built from them is the same every time, with any order of calls. The rates are near the paper's:
an edit passes verification with 63.7 % (Tab. 8), two judges agree on a direction with 67.8 % (Tab. 9), and a
targeted edit is an improvement four times out of five [ours]. Models that are to see the same must be sent the same
pixels: one JPEG and one PNG of a photograph are two pictures here.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL.Image import Image

Role = Literal["score", "compare", "instruct", "diversify", "verify", "perceptual_quality"]

PASS_RATE = 0.637
FLIP_RATE = 0.2015  # two judges that flip the truth so often, each on its own, agree with 67.8 %
IMPROVED_RATE = 0.8

# The key that only this role's answer has; the order decides.
_MARKS: dict[str, Role] = {
    '"over_editing"': "verify",
    '"naturalness"': "perceptual_quality",
    '"difference"': "compare",
    '"edits"': "diversify",
    '"instruction"': "instruct",
    '"score"': "score",
}
_CATEGORY = re.compile(r"^- (\S+) \((?:quality|content)\)", re.MULTILINE)
_REFERENCE = re.compile(r"^Reference of this question: (\S+)$", re.MULTILINE)
_INSTRUCTION = re.compile(r"<instruction>\n(.*)\n</instruction>", re.DOTALL)


def chance(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def pixels_of(image: Image) -> str:
    """What an image is known by: its size and its RGB values."""
    rgb = image.convert("RGB")
    return hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()[:24]


@dataclass(frozen=True)
class Question:
    """One question to a chat model.

    Attributes:
        model: that is asked.
        words: of the question, without those of a repair.
        images: what `pixels_of` says of each, in their order.
    """

    model: str
    words: str
    images: tuple[str, ...]

    @property
    def role(self) -> Role:
        """What is asked for; ValueError where the words are none of the project's questions."""
        form = self.words.rpartition("Answer with one JSON object")[2]
        for mark, role in _MARKS.items():
            if mark in form:
                return role
        raise ValueError("the words ask for no answer that this world knows")

    @property
    def reference(self) -> str:
        """The reference that the answer repeats."""
        found = _REFERENCE.findall(self.words)
        return found[-1] if found else ""

    @property
    def instruction(self) -> str:
        """The instruction that is verified."""
        found = _INSTRUCTION.search(self.words)
        return found[1] if found else ""

    @property
    def categories(self) -> list[str]:
        """Categories of edits that are listed, in their order."""
        return _CATEGORY.findall(self.words)

    @property
    def key(self) -> str:
        """Equal for equal questions."""
        return hashlib.sha256("\0".join((self.model, self.words, *self.images)).encode()).hexdigest()[:24]


def answer(question: Question) -> dict[str, Any]:
    """The answer as the question's form asks for it, its reference included."""
    return {"reference": question.reference, **_ANSWERS[question.role](question)}


def edit_passes(source: str, edited: str, instruction: str) -> bool:
    """Whether verifiers let an edit pass; one that changed nothing does not."""
    return source != edited and chance("pass", source, edited, instruction) < PASS_RATE


def _score(question: Question) -> dict[str, Any]:
    (image,) = question.images
    seen = 1.8 + 6.8 * (chance("beauty", image) + chance("more beauty", image)) / 2
    score = round(seen + 1.6 * (chance("taste", question.model, image) - 0.5), 1)
    return {"reasoning": f"The light of picture {image[:6]} is fair and its framing holds together.", "score": score}


def _compare(question: Question) -> dict[str, Any]:
    first, second = question.images
    if first == second:
        return {"reasoning": "The two look alike.", "better": "neither", "difference": 0}
    improved = chance("improved", first, second) < IMPROVED_RATE
    flipped = chance("flip", question.model, first, second) < FLIP_RATE
    size = 0.4 + 3.5 * chance("how much", first, second) + chance("about", question.model, first, second)
    difference = round(size if improved != flipped else -size, 1)
    better = "B" if difference > 0 else "A"
    return {"reasoning": f"Version {better} has the better light.", "better": better, "difference": difference}


def _verify(question: Question) -> dict[str, Any]:
    source, edited = question.images
    part = chance("how well", source, edited, question.instruction)
    passes = edit_passes(source, edited, question.instruction)
    middle = 8.3 + 0.9 * part if passes else 1.0 + 5.7 * part
    scores = [
        round(middle + 1.4 * (chance(name, question.model, source, edited) - 0.5), 1)
        for name in ("success", "over_editing")
    ]
    if source == edited:
        scores = [0, 10]
    return {"reasoning": "What was asked for can be seen.", "success": scores[0], "over_editing": scores[1]}


def _perceptual_quality(question: Question) -> dict[str, Any]:
    (image,) = question.images
    naturalness, artifacts = (round(7 + 3 * chance(name, question.model, image), 1) for name in ("nature", "damage"))
    return {"reasoning": "It holds together.", "naturalness": naturalness, "artifacts": artifacts}


def _instruct(question: Question) -> dict[str, Any]:
    (image,) = question.images
    names = question.categories
    category = names[int(chance("category", question.model, image) * len(names))]
    return {
        "analysis": f"Picture {image[:6]} falls short in {category}.",
        "score": _score(question)["score"],
        "category": category,
        "instruction": _request(category, image),
    }


def _diversify(question: Question) -> dict[str, Any]:
    (image,) = question.images
    edits = [{"category": c, "instruction": _request(c, image, k)} for k, c in enumerate(question.categories)]
    return {"edits": edits}


def _request(category: str, *parts: object) -> str:
    strengths = ("slightly", "clearly", "strongly")
    strength = strengths[int(chance("strength", category, *parts) * len(strengths))]
    return f"Work {strength} on the {category.replace('_', ' ')} of the photograph."


_ANSWERS: dict[Role, Callable[[Question], dict[str, Any]]] = {
    "score": _score,
    "compare": _compare,
    "verify": _verify,
    "perceptual_quality": _perceptual_quality,
    "instruct": _instruct,
    "diversify": _diversify,
}


def tokens(words: str, sizes: Sequence[tuple[int, int]] = ()) -> int:
    """What words and images are billed as, about as the vendors count: four characters, 28 x 28 pixels."""
    return len(words) // 4 + sum(-(-w // 28) * -(-h // 28) for w, h in sizes)
