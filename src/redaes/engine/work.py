"""The work on one source: its whole way through the stages, its outcome in the ledger.

This is what a runner carries to its workers. Sources do not depend on each other, so any worker may take any of them.
Whatever is asked goes through the ledger; so does every image, and so does what became of the source. The plug-ins
and the ledger are opened once per process.
"""

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from redaes.engine.asking import Asking
from redaes.engine.calling import Calls, GivenUp, Stopped
from redaes.engine.config import EngineConfig, FlowSettings
from redaes.engine.gate import GateProtocol
from redaes.engine.ledger import Ledger, LedgerProtocol
from redaes.engine.objects import Picture
from redaes.engine.plan import Job
from redaes.engine.stages import (
    Crew,
    Scene,
    ask_the_rest,
    cut_source,
    first_better,
    group_candidates,
    kept_variants,
    make_group,
    make_pair,
    pair_candidates,
    saved_calls,
    score_source,
    shuffled,
    stream,
    vary,
)
from redaes.engine.statistics import funnel
from redaes.errors import UserError
from redaes.records import Edit, GroupRecord, PairRecord, Record, ScoreRecord
from redaes.registry import create
from redaes.sources import PhotoSource

if TYPE_CHECKING:
    from PIL.Image import Image


class SourceResult(Record):
    """Everything that became of one source. Pairs and groups are made of it, so that no edit is written twice.

    Attributes:
        edits: every edit that was made; `image` is empty where it is not kept.
        pair: id of the edit that is the pair's; empty if there is no pair.
        group: ids of the edits that are the group's; empty if there is no group.
        images: names of the kept images, the source's among them, and their hashes.
        saved: calls that were not made, by role.
        funnel: how many came through each stage.
    """

    score: ScoreRecord
    edits: tuple[Edit, ...]
    pair: str
    group: tuple[str, ...]
    images: dict[str, str]
    saved: dict[str, int]
    funnel: dict[str, int]

    def pair_record(self) -> PairRecord | None:
        """The pre-training sample, if there is one."""
        return make_pair(self.score, self._edits([self.pair])[0]) if self.pair else None

    def group_record(self) -> GroupRecord | None:
        """The RL group, if there is one."""
        return make_group(self.score, self._edits(self.group)) if self.group else None

    def _edits(self, ids: Iterable[str]) -> list[Edit]:
        by_id = {edit.id: edit for edit in self.edits}
        return [by_id[identity] for identity in ids]


class Outcome(NamedTuple):
    """What a worker tells of a source: its funnel, or why it was left out."""

    funnel: Counter[str]
    incomplete: str = ""


class OpenPhotographs:
    """Photographs kept open between sources, the most recently used ones.

    Args:
        photos: where they come from.
        budget: pixels kept at most, beside the photograph in use; 64 million are about 200 MB.
        most: photographs kept at most.
    """

    def __init__(self, photos: PhotoSource, budget: int = 64_000_000, most: int = 64) -> None:
        self.photos = photos
        self.budget = budget
        self.most = most
        self.kept: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, name: str) -> "Image":
        """The photograph as an upright RGB image, not to be changed in place. Threads open different ones at once."""
        with self._lock:
            image = self.kept.get(name)
        image = self.photos.open(name) if image is None else image
        with self._lock:
            self.kept[name] = image
            self.kept.move_to_end(name)
            while len(self.kept) > self.most or (len(self.kept) > 1 and self._pixels() > self.budget):
                self.kept.popitem(last=False)
        return image

    def _pixels(self) -> int:
        return sum(i.width * i.height for i in self.kept.values())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line which file could not be written and why (disk full, read-only, ...)."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass
class Workshop:
    """What all work in one process shares.

    Attributes:
        failure: the first thing that went wrong, and stopped the others.
    """

    config: EngineConfig
    crew: Crew
    photographs: OpenPhotographs
    ledger: LedgerProtocol
    calls: Calls
    failure: Exception | None = field(default=None)

    @classmethod
    def open(
        cls,
        config: EngineConfig,
        crew: Crew,
        photos: PhotoSource,
        ledger: LedgerProtocol,
        gate: GateProtocol | None = None,
    ) -> "Workshop":
        """For a process that has made the plug-ins and opened the ledger, and maybe shares a gate with others."""
        calls = Calls(ledger, config.flow, gate=gate)
        for member in crew.members(config):
            calls.enlist(*member)
        return cls(config, crew, OpenPhotographs(photos), ledger, calls)

    def stop(self, failure: Exception) -> None:
        """Ask nothing more; the first failure is the one to be told."""
        self.failure = self.failure or failure
        self.calls.stop(str(failure))


@lru_cache(maxsize=1)
def _workshop(config_json: str, flow_json: str, folder: Path | str) -> Workshop:
    """The workshop of a process beside the first, made once."""
    flow = FlowSettings.model_validate_json(flow_json)
    config = EngineConfig.model_validate_json(config_json).model_copy(update={"flow": flow})
    ledger = Ledger.create_or_open(folder, lock=False)
    return Workshop.open(config, Crew.from_config(config), create("sources", config.source), ledger)


class WorkOnSource:
    """The job of a runner: in the process it was made in with that one's workshop, in others with their own.

    Args:
        workshop: of this process.
        build: fingerprint under which results are kept.
    """

    def __init__(self, workshop: Workshop, build: str) -> None:
        self.build = build
        self._here: Workshop | None = workshop
        config = workshop.config
        self._elsewhere = (config.model_dump_json(), config.flow.model_dump_json(), workshop.ledger.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_here": None}

    @property
    def workshop(self) -> Workshop:
        """Of this process."""
        return self._here or _workshop(*self._elsewhere)

    def __call__(self, job: Job) -> Outcome:
        """Work on one source; its result is in the ledger when this returns.

        Raises:
            UserError: a setting, a photograph or the disk is at fault.
            RuntimeError: a plug-in failed; the message names the source, the cause is attached.
            Stopped: no question is put any more.
        """
        shop = self.workshop
        where = f"source {job.source.id} ({job.source.photograph})"
        try:
            result = work_on(job, shop)
            shop.ledger.put_result(self.build, job.source.id, result.model_dump_json())
        except GivenUp as error:
            return Outcome(Counter(), f"{where}: {error}")
        except Stopped:
            raise
        except UserError as error:
            failure: Exception = UserError(f"{where}: {error}")
            shop.stop(failure)
            raise failure from error
        except Exception as error:  # whatever a third party's plug-in raises, named with its source
            failure = RuntimeError(f"{where}: {error if isinstance(error, RuntimeError) else repr(error)}")
            shop.stop(failure)
            raise failure from error
        return Outcome(Counter(result.funnel))

    def known(self, job: Job) -> Outcome | None:
        """What became of a source that is in the ledger with all its images; None if it must be worked on."""
        ledger = self.workshop.ledger
        text = ledger.result(self.build, job.source.id)
        if text is None:
            return None
        found = json.loads(text)
        whole = all(ledger.objects.has(sha) for sha in found["images"].values())
        return Outcome(Counter(found["funnel"])) if whole else None


def work_on(job: Job, shop: Workshop) -> SourceResult:
    """Take one source through all stages.

    Raises:
        GivenUp: an answer that it needs cannot be had.
    """
    config = shop.config
    scene = Scene(
        job.source, cut(job, shop), shop.crew, config, Asking(shop.calls.ask, shop.ledger.objects, job.source.id)
    )
    scored = score_source(scene)
    for_pair = pair_candidates(scene) if job.pair else []
    for_group = group_candidates(scene) if job.group else []
    chosen = first_better(shuffled(for_pair, job.source.id, config.seed), config.min_passing) if job.pair else None
    variants = kept_variants(for_group, config.groups.min_variants, config.groups.max_variants)
    if config.mode == "eager":
        ask_the_rest(for_pair, for_group, config.min_passing)
    made = [c for c in for_pair if c.passed is not None] + [c for c in for_group if c.picture is not None]
    kept = made if config.keep_all_images else [c for c in made if c is chosen or c in variants]
    edits = [c.record(kept=c in kept) for c in made]
    pictures = [(job.source.image, scene.picture), *((c.image, c.edited()) for c in kept)]
    return SourceResult(
        score=scored,
        edits=tuple(edits),
        pair=chosen.id if chosen else "",
        group=tuple(c.id for c in variants),
        images={name: shop.ledger.objects.put(picture, durable=False) for name, picture in pictures},
        saved=saved_calls(for_pair, for_group, config) if config.mode == "lazy" else {},
        funnel=dict(funnel(edits, chosen is not None, bool(variants))),
    )


def cut(job: Job, shop: Workshop) -> Picture:
    """The pixels of a source."""
    config = shop.config
    photograph = shop.photographs.open(job.source.photograph)
    image = cut_source(photograph, config.sources, stream(config.seed, job.source.id, "cut"))
    if config.sources.vary and job.source.split == "train":
        image = vary(image, stream(config.seed, job.source.id, "vary"))
    return Picture.of(image)
