"""Instructors on chat models: the targeted edit of a pre-training pair, the diverse ones of an RL group (Sec. 3.1).

The model chooses or is given a category of the predefined set; its orientation is the table's, never the model's word.
"""

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from redaes.calls import Role
from redaes.chat.answers import DiversifyAnswer, EditRequest, InstructAnswer
from redaes.chat.anthropic import Anthropic
from redaes.chat.local import Local
from redaes.chat.openai_compatible import OpenAICompatible
from redaes.chat.plugin import ChatPlugin
from redaes.chat.reading import Unreadable
from redaes.errors import UserError, nearest
from redaes.instructors.categories import CATEGORIES, Category, listed
from redaes.records import Instruction, Orientation

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_INSTRUCTION = 600
"""Characters of an instruction: two sentences have fewer."""


class ChatInstructor(ChatPlugin):
    """What the three instructors share.

    Args:
        orientations: kinds of edit to ask for (Tab. 3).
        categories: names of a set of your own, each with `quality` or `content`, instead of the built-in set.
        settings: of the name and the back-end.

    Raises:
        UserError: an orientation there is not, or nothing left to ask for.
    """

    def __init__(
        self,
        orientations: Sequence[Orientation] = ("quality", "content"),
        categories: Mapping[str, Orientation] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        known = get_args(Orientation)
        for orientation in (*orientations, *(categories or {}).values()):
            if orientation not in known:
                raise UserError(f"unknown orientation {orientation!r} ({nearest(str(orientation), known)})")
        own = CATEGORIES if categories is None else {name: Category(kind) for name, kind in categories.items()}
        self.categories = {name: category for name, category in own.items() if category.orientation in orientations}
        self._named = {name.casefold(): name for name in self.categories}
        if not self.categories:
            raise UserError(f"no category of edits is left with orientations {list(orientations)}")

    def options(self, role: Role) -> dict[str, Any]:
        """The categories, as they are listed."""
        return {"categories": listed(list(self.categories), self.categories)}

    def instruct(self, image: "Image", seed: int) -> Instruction:
        """See `redaes.instructors.Instructor.instruct`; the answer does not depend on `seed`."""
        everything = listed(list(self.categories), self.categories)
        answer = self.ask("instruct", [image], InstructAnswer, self._check_one, categories=everything)
        return self._instruction(answer, answer.analysis)

    def diversify(self, image: "Image", count: int, seed: int) -> list[Instruction]:
        """`count` edits. Categories are drawn by `seed` without replacement, from all again when all are drawn [ours].

        Left to itself a model asks for the same few kinds of edit again and again.

        Args:
            image: RGB.
            count: at least 1.
            seed: of the draw.

        Raises:
            CallError: no usable answer came.
        """
        rng, names = random.Random(f"diversify/{seed}"), list(self.categories)
        drawn = [name for _ in range(-(-count // len(names))) for name in rng.sample(names, len(names))][:count]

        def check(answer: DiversifyAnswer) -> None:
            for edit in answer.edits:
                self._check_one(edit)
            if [self._name(edit) for edit in answer.edits] != drawn:
                raise Unreadable(f"edits: there must be one for each of {', '.join(drawn)}, in this order")

        rows = listed(drawn, self.categories)
        answer = self.ask("diversify", [image], DiversifyAnswer, check, categories=rows, count=str(count))
        return [self._instruction(edit, "") for edit in answer.edits]

    def _name(self, edit: InstructAnswer | EditRequest) -> str | None:
        """The category that an answer names, as the table has it."""
        return self._named.get(_plain(edit.category))

    def _check_one(self, edit: InstructAnswer | EditRequest) -> None:
        if self._name(edit) is None:
            raise Unreadable("category: is none of those in the list")
        if len(edit.instruction) > LONGEST_INSTRUCTION:
            raise Unreadable(f"instruction: is longer than {LONGEST_INSTRUCTION} characters")

    def _instruction(self, edit: InstructAnswer | EditRequest, analysis: str) -> Instruction:
        name = self._named[_plain(edit.category)]
        words, orientation = " ".join(edit.instruction.split()), self.categories[name].orientation
        return Instruction(text=words, category=name, orientation=orientation, analysis=analysis)


def _plain(category: str) -> str:
    """A category's name without what a model may copy along with it from the list.

    Example:
        >>> _plain("- Colour_grading (quality)")
        'colour_grading'
    """
    return category.removeprefix("- ").partition(" (")[0].strip().casefold()


class OpenAICompatibleInstructor(ChatInstructor):
    """`openai_compatible`: an instructor at OpenAI or at any server that speaks its protocol."""

    backend = OpenAICompatible


class AnthropicInstructor(ChatInstructor):
    """`anthropic`: a Claude model as an instructor."""

    backend = Anthropic


class LocalInstructor(ChatInstructor):
    """`local`: a vision-language model in this process as an instructor."""

    backend = Local
