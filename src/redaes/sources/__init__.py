"""Where photographs come from. A source plug-in lists photographs; the engine cuts crops and splits by photograph."""

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


class Photograph(NamedTuple):
    """One photograph before cropping: the unit by which train and test are separated."""

    name: str
    license: str


@runtime_checkable
class PhotoSource(Protocol):
    """The contract of the entry-point group `redaes.sources`."""

    def photographs(self) -> list[Photograph]:
        """All photographs, in a stable order."""
        ...

    def open(self, name: str) -> "Image":
        """The photograph as an upright RGB image."""
        ...
