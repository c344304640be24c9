"""Ask a scorer about many images: read ahead of it, hand over enough at once, and bear with what it breaks on.

In: images of a benchmark and a scorer. Out: an answer for each, in order. While the scorer works on some images,
threads open the next ones. A quick scorer gets several of its batches in one call, so that it can prepare one while it
answers another; a slow one gets a single batch, so that little is lost if the process is killed.
"""

import logging
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from redaes.data.ahead import ahead
from redaes.data.benchmarks import Item
from redaes.data.images import VIEW_SIDE, ImageError, open_image
from redaes.errors import UserError
from redaes.evaluation.predictions import Answer, file_digest, file_size
from redaes.inference import Score, ScorerProtocol

if TYPE_CHECKING:
    from PIL.Image import Image

HELD = 128
"""Images that are opened ahead of the scorer, and that it gets in one call, at most: some 400 MB of each."""
CALL_SECONDS = 2.0
"""What one call may take before the next one gets fewer batches [ours]."""
STREAK = 32
"""Images in a row that a scorer breaks on before it is given up [ours]."""

log = logging.getLogger(__name__)


class ScorerGivenUp(UserError):
    """A scorer that cannot score: its settings are at fault, or it broke on too many images in a row."""


class Read(NamedTuple):
    """One image of a benchmark, opened or not, with size in bytes and digest of its file."""

    item: Item
    image: "Image | ImageError"
    size: int
    digest: str


def answers(
    benchmark: str, items: Sequence[Item], scorer: ScorerProtocol, fingerprint: str, batch_size: int = 16
) -> Iterator[list[Answer]]:
    """What a scorer says of images.

    Args:
        benchmark: name of the set that they are of.
        items: to score.
        scorer: sees each image alone; its `view_side`, if it has one, says how large images are opened.
        fingerprint: of the scorer.
        batch_size: images that it works on at once.

    Yields:
        The answers of each call, in the order of the items.

    Raises:
        ScorerGivenUp: the scorer's settings are at fault, or it breaks on `STREAK` images in a row; the answers before
            were handed on.
    """
    asking, batches = _Asking(scorer, batch_size), 1
    side = getattr(scorer, "view_side", VIEW_SIDE)
    with closing(read_ahead(items, max(HELD, batch_size), side)) as reader:
        while read := list(islice(reader, batches * batch_size)):
            began = time.monotonic()
            said = iter(asking.outcomes([r.image for r in read if not isinstance(r.image, ImageError)]))
            seconds = time.monotonic() - began
            rows = []
            for item, image, size, digest in read:
                outcome = image if isinstance(image, ImageError) else next(said, None)
                if outcome is None:  # the scorer is given up
                    break
                facts = _facts(outcome) | {"seconds": seconds / len(read), "size": size, "digest": digest}
                rows.append(Answer(benchmark, item.id, fingerprint, **facts, at=time.time()))
            yield rows
            if asking.streak >= STREAK:
                raise ScorerGivenUp(f"the scorer broke on {STREAK} images in a row, the last time with {asking.cause}")
            batches = asking.next_batches(batches, seconds)


def read_ahead(items: Sequence[Item], held: int = HELD, side: int = VIEW_SIDE) -> Generator[Read, None, None]:
    """Open images in threads, in order, some of them before they are asked for.

    Args:
        items: whose files are opened.
        held: images opened beforehand, at most.
        side: pixels that the longer side of an image has at most.
    """
    return ahead(partial(_read, side=side), items, held=held, threads=min(8, os.cpu_count() or 1))


def _read(item: Item, side: int) -> Read:
    told = (file_size(item.path), file_digest(item.path))
    try:
        return Read(item, open_image(item.path, max_side=side), *told)
    except ImageError as error:
        return Read(item, error, *told)


class _Asking:
    """A scorer, and how it has been faring.

    Args:
        scorer: to ask.
        batch_size: images that it works on at once.
    """

    def __init__(self, scorer: ScorerProtocol, batch_size: int) -> None:
        self.scorer, self.batch_size = scorer, batch_size
        self.most = max(1, HELD // batch_size)
        self.streak, self.cause = 0, ""

    def outcomes(self, images: "Sequence[Image]") -> list[Score | Exception]:
        """What is said of each image, or why nothing is; shorter than `images` where the scorer is given up.

        Where a call breaks its batches are asked for one by one, and the images of a batch that breaks likewise.

        Raises:
            ScorerGivenUp: the scorer's settings are at fault, so no image would fare better.
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
                said += self.outcomes(images[start : start + part])
                if self.streak >= STREAK:
                    return said
            return said
        for outcome in said:
            self._count(outcome)
        return said

    def next_batches(self, batches: int, seconds: float) -> int:
        """How many batches the next call gets, after one of so many that took so long."""
        wanted = 2 * batches if seconds < CALL_SECONDS / 2 else batches // 2 if seconds > CALL_SECONDS else batches
        return min(self.most, max(1, wanted))

    def _count(self, outcome: Score | Exception) -> None:
        if isinstance(outcome, Exception):
            self.streak += 1
            self.cause = " ".join(f"{type(outcome).__name__}: {outcome}".split())
        else:
            self.streak = 0


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


def _facts(outcome: Score | Exception) -> dict[str, Any]:
    """The fields of an answer that say what came of it."""
    if isinstance(outcome, Score):
        return {
            "value": outcome.value,
            "std": outcome.std,
            "reasoning": outcome.reasoning,
            "text": outcome.text,
            "status": outcome.status,
            "error": "no score can be read from the answer" if outcome.value is None else "",
        }
    unreadable = isinstance(outcome, ImageError)
    words = outcome.reason if isinstance(outcome, ImageError) else f"{type(outcome).__name__}: {outcome}"
    return {
        "value": None,
        "std": None,
        "reasoning": "",
        "text": "",
        "status": "unreadable" if unreadable else "failed",
        "error": " ".join(words.split()),
    }
