"""Ask a scorer about many images, and bear with what it breaks on.

In: images that were opened, or why they were not. Out: what came of each, in order, as plain values that can be written
to disk or sent to another process. A call that breaks is made again in parts, so that no image is lost to another's
fault; a scorer that breaks on one image after the other is given up.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from redaes.data.images import ImageError
from redaes.errors import UserError
from redaes.inference import Score, ScorerProtocol

if TYPE_CHECKING:
    from PIL.Image import Image

Status = Literal["ok", "unparsed", "unreadable", "failed"]

BATCH_SIZE = 16
"""Images at once of a scorer that does not say how many it likes."""
HELD = 128
"""Images that a scorer gets in one call, at most: some 400 MB."""
CALL_SECONDS = 2.0
"""What one call may take before the next one gets fewer batches [ours]."""
STREAK = 32
"""Images in a row that a scorer breaks on before it is given up [ours]."""

log = logging.getLogger(__name__)


class ScorerGivenUp(UserError):
    """A scorer that cannot score: its settings are at fault, or it broke on too many images in a row."""


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer that is ready to score.

    Attributes:
        name: for people.
        fingerprint: differs where its answers may.
        scorer: it.
        batch_size: images that it works on at once.
    """

    name: str
    fingerprint: str
    scorer: ScorerProtocol
    batch_size: int


class Read(NamedTuple):
    """An image that was opened, or why it was not.

    Attributes:
        image: upright RGB, or the error.
        size: of its file, in bytes; -1 where there is none, or nobody wants to know.
        digest: of its file; empty likewise.
    """

    image: "Image | ImageError"
    size: int = -1
    digest: str = ""


class Outcome(NamedTuple):
    """What came of one image.

    Attributes:
        value: score in [0, 10]; None unless `status` is ok.
        std: over several samples, in points; None of a single one.
        reasoning: the scorer's words; empty if it gave none.
        text: its raw answer.
        status: ok; unparsed: an answer without a score; unreadable: no image to show; failed: the scorer broke on it.
        error: one line; empty where an answer was given.
    """

    value: float | None
    std: float | None
    reasoning: str
    text: str
    status: Status
    error: str


class Said(NamedTuple):
    """What came of one image of several that were asked about together.

    Attributes:
        outcome: what came of it.
        seconds: its share of the time that the call took.
        size: of its file, as of `Read`.
        digest: of its file, as of `Read`.
    """

    outcome: Outcome
    seconds: float
    size: int
    digest: str


class Asking:
    """A scorer, and how it has been faring.

    Args:
        scorer: to ask.
        batch_size: images that it works on at once.
    """

    def __init__(self, scorer: ScorerProtocol, batch_size: int) -> None:
        self.scorer, self.batch_size = scorer, batch_size
        self.most = max(1, HELD // batch_size)
        self.streak, self.cause = 0, ""

    def outcomes(self, opened: "Sequence[Image | ImageError]") -> list[Outcome]:
        """What came of each image, in order; shorter than `opened` where the scorer is given up (`check`).

        Raises:
            ScorerGivenUp: the scorer's settings are at fault, so no image would fare better.
        """
        said = iter(self._asked([image for image in opened if not isinstance(image, ImageError)]))
        found: list[Outcome] = []
        for image in opened:
            outcome = image if isinstance(image, ImageError) else next(said, None)
            if outcome is None:
                break
            found.append(outcome_of(outcome))
        return found

    def check(self) -> None:
        """Say that the scorer is given up, once the outcomes before that were handed on.

        Raises:
            ScorerGivenUp: it broke on `STREAK` images in a row.
        """
        if self.streak >= STREAK:
            raise ScorerGivenUp(f"the scorer broke on {STREAK} images in a row, the last time with {self.cause}")

    def next_batches(self, batches: int, seconds: float) -> int:
        """How many batches the next call gets, after one of so many that took so long."""
        wanted = 2 * batches if seconds < CALL_SECONDS / 2 else batches // 2 if seconds > CALL_SECONDS else batches
        return min(self.most, max(1, wanted))

    def _asked(self, images: "Sequence[Image]") -> list[Score | Exception]:
        """What is said of each image, or why nothing is; shorter than `images` where the scorer is given up.

        Where a call breaks its batches are asked for one by one, and the images of a batch that breaks likewise.
        """
        try:
            said = _checked(self.scorer.score(images), len(images)) if images else []
        except UserError as error:
            raise ScorerGivenUp(str(error)) from error
        except Exception as error:  # whatever a scorer of another package raises; it is kept with the image
            if len(images) == 1:
                self._count(error)
                return [error]
            log.warning("a call with %d images failed (%r) and is made in parts", len(images), error)
            part = self.batch_size if len(images) > self.batch_size else 1
            self.most = max(1, self.most // 2) if part > 1 else self.most  # it may want for memory
            said = []
            for start in range(0, len(images), part):
                said += self._asked(images[start : start + part])
                if self.streak >= STREAK:
                    return said
            return said
        for outcome in said:
            self._count(outcome)
        return said

    def _count(self, outcome: Score | Exception) -> None:
        if isinstance(outcome, Exception):
            self.streak += 1
            self.cause = " ".join(f"{type(outcome).__name__}: {outcome}".split())
        else:
            self.streak = 0


def images_at_once(scorer: object, asked: int | None = None) -> int:
    """How many images a scorer works on at once: as many as it says, else as were asked for, else `BATCH_SIZE`."""
    return getattr(scorer, "batch_size", None) or asked or BATCH_SIZE


def _checked(scores: Sequence[Score], images: int) -> list[Score | Exception]:
    """The scores, with an error in the place of one that is no number in [0, 10]."""
    if len(scores) != images:
        raise ValueError(f"{len(scores)} scores for {images} images")
    return [
        score
        if score.value is None or 0 <= score.value <= 10
        else ValueError(f"the score {score.value} is not in [0, 10]")
        for score in scores
    ]


def outcome_of(said: Score | Exception) -> Outcome:
    """A score, or why there is none, as plain values.

    Example:
        >>> outcome_of(ValueError("no such layer")).error
        'ValueError: no such layer'
    """
    if isinstance(said, Score):
        error = "no score can be read from the answer" if said.value is None else ""
        return Outcome(said.value, said.std, said.reasoning, said.text, said.status, error)
    if isinstance(said, ImageError):
        return Outcome(None, None, "", "", "unreadable", " ".join(said.reason.split()))
    return Outcome(None, None, "", "", "failed", " ".join(f"{type(said).__name__}: {said}".split()))
