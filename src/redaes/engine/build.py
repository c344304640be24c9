"""Build a dataset: plan, work on every source, write the manifest.

Work on a source is independent of every other source, so the same seed gives the same bytes with any number of
workers. Finished sources are appended to a journal as they come; a killed build continues from it. The dataset
appears under its name only when it is whole.

    DIR.partial/    journal.jsonl, images/      while it is being built
    DIR/            the dataset (redaes.data.manifest)
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.data.manifest import canonical_json, write_atomically, write_records
from redaes.engine.config import EngineConfig
from redaes.engine.plan import Job, plan_jobs, sample_calibration
from redaes.engine.runners import Runner
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
)
from redaes.engine.statistics import dataset_statistics
from redaes.errors import UserError
from redaes.records import SCHEMA_VERSION, Edit, GroupRecord, PairRecord, Record, ScoreRecord
from redaes.registry import create
from redaes.sources import PhotoSource

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int, int], None]


class SourceResult(Record):
    """Everything that became of one source."""

    score: ScoreRecord
    edits: tuple[Edit, ...]
    pair: PairRecord | None
    group: GroupRecord | None


@cache
def _workshop(config_json: str) -> tuple[EngineConfig, Crew, PhotoSource, Callable[[str], "Image"]]:
    """The plug-ins of a configuration, made once per process, and a small cache of open photographs."""
    config = EngineConfig.model_validate_json(config_json)
    photos: PhotoSource = create("sources", config.source)
    return config, Crew.from_config(config), photos, cache(photos.open)


@dataclass(frozen=True)
class WorkOnSource:
    """The job of a runner: a source's whole way through the engine, its images written, its records returned."""

    config_json: str
    root: Path

    def __call__(self, job: Job) -> SourceResult:
        """Work on one source.

        Raises:
            RuntimeError: a plug-in failed; the message names the source, the cause is attached.
        """
        try:
            return self._work(job)
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(f"source {job.source.id} ({job.source.photograph}): {error!r}") from error

    def _work(self, job: Job) -> SourceResult:
        config, crew, _, photograph = _workshop(self.config_json)
        image = cut_source(photograph(job.source.photograph), config.sources, stream(config.seed, job.source.id, "cut"))
        scored = score_source(job.source, image, crew)
        for_pair = pair_candidates(job.source, image, crew, config) if job.pair else []
        for_group = group_candidates(job.source, image, crew, config) if job.group else []
        pair = choose_pair(scored, for_pair, config.seed)
        group = make_group(scored, for_group, config)
        kept = {pair.edit.id} if pair else set()
        kept |= {m.edit.id for m in group.members if m.edit} if group else set()
        variants = for_pair + for_group
        self._save(image, job.source.image)
        edits = tuple(self._store(v, keep=config.keep_all_images or v.record.id in kept) for v in variants)
        return SourceResult(score=scored, edits=edits, pair=pair, group=group)

    def _store(self, variant: Variant, *, keep: bool) -> Edit:
        """Write an edit's image, or record that it was not kept."""
        if keep:
            self._save(variant.image, variant.record.image)
            return variant.record
        return replace(variant, record=variant.record.model_copy(update={"image": ""})).record

    def _save(self, image: "Image", name: str) -> None:
        path = self.root / name
        temporary = path.with_suffix(".tmp")
        image.save(temporary, "PNG", compress_level=4)
        temporary.replace(path)


def build(
    config: EngineConfig, output: Path, runner: Runner, progress: Progress | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Build a dataset, or continue a killed build of it.

    Args:
        config: everything the dataset depends on.
        output: the dataset's folder.
        runner: how the work is spread; it does not change a byte.
        progress: called with (sources done, sources in all).
        overwrite: replace a dataset of another configuration.

    Returns:
        The manifest's information.

    Raises:
        UserError: `output` holds another dataset, or cannot be written.
    """
    config_json = canonical_json(config.model_dump(mode="json"))
    if (existing := _finished(output)) is not None and not overwrite:
        if existing["config"] == json.loads(config_json):
            return existing
        raise UserError(f"{output} holds a dataset of another configuration; choose another folder or --overwrite true")
    if existing is None and output.exists() and any(output.iterdir()):
        raise UserError(f"{output} exists and is not a dataset; choose another folder")
    partial = _open_partial(output, config_json)
    photos: PhotoSource = create("sources", config.source)
    jobs = plan_jobs(photos.photographs(), config)
    results = _work_through(jobs, WorkOnSource(config_json, partial), partial / "journal.jsonl", runner, progress)
    info = _write_dataset(partial, results, config, config_json)
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)
    return info


def _finished(output: Path) -> dict[str, Any] | None:
    path = output / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _open_partial(output: Path, config_json: str) -> Path:
    """The work folder; one of another configuration is started afresh."""
    partial = output.with_name(output.name + ".partial")
    try:
        note = partial / "config.json"
        if partial.exists() and (not note.is_file() or note.read_text(encoding="utf-8") != config_json):
            shutil.rmtree(partial)
        (partial / "images").mkdir(parents=True, exist_ok=True)
        write_atomically(note, config_json)
    except OSError as error:
        raise UserError(f"cannot write to {output.parent}: {error.strerror}") from error
    return partial


def _read_journal(path: Path) -> list[SourceResult]:
    """Results of sources finished before; a line torn by a kill is cut off."""
    if not path.is_file():
        return []
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)
    return [SourceResult.model_validate_json(line) for line in whole.splitlines() if line]


def _work_through(
    jobs: list[Job], work: WorkOnSource, journal: Path, runner: Runner, progress: Progress | None
) -> list[SourceResult]:
    """Results of all jobs, in order; the journal always holds a prefix of them."""
    results = _read_journal(journal)
    report = progress or (lambda done, total: None)
    report(len(results), len(jobs))
    with journal.open("ab") as file:
        for result in runner.map(work, jobs[len(results) :]):
            file.write(canonical_json(result.model_dump(mode="json")).encode() + b"\n")
            file.flush()
            results.append(result)
            report(len(results), len(jobs))
    return results


def _write_dataset(
    root: Path, results: Iterable[SourceResult], config: EngineConfig, config_json: str
) -> dict[str, Any]:
    """Write the record files and the manifest, and remove the traces of work."""
    results = list(results)
    scores = [r.score for r in results]
    edits = [e for r in results for e in r.edits]
    pairs = [r.pair for r in results if r.pair]
    groups = [r.group for r in results if r.group]
    chosen = sample_calibration([s.source.id for s in scores if s.source.split == "train"], config)
    files: dict[str, list[Any]] = {
        "sources": scores,
        "edits": edits,
        "pairs": pairs,
        "groups": groups,
        "calibration": [s for s in scores if s.source.id in chosen],
    }
    for name, records in files.items():
        write_records(root / f"{name}.jsonl", records)
    info = {
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "config": json.loads(config_json),
        "counts": {name: len(records) for name, records in files.items()},
        "statistics": dataset_statistics(scores, edits, pairs, groups),
    }
    write_atomically(root / "manifest.json", json.dumps(info, indent=1, sort_keys=True) + "\n")
    for leftover in ("journal.jsonl", "config.json"):
        (root / leftover).unlink()
    for stale in (root / "images").glob("*.tmp"):
        stale.unlink()
    return info
