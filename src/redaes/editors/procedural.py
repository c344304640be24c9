"""Procedural editors: one that does as it is told, and five stand-ins for generative ones, each with a character.

`procedural` is for photographs that are to become better: every operation, at the asked strength. The other five
attempt every instruction, as five editing models would. An editor does its own family well: the asked
strength, little variation. Outside it, it is unsure of the strength, sometimes hardly does anything, and leaves its
mark on the picture. So edits of one instruction differ, some fail verification, and choosing among them means
something. The same image, instruction and seed always give the same pixels.
"""

import random
from typing import TYPE_CHECKING

from redaes.editors.operations import OPERATIONS, Family, Operation, strength_of
from redaes.errors import UserError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.records import Instruction


class PlainEditor:
    """`procedural`: every operation at exactly the asked strength, and nothing else."""

    name = "procedural"

    def edit(self, image: "Image", instruction: "Instruction", seed: int) -> "Image":
        """Carry out an instruction; arguments and errors as of `ProceduralEditor.edit`."""
        rng = random.Random(f"{self.name}/{instruction.category}/{seed}")
        return _operation(self.name, instruction).operator(image, strength_of(instruction.text), rng)


class ProceduralEditor:
    """What the five editors with a character share.

    Args:
        clumsiness: strength outside the own family varies by up to this share, in [0, 1]; None keeps the editor's.
        name: under which edits are recorded; None keeps the plug-in's.
    """

    name: str
    family: Family
    signature: tuple[str, float]
    clumsiness = 0.5
    idle = 0.16

    def __init__(self, clumsiness: float | None = None, name: str | None = None) -> None:
        self.clumsiness = self.clumsiness if clumsiness is None else clumsiness
        self.name = name or self.name

    def edit(self, image: "Image", instruction: "Instruction", seed: int) -> "Image":
        """Carry out an instruction.

        Args:
            image: RGB.
            instruction: its category is a row of `OPERATIONS`; its text gives the strength.
            seed: of everything random in it.

        Raises:
            UserError: a category this editor does not know.
        """
        operation = _operation(self.name, instruction)
        rng = random.Random(f"{self.name}/{instruction.category}/{seed}")
        strength = strength_of(instruction.text)
        if operation.family == self.family:
            return operation.operator(image, strength * rng.uniform(0.9, 1.1), rng)
        idle = rng.random() < self.idle
        unsure = 0.1 if idle else rng.uniform(1 - self.clumsiness, 1 + self.clumsiness)
        edited = operation.operator(image, strength * unsure, rng)
        mark, amount = self.signature
        return OPERATIONS[mark].operator(edited, amount * rng.uniform(0.0, 1.0), rng)


class ToneEditor(ProceduralEditor):
    """`procedural/tone`: sure with light and contrast; elsewhere it raises the contrast a little."""

    name = "procedural/tone"
    family: Family = "tone"
    signature = ("raise_contrast", 0.6)


class ColourEditor(ProceduralEditor):
    """`procedural/colour`: sure with colour; elsewhere it warms the picture a little."""

    name = "procedural/colour"
    family: Family = "colour"
    signature = ("warm", 0.8)


class DetailEditor(ProceduralEditor):
    """`procedural/detail`: sure with sharpness and noise; elsewhere it sharpens a little."""

    name = "procedural/detail"
    family: Family = "detail"
    signature = ("sharpen", 1.0)


class GeometryEditor(ProceduralEditor):
    """`procedural/geometry`: sure with framing; elsewhere it darkens the corners a little."""

    name = "procedural/geometry"
    family: Family = "geometry"
    signature = ("vignette", 0.8)


class ContentEditor(ProceduralEditor):
    """`procedural/content`: sure with objects and styles; elsewhere it smooths the picture a little."""

    name = "procedural/content"
    family: Family = "content"
    signature = ("denoise", 1.2)


def _operation(editor: str, instruction: "Instruction") -> Operation:
    operation = OPERATIONS.get(instruction.category)
    if operation is None:
        raise UserError(f"{editor} cannot do {instruction.category!r} ({nearest(instruction.category, OPERATIONS)})")
    return operation
