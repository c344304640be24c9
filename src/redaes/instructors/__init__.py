"""Instructors say what to change: the targeted edit of a pre-training pair, the diverse edits of an RL group."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.records import Instruction


@runtime_checkable
class Instructor(Protocol):
    """The contract of the entry-point group `redaes.instructors`."""

    name: str

    def instruct(self, image: "Image", seed: int) -> "Instruction":
        """Analyse the deficiencies of `image` and ask for one targeted, improving edit (Sec. 3.1)."""
        ...

    def diversify(self, image: "Image", count: int, seed: int) -> "list[Instruction]":
        """Ask for `count` diverse edits, improving or not, drawn from the set of categories (RL groups)."""
        ...
