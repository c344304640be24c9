"""Judges look at pixels (or ask somebody who does) and answer with a number and a reason.

A judge never learns which edit was made, by whom, or what was asked for.
"""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from redaes.records import Verdict

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class Judge(Protocol):
    """The contract of the entry-point group `redaes.judges`. Deterministic for the same pixels."""

    name: str

    def score(self, image: "Image") -> Verdict:
        """Judge one RGB image: a score in [0, 10] and a short reason."""
        ...

    def compare(self, source: "Image", edited: "Image") -> Verdict:
        """Judge how much better `edited` is than `source`: a difference in [-10, 10] and a short reason."""
        ...
