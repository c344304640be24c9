"""The work on one source: its whole way through the stages, its images written, its records returned.

This is what a runner carries to its workers. Sources do not depend on each other, so any worker may take any of them.
The plug-ins are made once per process.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.engine.config import EngineConfig
from redaes.engine.plan import Job
from redaes.engine.stages import (
    Crew,
    Variant,
    choose_pair,
    cut_source,
    group_candidates,
    make_group,
    pair_candidates,
    score_source,
    stream,
    vary,
)
from redaes.errors import UserError
from redaes.records import Edit, GroupRecord, PairRecord, Record, ScoreRecord
from redaes.registry import create
from redaes.sources import PhotoSource

if TYPE_CHECKING:
    from PIL.Image import Image


class SourceResult(Record):
    """Everything that became of one source."""

    score: ScoreRecord
    edits: tuple[Edit, ...]
    pair: PairRecord | None
    group: GroupRecord | None


class OpenPhotographs:
    """Photographs kept open between sources, the most recently used ones, within a budget of pixels.

    Args:
        photos: where they come from.
        budget: pixels kept at most, beside the photograph in use; 64 million are about 200 MB.
    """

    def __init__(self, photos: PhotoSource, budget: int = 64_000_000) -> None:
        self.photos = photos
        self.budget = budget
        self.kept: OrderedDict[str, Image] = OrderedDict()

    def open(self, name: str) -> "Image":
        """The photograph as an upright RGB image, not to be changed in place."""
        if name not in self.kept:
            self.kept[name] = self.photos.open(name)
        self.kept.move_to_end(name)
        while len(self.kept) > 1 and sum(i.width * i.height for i in self.kept.values()) > self.budget:
            self.kept.popitem(last=False)
        return self.kept[name]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line which file could not be written and why (disk full, read-only, ...)."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@lru_cache(maxsize=1)
def _workshop(config_json: str) -> tuple[EngineConfig, Crew, OpenPhotographs]:
    """The plug-ins of a configuration, made once per process."""
    config = EngineConfig.model_validate_json(config_json)
    return config, Crew.from_config(config), OpenPhotographs(create("sources", config.source))


@dataclass(frozen=True)
class WorkOnSource:
    """The job of a runner."""

    config_json: str
    root: Path

    def __call__(self, job: Job) -> SourceResult:
        """Work on one source.

        Raises:
            UserError: a setting, a photograph or the disk is at fault.
            RuntimeError: a plug-in failed; the message names the source, the cause is attached.
        """
        config, crew, photographs = _workshop(self.config_json)
        where = f"source {job.source.id} ({job.source.photograph})"
        try:
            return self._work(job, config, crew, photographs)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        except Exception as error:  # whatever a third party's plug-in raises, named with its source
            raise RuntimeError(f"{where}: {error!r}") from error

    def _work(self, job: Job, config: EngineConfig, crew: Crew, photographs: OpenPhotographs) -> SourceResult:
        photograph = photographs.open(job.source.photograph)
        image = cut_source(photograph, config.sources, stream(config.seed, job.source.id, "cut"))
        if config.sources.vary and job.source.split == "train":
            image = vary(image, stream(config.seed, job.source.id, "vary"))
        scored = score_source(job.source, image, crew)
        for_pair = pair_candidates(job.source, image, crew, config) if job.pair else []
        for_group = group_candidates(job.source, image, crew, config) if job.group else []
        pair = choose_pair(scored, for_pair, config.seed)
        group = make_group(scored, for_group, config)
        kept = {pair.edit.id} if pair else set()
        kept |= {m.edit.id for m in group.members if m.edit} if group else set()
        self._save(image, job.source.image)
        edits = tuple(self._store(v, config.keep_all_images or v.record.id in kept) for v in for_pair + for_group)
        return SourceResult(score=scored, edits=edits, pair=pair, group=group)

    def _store(self, variant: Variant, keep: bool) -> Edit:
        """Write an edit's image, or record that it was not kept."""
        if not keep:
            return variant.record.model_copy(update={"image": ""})
        self._save(variant.image, variant.record.image)
        return variant.record

    def _save(self, image: "Image", name: str) -> None:
        path = self.root / name
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with writing(path):
            image.save(temporary, "PNG", compress_level=4)
            temporary.replace(path)
