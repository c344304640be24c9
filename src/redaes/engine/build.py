"""Build a dataset: plan, work on every source, write the manifest.

Work on a source is independent of every other source, so the same seed gives the same bytes with any number of
workers. Finished sources are appended to a journal as they come; a killed build continues from it. The dataset
appears under its name only when it is whole.

    DIR.partial-<fingerprint>/    while it is being built
        journal.jsonl             what became of the sources that are finished, in the plan's order
        dataset/                  what will be DIR
    DIR/                          the dataset (redaes.data.manifest)

The fingerprint is of the configuration, the planned sources and the version of redaes: a build goes on only from work
that it would have done itself, and one with another configuration leaves that work alone.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from redaes import __version__
from redaes.data.manifest import Manifest, canonical_json, read_records, write_atomically, write_records
from redaes.engine.config import EngineConfig
from redaes.engine.plan import Job, plan_jobs, sample_calibration
from redaes.engine.runners import Runner
from redaes.engine.statistics import dataset_statistics
from redaes.engine.work import SourceResult, WorkOnSource, writing
from redaes.errors import UserError
from redaes.records import SCHEMA_VERSION, ScoreRecord
from redaes.registry import create

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Built:
    """What `build` found or made."""

    info: dict[str, Any]
    """The manifest's information."""
    already: bool
    """It was there, finished, before."""


def build(
    config: EngineConfig, output: Path, runner: Runner, progress: Progress | None = None, overwrite: bool = False
) -> Built:
    """Build a dataset, continue a killed build of it, or find it finished.

    Args:
        config: everything the dataset depends on.
        output: the dataset's folder.
        runner: how the work is spread; it does not change a byte.
        progress: called with (sources done, sources in all).
        overwrite: replace a finished dataset, whatever it was made of.

    Raises:
        UserError: `output` holds something else, or cannot be written; a setting or a photograph is at fault.
        RuntimeError: a plug-in failed on a source, which the message names.
    """
    output = Path(os.path.abspath(output))
    jobs = plan_jobs(create("sources", config.source).photographs(), config)
    existing = _existing(output)
    if existing is not None and not overwrite:
        _check_same(existing, config, jobs)
        return Built(existing.info, already=True)
    partial = _open_partial(output, fingerprint(config, jobs))
    work = WorkOnSource(canonical_json(config.model_dump(mode="json")), partial / "dataset")
    results = _work_through(jobs, work, partial / "journal.jsonl", runner, progress)
    with writing(output):
        info = _write_dataset(partial / "dataset", results, config)
        if output.exists():
            output.rename(partial / "replaced")
        (partial / "dataset").rename(output)
    shutil.rmtree(partial)
    return Built(info, already=False)


def fingerprint(config: EngineConfig, jobs: Sequence[Job]) -> str:
    """Sixteen hexadecimal digits of all that unfinished work depends on."""
    planned = [[job.source.model_dump(mode="json"), job.pair, job.group] for job in jobs]
    text = canonical_json([SCHEMA_VERSION, __version__, config.model_dump(mode="json"), planned])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _existing(output: Path) -> Manifest | None:
    """The dataset that is there; None where there is nothing, or an empty folder."""
    try:
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return None
    except OSError as error:
        raise UserError(f"cannot read {output}: {error.strerror}") from error
    if not (output / "manifest.json").is_file():
        raise UserError(f"{output} exists and is not a dataset; choose another folder")
    try:
        return Manifest(output)
    except ValueError as error:
        raise UserError(f"{output / 'manifest.json'} is damaged ({error}); choose another folder") from error


def _check_same(dataset: Manifest, config: EngineConfig, jobs: Sequence[Job]) -> None:
    """Refuse a finished dataset that this build would not have made."""
    way_out = "choose another folder or pass --overwrite"
    if dataset.info.get("config") != config.model_dump(mode="json"):
        raise UserError(f"{dataset.root} holds a dataset of another configuration; {way_out}")
    there = [record.source for record in read_records(dataset.root / "sources.jsonl", ScoreRecord)]
    if there != [job.source for job in jobs]:
        raise UserError(f"{dataset.root} was made from other photographs than there are now; {way_out}")


def _open_partial(output: Path, mark: str) -> Path:
    """The work folder of this very build; others beside it are mentioned and left alone."""
    if not output.name:
        raise UserError(f"cannot write a dataset to {output}; name a folder")
    partial = output.with_name(f"{output.name}.partial-{mark}")
    with writing(partial):
        (partial / "dataset" / "images").mkdir(parents=True, exist_ok=True)
    for other in sorted(output.parent.glob(f"{_literally(output.name)}.partial-*")):
        if other != partial:
            log.warning("unfinished work of another configuration is kept in %s; delete it if it is not wanted", other)
    return partial


def _literally(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _read_journal(path: Path, root: Path) -> list[SourceResult]:
    """Results of the sources finished before; from the first line that is torn or lacks its images, work is redone."""
    results: list[SourceResult] = []
    good = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        result = _read_line(line)
        if result is None or not all((root / image).is_file() for image in _images(result)):
            os.truncate(path, good)
            break
        results.append(result)
        good += len(line)
    return results


def _read_line(line: bytes) -> SourceResult | None:
    """A line of the journal, or None if a kill has torn it."""
    try:
        return SourceResult.model_validate_json(line) if line.endswith(b"\n") else None
    except ValidationError:
        return None


def _images(result: SourceResult) -> list[str]:
    """The images that were written for a source."""
    return [result.score.source.image, *(e.image for e in result.edits if e.image)]


def _work_through(
    jobs: Sequence[Job], work: WorkOnSource, journal: Path, runner: Runner, progress: Progress | None
) -> list[SourceResult]:
    """Results of all jobs, in order; the journal always holds a prefix of them."""
    with writing(journal):
        results = _read_journal(journal, work.root)
    report = progress or (lambda done, total: None)
    report(len(results), len(jobs))
    for result in runner.map(work, jobs[len(results) :]):
        with writing(journal), journal.open("ab") as file:
            file.write(canonical_json(result.model_dump(mode="json")).encode() + b"\n")
        results.append(result)
        report(len(results), len(jobs))
    return results


def _write_dataset(root: Path, results: Sequence[SourceResult], config: EngineConfig) -> dict[str, Any]:
    """Write the record files and the manifest beside the images."""
    scores = [r.score for r in results]
    edits = [e for r in results for e in r.edits]
    pairs = [r.pair for r in results if r.pair]
    groups = [r.group for r in results if r.group]
    chosen = sample_calibration([s.source.id for s in scores if s.source.split == "train"], config)
    files: dict[str, Sequence[Any]] = {
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
        "config": config.model_dump(mode="json"),
        "counts": {name: len(records) for name, records in files.items()},
        "statistics": dataset_statistics(scores, edits, pairs, groups),
    }
    write_atomically(root / "manifest.json", json.dumps(info, indent=1, sort_keys=True) + "\n")
    _remove_strays(root, {image for r in results for image in _images(r)})
    return info


def _remove_strays(root: Path, named: set[str]) -> None:
    """Delete what kills left behind: half-written files."""
    for path in root.rglob("*"):
        inside = path.relative_to(root).as_posix()
        if path.name.endswith(".tmp") or (inside.startswith("images/") and inside not in named):
            path.unlink()
