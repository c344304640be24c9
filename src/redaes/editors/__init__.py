"""Editors change a picture as an instruction asks."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.records import Instruction


@runtime_checkable
class Editor(Protocol):
    """The contract of the entry-point group `redaes.editors`."""

    name: str

    def edit(self, image: "Image", instruction: "Instruction", seed: int) -> "Image":
        """Return an edited RGB copy of the same size. Same image, instruction and seed: same pixels."""
        ...
