"""Inference: images in, scores with their reasons out.

`Score` and the contracts of a scorer live here, free of torch, so that commands and reports can speak of scores without
loading a model. The scorer that serves our checkpoints is `redaes.inference.scorer.Scorer`.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

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
        text: the raw completion, unescaped; of a comparison asked in both orders, both, each on a line of its own.
        std: standard deviation over several samples, in points; None of a single one.
        disagreement: of a comparison asked in both orders, how far the answer of either is from `value`, in points: 0
            where they are each other's opposite, and above |value| where they name different winners. Else None.
    """

    value: float | None
    reasoning: str
    text: str
    std: float | None = None
    disagreement: float | None = None

    @property
    def status(self) -> Literal["ok", "unparsed"]:
        """Whether a number could be read from the answer."""
        return "unparsed" if self.value is None else "ok"


@dataclass(frozen=True)
class Ranked:
    """One place of a ranking.

    Attributes:
        index: where the image stood in what was ranked, from 0.
        score: what the model says of it.
    """

    index: int
    score: Score


A = TypeVar("A", Score, Difference)


def combined(samples: Sequence[A]) -> A:
    """Several answers to one question as one: the mean and standard deviation of those with a number.

    All else is that of the first of these; `std` is None of fewer than two.

    Example:
        >>> combined([Score(6.0, "good", ""), Score(None, "", ""), Score(8.0, "", "")])
        Score(value=7.0, reasoning='good', text='', std=1.4142135623730951)
    """
    answered = [sample for sample in samples if sample.value is not None]
    if not answered:
        return samples[0]
    values = [sample.value for sample in answered if sample.value is not None]
    std = statistics.stdev(values) if len(values) > 1 else None
    return replace(answered[0], value=statistics.fmean(values), std=std)


def ranked(scores: Sequence[Score]) -> list[Ranked]:
    """Scores best first, equal ones as they came, those without a value last.

    Example:
        >>> [place.index for place in ranked([Score(None, "", ""), Score(4.0, "", ""), Score(6.0, "", "")])]
        [2, 1, 0]
    """
    places = [Ranked(index, score) for index, score in enumerate(scores)]
    return sorted(places, key=lambda p: (p.score.value is None, -(p.score.value or 0.0)))


@runtime_checkable
class ScorerProtocol(Protocol):
    """The contract of the entry-point group `redaes.scorers`.

    A scorer is made with the keywords `model` (what `--model` says), `device` (None: its own choice) and, where one is
    asked for, `batch_size`. It may say with `batch_size` how many images it likes at once, with `view_side` at how many
    pixels of the longer side images are to be opened for it (else `VIEW_SIDE`), and with `fingerprint` all that its
    answers depend on.
    """

    def score(self, images: "Sequence[Image | str | Path]") -> list[Score]:
        """Score each image seen alone, in order; one `Score` per image. May be asked about several batches at once."""
        ...


@runtime_checkable
class ComparerProtocol(Protocol):
    """A scorer that can also look at two images at once (PT-O1)."""

    def compare_pairs(self, pairs: "Sequence[tuple[Image | str | Path, Image | str | Path]]") -> list[Difference]:
        """By how much the second image of each pair is better than the first; one `Difference` per pair, in order."""
        ...


@runtime_checkable
class EditPredictorProtocol(Protocol):
    """A scorer that can also say what an edit would gain, before it is made (PT-O2)."""

    def predict_edits(self, edits: "Sequence[tuple[Image | str | Path, str]]") -> list[Difference]:
        """By how much each image would be better after its edit instruction; one `Difference` per edit, in order."""
        ...
