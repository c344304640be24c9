"""Ask a scorer about the images of a benchmark: read ahead of it, and hand over enough at once.

In: images of a benchmark and a scorer. Out: an answer for each, in order. While the scorer works on some images,
threads open the next ones. A quick scorer gets several of its batches in one call, so that it can prepare one while it
answers another; a slow one gets a single batch, so that little is lost if the process is killed. How it is asked, and
what becomes of images that it breaks on, is `redaes.inference.asking`.
"""

import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

from redaes.data.ahead import ahead
from redaes.data.benchmarks import Item
from redaes.data.images import VIEW_SIDE, ImageError, open_image
from redaes.evaluation.predictions import Answer, file_digest, file_size
from redaes.inference import ScorerProtocol
from redaes.inference.asking import HELD, Asking, Read, Said


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
    asking, batches, remaining = Asking(scorer, batch_size), 1, iter(items)
    side = getattr(scorer, "view_side", VIEW_SIDE)
    with closing(read_ahead(items, max(HELD, batch_size), side)) as reader:
        while read := list(islice(reader, batches * batch_size)):
            began = time.monotonic()
            outcomes = asking.outcomes([each.image for each in read])
            seconds = time.monotonic() - began
            yield [
                answer(benchmark, item, fingerprint, Said(outcome, seconds / len(read), each.size, each.digest))
                for each, outcome, item in zip(read, outcomes, remaining, strict=False)  # it may have been given up
            ]
            asking.check()
            batches = asking.next_batches(batches, seconds)


def answer(benchmark: str, item: Item, fingerprint: str, said: Said) -> Answer:
    """What is kept of what came of an image.

    Args:
        benchmark: name of the set that it is of.
        item: the image.
        fingerprint: of the scorer.
        said: what came of it just now.
    """
    facts = said.outcome._asdict()
    return Answer(
        benchmark,
        item.id,
        fingerprint,
        **facts,
        seconds=said.seconds,
        size=said.size,
        digest=said.digest,
        at=time.time(),
    )


def read_ahead(items: Sequence[Item], held: int = HELD, side: int = VIEW_SIDE) -> Generator[Read, None, None]:
    """Open images in threads, in order, some of them before they are asked for.

    Args:
        items: whose files are opened.
        held: images opened beforehand, at most.
        side: pixels that the longer side of an image has at most.
    """
    paths = (item.path for item in items)
    return ahead(partial(read_file, side=side), paths, held=held, threads=min(8, os.cpu_count() or 1))


def read_file(path: Path, side: int) -> Read:
    """Open an image file, and note what tells it from others.

    Args:
        path: the file.
        side: pixels that its longer side has at most.
    """
    told = (file_size(path), file_digest(path))
    try:
        return Read(open_image(path, max_side=side), *told)
    except ImageError as error:
        return Read(error, *told)
