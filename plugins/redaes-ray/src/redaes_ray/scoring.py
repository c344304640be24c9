"""Scorers on a cluster: CPUs open images, scorers on GPUs look at them, and the driver is told what came of each.

In: whatever images can be read from, and how a scorer is opened. Out: what came of each image, in order, a block at a
time (`redaes.inference.pools`). Two stages:

1. Ray Data reads: its tasks, on any CPU of the cluster, make blocks of upright, down-sized RGB pixels, or of errors. No
   more blocks are made than the object store bears, so memory stays bounded however many images there are.
2. Scorers, each an actor that opens its model once, take the blocks as they are made. Pixels go from machine to machine
   and never through the driver.

The second stage is no `map_batches` of Ray Data. Its pool sends the work of an actor that died to that same actor's
next life, so that a machine with the last free GPU takes the run with it; it would open the model anew for each
benchmark; and it repeats for ever the block of an image that kills the process. Here the driver knows which block an
actor had. When an actor dies, the block that it was at work on is asked about image by image by whichever actor is
free, an image that then ends another process is given up, and a new actor is opened when the cluster has room for it.
"""

import logging
import math
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from redaes.data.images import IMAGE_SUFFIXES, VIEW_SIDE, ImageError
from redaes.errors import UserError
from redaes.inference.asking import Asking, LoadedScorer, Outcome, Read, Said, ScorerGivenUp
from redaes.inference.pools import KILLED, RemoteImage
from redaes_ray.cluster import enter_folder, join, machines, prepare_data
from redaes_ray.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

T = TypeVar("T")

BLOCK_BYTES = 128 << 20
"""Pixels of one block, at most: what Ray Data splits blocks at."""
BLOCK_IMAGES = 64
"""Images of one block, at most: what is lost when a scorer's process ends [ours]."""
READ_CPUS = 0.5
"""CPUs that a task of reading claims: half of its time it waits for files [ours]."""
IN_FLIGHT = 2
"""Blocks that a scorer has at a time: one to work on, and one that travels meanwhile."""
HELD = 16_384
"""Images whose outcomes wait for those before them, at most."""
DEADLY = 8
"""Images in a row that each end two processes of the scorer before it is given up [ours]."""
STILLBORN = 3
"""Processes in a row that end while they open the scorer before it is given up [ours]."""
PATIENCE = 30.0
"""Seconds without anything to do before it is said that the cluster has no room."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where scorers work on a cluster.

    Attributes:
        actors: how many; None: one for each GPU, or without a GPU one for each machine.
        num_gpus: of each; None: 1 where the cluster has GPUs, else 0.
        num_cpus: of each, and so many threads has torch; None: a half beside a GPU, else what a machine has, less what
            reading takes.
    """

    actors: int | None = None
    num_gpus: float | None = None
    num_cpus: float | None = None

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UserError(f"actors is {self.actors}; give 1 or more")
        for name, value in (("num_gpus", self.num_gpus), ("num_cpus", self.num_cpus)):
            if value is not None and value < 0:
                raise UserError(f"{name} is {value}; give 0 or more")

    def on(self, machines: Sequence[dict[str, float]]) -> "Placed":
        """Numbers for a cluster.

        Args:
            machines: the resources of each, such as `{"CPU": 16.0, "GPU": 2.0}`.

        Example:
            >>> Placement().on([{"CPU": 8.0}, {"CPU": 16.0, "GPU": 2.0}])
            Placed(actors=2, num_gpus=1, num_cpus=0.5)
            >>> Placement().on([{"CPU": 8.0}, {"CPU": 16.0}])
            Placed(actors=2, num_gpus=0, num_cpus=7.0)
        """
        able = [machine for machine in machines if machine.get("CPU")] or [{"CPU": 1.0}]
        gpus = (1 if any(machine.get("GPU") for machine in able) else 0) if self.num_gpus is None else self.num_gpus
        fit = sum(int(machine.get("GPU", 0) / gpus) for machine in able) if gpus else len(able)
        actors = self.actors or max(1, fit)
        cpus = self.num_cpus
        if cpus is None:
            share = (min(machine["CPU"] for machine in able) - READ_CPUS) / math.ceil(actors / len(able))
            cpus = 0.5 if gpus else max(0.5, float(int(share)))
        return Placed(actors, gpus, cpus)


class Placed(NamedTuple):
    """How many scorers there are, and what each claims."""

    actors: int
    num_gpus: float
    num_cpus: float


def scorers(
    make: Callable[[], LoadedScorer], placement: Placement, address: str | None = None
) -> AbstractContextManager["RayScorers"]:
    """Open a scorer in each of several processes of a cluster; see `redaes.inference.pools.ScoringRunner`.

    Args:
        make: opens the scorer, there; picklable.
        placement: how many, and what each claims.
        address: of the cluster, as of `redaes_ray.cluster.join`.

    Raises:
        UserError: no such cluster, or the scorer cannot be opened there.
    """
    join(address)
    return RayScorers(make, placement)


def images(urls: Sequence[str]) -> list[RemoteImage]:
    """Every image at or under URLs; see `redaes.inference.pools.ScoringRunner`.

    Args:
        urls: of folders, which are searched recursively as local ones are, and of single files.

    Raises:
        UserError: a place that cannot be listed, or without an image.
    """
    found = [image for url in urls for image in _images_at(url)]
    return list(dict.fromkeys(found))


def _images_at(url: str) -> list[RemoteImage]:
    place = Storage.of(url)
    names = [stored.name.lstrip("/") for stored in place.files("", recursive=True)]
    names = [name for name in names if _is_image(PurePosixPath(name))]
    if names:
        return [RemoteImage(place.where(name), fetch) for name in names]
    folder, name = _split(url)
    if not _storage(folder).exists(name):
        raise UserError(f"no images at {place.url} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return [RemoteImage(_storage(folder).where(name), fetch)]


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in name.parts)


def fetch(url: str) -> bytes:
    """The bytes at a URL.

    Raises:
        UserError: they cannot be read.
    """
    folder, name = _split(url)
    return _storage(folder).read(name)


def _split(url: str) -> tuple[str, str]:
    """Folder, with the settings of the URL, and name in it.

    Example:
        >>> _split("s3://bucket/photos/a.jpg?region=eu-west-1")
        ('s3://bucket/photos?region=eu-west-1', 'a.jpg')
    """
    place, question, settings = url.partition("?")
    folder, _, name = place.rstrip("/").rpartition("/")
    return f"{folder}{question}{settings}", name


@lru_cache(maxsize=64)
def _storage(folder: str) -> Storage:
    return Storage.of(folder)


class _Opened(NamedTuple):
    """What a scorer says of itself, or why it cannot be opened."""

    fingerprint: str = ""
    batch_size: int = 0
    side: int = VIEW_SIDE
    refused: str = ""


class _Answered(NamedTuple):
    """What came of images, by number; and why the scorer is given up, if it is."""

    said: list[tuple[int, Said]]
    given_up: str = ""


class Scorer:
    """The actor: one scorer in a process of its own.

    Args:
        make: opens it.
        folder: that the driver works in.
    """

    def __init__(self, make: Callable[[], LoadedScorer], folder: str) -> None:
        enter_folder(folder)
        self._make = make

    def open(self) -> _Opened:
        """Open it. Torch has as many threads as the actor has CPUs: Ray says so in OMP_NUM_THREADS."""
        try:
            loaded = self._make()
        except UserError as error:
            return _Opened(refused=str(error))
        self._asking = Asking(loaded.scorer, loaded.batch_size)
        return _Opened(loaded.fingerprint, loaded.batch_size, getattr(loaded.scorer, "view_side", VIEW_SIDE))

    def ask(self, block: "pa.Table", start: int, stop: int) -> _Answered:
        """Score the images of some rows of a block."""
        rows = block.slice(start, stop - start).to_pylist()
        began, given_up, outcomes = time.monotonic(), "", list[Outcome]()
        try:
            outcomes = self._asking.outcomes([_image(row) for row in rows])
            self._asking.check()
        except ScorerGivenUp as error:
            given_up = str(error)
        seconds = (time.monotonic() - began) / len(rows)
        told = zip(rows, outcomes, strict=False)  # fewer outcomes where it is given up
        return _Answered([(row["index"], Said(o, seconds, row["size"], row["digest"])) for row, o in told], given_up)


def _image(row: dict[str, Any]) -> "Image | ImageError":
    from PIL import Image

    if row["pixels"] is None:
        return ImageError("image", row["error"])
    return Image.frombytes("RGB", (row["width"], row["height"]), row["pixels"])


def _open_block(block: "pa.Table", read: Callable[[Any, int], Read], side: int, folder: str) -> "pa.Table":
    """Stage 1: open the images of a block.

    Args:
        block: columns `index`, and `item`, pickled by the driver.
        read: as of `RayScorers.ask`.
        side: pixels that the longer side of an image has at most.
        folder: that the driver works in.

    Returns:
        Columns `index`; `pixels`, rows of RGB from the top, with `width` and `height`, or `error`; `size`, `digest`.
    """
    import pyarrow as pa

    enter_folder(folder)
    numbers = [(name, pa.int64()) for name in ("index", "width", "height", "size")]
    words = [(name, pa.string()) for name in ("error", "digest")]
    schema = pa.schema([*numbers, *words, ("pixels", pa.large_binary())])
    rows = [_opened_row(row["index"], read(pickle.loads(row["item"]), side)) for row in block.to_pylist()]
    return pa.Table.from_pylist(rows, schema=schema)


def _opened_row(index: int, read: Read) -> dict[str, Any]:
    told = {"index": index, "size": read.size, "digest": read.digest}
    if isinstance(read.image, ImageError):
        return {**told, "error": read.image.reason}
    return {**told, "pixels": read.image.tobytes(), "width": read.image.width, "height": read.image.height}


def _killed(block: "pa.Table", row: int) -> tuple[int, Said]:
    """What is said of an image that no process survives."""
    facts = block.select(["index", "size", "digest"]).slice(row, 1).to_pylist()[0]
    outcome = Outcome(None, None, "", "", "failed", KILLED)
    return facts["index"], Said(outcome, 0.0, facts["size"], facts["digest"])


@dataclass(eq=False)
class _Work:
    """Rows of a block.

    Attributes:
        block: where the pixels are.
        start: the first row.
        stop: the row after the last.
        deaths: processes that ended while they were at work on it.
    """

    block: "ray.ObjectRef[Any]"
    start: int
    stop: int
    deaths: int = 0

    def alone(self) -> "list[_Work]":
        """Each row by itself, after a process has ended."""
        return [_Work(self.block, row, row + 1, self.deaths + 1) for row in range(self.start, self.stop)]


@dataclass(eq=False)
class _Actor:
    """An actor as the driver knows it.

    Attributes:
        handle: to ask it by.
        opening: what it will say of itself; None once it has.
        works: what it was given, in order, by what it will answer.
    """

    handle: Any
    opening: "ray.ObjectRef[Any] | None"
    works: "dict[ray.ObjectRef[Any], _Work]" = field(default_factory=dict)


class RayScorers(AbstractContextManager["RayScorers"]):
    """A pool of scorers on the cluster that this process has joined; see `redaes.inference.pools.ScorerPool`.

    Args:
        make: opens a scorer in its process.
        placement: how many, and what each claims.

    Raises:
        UserError: a scorer cannot be opened, or its process ends again and again while it opens.
    """

    def __init__(self, make: Callable[[], LoadedScorer], placement: Placement) -> None:
        self._make = ray.put(make)
        self._placed = placement.on(machines())
        self._actors: list[_Actor] = []
        self._failures = 0
        self.fingerprint = ""
        try:
            for _ in range(self._placed.actors):
                self._start()
            facts = None
            while facts is None:  # the others may still be opening when the first begins
                told = self._next()
                facts = self._begun(next(actor for actor in self._actors if actor.opening == told), told)
        except BaseException:
            self.__exit__()
            raise
        self.batch_size, self._side = facts.batch_size, facts.side

    def ask(self, items: Sequence[T], read: Callable[[T, int], Read]) -> Generator[list[Said], None, None]:
        """What the scorers say of images; see `redaes.inference.pools.ScorerPool`."""
        said: dict[int, Said] = {}
        again: deque[_Work] = deque()
        at = killed = 0
        try:
            with closing(self._blocks(items, read)) as blocks:
                while at < len(items):
                    self._hand_out(again, blocks if len(said) < HELD else iter(()))
                    answers, deadly = self._heard(again)
                    killed = 0 if answers and not deadly else killed + deadly
                    for answer in answers:
                        said.update(answer.said)
                    ready = []
                    while at in said:
                        ready.append(said.pop(at))
                        at += 1
                    if ready:
                        yield ready
                    self._check(answers, killed)
        except RayError as error:  # such as pixels that are lost with their machine, and cannot be read again
            raise UserError(f"Ray gave up: {_line(error)}; run the same command again to go on") from error
        finally:
            for actor in self._actors:  # where nobody waits for the rest
                actor.works.clear()

    def _hand_out(self, again: "deque[_Work]", blocks: Iterator[_Work]) -> None:
        """Give actors all they can have."""
        while actor := self._free():
            work = again.popleft() if again else next(blocks, None)
            if work is None:
                return
            actor.works[actor.handle.ask.remote(work.block, work.start, work.stop)] = work

    def _heard(self, again: "deque[_Work]") -> tuple[list[_Answered], int]:
        """Wait for the next news: what was answered, if it is that, and how many images are known to be deadly."""
        told = self._next()
        actor = next(actor for actor in self._actors if told == actor.opening or told in actor.works)
        if told == actor.opening:
            self._begun(actor, told)
            return [], 0
        try:
            answered: _Answered = ray.get(told)
        except RayActorError:
            answers, unasked, deadly = self._bury(actor)
            again.extendleft(reversed(unasked))
            return answers, deadly
        del actor.works[told]
        return [answered], 0

    def _blocks(self, items: Sequence[T], read: Callable[[T, int], Read]) -> Generator[_Work, None, None]:
        """Blocks of opened images, in order, as Ray Data makes them."""
        import pyarrow as pa
        from ray.data.read_api import from_blocks

        each = self._images_a_block(len(items))
        chunks = [range(start, min(start + each, len(items))) for start in range(0, len(items), each)]
        tables = [pa.table({"index": list(some), "item": [pickle.dumps(items[n]) for n in some]}) for some in chunks]
        if not tables:
            return
        prepare_data()
        how = {"read": read, "side": self._side, "folder": os.getcwd()}
        opened = from_blocks(tables).map_batches(
            _open_block, batch_size=None, batch_format="pyarrow", fn_kwargs=how, num_cpus=READ_CPUS
        )
        for bundle in opened.iter_internal_ref_bundles():
            for entry in bundle.blocks:
                yield _Work(entry.ref, 0, entry.metadata.num_rows)

    def _images_a_block(self, images: int) -> int:
        """Whole batches, as many as a block bears, but so that no scorer is left without work."""
        most = min(BLOCK_IMAGES, BLOCK_BYTES // (3 * self._side**2))
        share = math.ceil(images / (IN_FLIGHT * self._placed.actors * self.batch_size))
        return self.batch_size * max(1, min(most // self.batch_size, share))

    def _start(self) -> None:
        """Another actor; it opens its scorer when the cluster has room for it."""
        handle: Any = (
            ray.remote(Scorer)
            .options(
                num_gpus=self._placed.num_gpus,
                num_cpus=self._placed.num_cpus,
                max_restarts=0,
                scheduling_strategy="SPREAD",
            )
            .remote(self._make, os.getcwd())
        )
        self._actors.append(_Actor(handle, handle.open.remote()))

    def _begun(self, actor: _Actor, opening: "ray.ObjectRef[Any]") -> _Opened | None:
        """What an actor says of its scorer now that it has opened it; None if it died, and another takes its place."""
        try:
            opened: _Opened = ray.get(opening)
        except RayActorError as error:
            self._failures += 1
            if self._failures >= STILLBORN:
                raise UserError(
                    f"{STILLBORN} processes in a row ended while they opened the scorer: {_line(error)}"
                ) from error
            self._replace(actor)
            return None
        except RayTaskError as error:  # whatever a scorer of another package raises, or a package that is not there
            raise UserError(f"the scorer cannot be opened on the cluster: {_line(error.cause)}") from error
        if opened.refused:
            raise UserError(opened.refused)
        if opened.fingerprint != (self.fingerprint or opened.fingerprint):
            raise UserError(f"machines have different models: {self.fingerprint} and {opened.fingerprint}")
        self.fingerprint = opened.fingerprint
        self._failures, actor.opening = 0, None
        return opened

    def _free(self) -> _Actor | None:
        """The actor that has least to do, if it can have more."""
        open_ones = [actor for actor in self._actors if actor.opening is None]
        least = min(open_ones, key=lambda actor: len(actor.works), default=None)
        return least if least and len(least.works) < IN_FLIGHT else None

    def _next(self) -> "ray.ObjectRef[Any]":
        """The next that is told of anything that was asked for."""
        awaited = [told for a in self._actors for told in ([a.opening] if a.opening else a.works)]
        while True:
            told, _ = ray.wait(awaited, num_returns=1, timeout=PATIENCE)
            if told:
                found: ray.ObjectRef[Any] = told[0]
                return found
            if all(actor.opening for actor in self._actors):
                log.warning("no scorer is open yet: each needs %s of the cluster", self._placed)

    def _bury(self, actor: _Actor) -> tuple[list[_Answered], list[_Work], int]:
        """After a process has ended: what it had answered, what is to be asked again, and how many images it died of.

        It was at work on the first that it has not answered. Those rows are asked again one by one; a single image that
        it was the second to die of is answered for.
        """
        answers, left = [], []
        for told, work in actor.works.items():
            try:
                answers.append(ray.get(told))
            except RayActorError:
                left.append(work)
        self._replace(actor)
        if not left:
            return answers, [], 0
        suspect, *others = left
        if suspect.deaths and suspect.stop - suspect.start == 1:
            log.warning("an image has ended two processes of the scorer; it is left out")
            told = ray.remote(_killed).options(num_cpus=0).remote(suspect.block, suspect.start)
            return [*answers, _Answered([ray.get(told)])], others, 1
        return answers, [*suspect.alone(), *others], 0

    def _replace(self, actor: _Actor) -> None:
        ray.kill(actor.handle)  # it may only be out of reach
        self._actors.remove(actor)
        self._start()

    def _check(self, answers: Sequence[_Answered], killed: int) -> None:
        """Give the scorer up once what was said before was handed on."""
        for answer in answers:
            if answer.given_up:
                raise ScorerGivenUp(answer.given_up)
        if killed >= DEADLY:
            raise ScorerGivenUp(f"{DEADLY} images in a row have each ended two processes of the scorer")

    def __exit__(self, *exception: object) -> None:
        """The processes end."""
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors.clear()


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
