"""Inference: images in, scores with their reasons out.

`Score` and the contract of a scorer live here, free of torch, so that commands and reports can speak of scores without
loading a model. The scorer that serves our checkpoints is `redaes.inference.scorer.Scorer`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Score:
    """What a model says of one image.

    Attributes:
        value: score in [0, 10], or None where the completion could not be parsed (never a made-up number).
        reasoning: the model's words before the number; empty if it gave none.
        text: the raw completion, unescaped: escape it wherever it is shown.
        std: standard deviation over several samples, in points; None of a single one.
    """

    value: float | None
    reasoning: str
    text: str
    std: float | None = None

    @property
    def status(self) -> Literal["ok", "unparsed"]:
        """Whether a number could be read from the answer."""
        return "unparsed" if self.value is None else "ok"


@dataclass(frozen=True)
class Difference:
    """By how much one image is better than another, as a model says.

    Attributes:
        value: in [-10, 10], above 0 where the second image (or the edited one) is better; None where the completion
            could not be parsed.
        reasoning: the model's words before the number; empty if it gave none (PT-O2 gives none).
        text: the raw completion, unescaped.
        std: standard deviation over several samples, in points; None of a single one.
    """

    value: float | None
    reasoning: str
    text: str
    std: float | None = None


@runtime_checkable
class ScorerProtocol(Protocol):
    """The contract of the entry-point group `redaes.scorers`.

    A scorer is made with the keywords `model` (what `--model` says), `batch_size` and `device` (None: its own choice).
    """

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """Score each image seen alone, in order; one `Score` per image."""
        ...


@runtime_checkable
class ComparerProtocol(Protocol):
    """A scorer that also compares two images (PT-O1)."""

    def compare(self, a: "Image | str | Path", b: "Image | str | Path") -> Difference:
        """By how much `b` is better than `a`."""
        ...


@runtime_checkable
class EditPredictorProtocol(Protocol):
    """A scorer that also predicts what an edit would do, before it is made (PT-O2)."""

    def predict_edits(self, questions: "Sequence[tuple[Image | str | Path, str]]") -> list[Difference]:
        """By how much each image would be better after the edit that the instruction beside it asks for."""
        ...
