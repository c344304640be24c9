"""Where photographs come from. A source plug-in lists photographs; the engine cuts crops and splits by photograph."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


class Photograph(NamedTuple):
    """One photograph before cropping: the unit by which train and test are separated."""

    name: str
    license: str


@runtime_checkable
class PhotoSource(Protocol):
    """The contract of the entry-point group `redaes.sources`.

    A source whose photographs are files may also offer, for `filtered` to examine them without a full decode:

    - `read(name) -> bytes`: the encoded image as it was stored.
    - `stamp(name) -> str`: changes when what `read` gives may have changed, such as size and time of a file.
    """

    def photographs(self) -> Sequence[Photograph]:
        """All photographs, in a stable order, each name once."""
        ...

    def open(self, name: str) -> "Image":
        """The photograph as an upright RGB image.

        Raises:
            ImageError: it cannot be read; the engine leaves it out and goes on.
        """
        ...
