"""Verifiers check an edit the way VIEScore does: was it done, and was nothing else touched?"""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from redaes.records import Instruction, Verification


@runtime_checkable
class Verifier(Protocol):
    """The contract of the entry-point group `redaes.verifiers`."""

    name: str

    def verify(self, source: "Image", edited: "Image", instruction: "Instruction") -> "Verification":
        """Give the sub-scores *editing success* and *over-editing*, each in [0, 10]."""
        ...
