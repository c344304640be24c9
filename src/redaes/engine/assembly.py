"""Put a dataset together from what became of its sources, one by one: lines into files, images out of the ledger."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from redaes.data.manifest import canonical_json, read_records, write_atomically, write_records
from redaes.engine.config import EngineConfig
from redaes.engine.objects import Objects
from redaes.engine.plan import sample_calibration
from redaes.engine.statistics import Statistics
from redaes.engine.work import SourceResult
from redaes.records import SCHEMA_VERSION, Record, ScoreRecord

FILES = ("sources", "edits", "pairs", "groups")


def assemble(
    root: Path, results: Iterable[SourceResult | None], objects: Objects, config: EngineConfig
) -> dict[str, Any]:
    """Write a dataset.

    Args:
        root: where; it must not be there yet.
        results: in the plan's order; None is a source that is incomplete.
        objects: where the images are.
        config: of the build.

    Returns:
        The manifest's information.

    Raises:
        OSError: it cannot be written.
    """
    (root / "images").mkdir(parents=True)
    statistics, counts = Statistics(), Counter(dict.fromkeys((*FILES, "incomplete"), 0))
    with ExitStack() as stack:
        paths = {name: root / f"{name}.jsonl" for name in FILES}
        files = {name: stack.enter_context(p.open("w", encoding="utf-8", newline="\n")) for name, p in paths.items()}
        for result in results:
            if result is None:
                counts["incomplete"] += 1
                continue
            pair, group = result.pair_record(), result.group_record()
            records = {"sources": [result.score], "edits": result.edits, "pairs": [pair], "groups": [group]}
            for name, some in records.items():
                counts[name] += _write(files[name], some)
            for name, sha in result.images.items():
                objects.copy(sha, root / name)
            statistics.add(result.score, result.edits, pair, group, result.saved)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    counts["calibration"] = _write_calibration(root, config)
    info = {
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "counts": dict(counts),
        "statistics": statistics.as_dict(lazy=config.mode == "lazy"),
    }
    write_atomically(root / "manifest.json", json.dumps(info, indent=1, sort_keys=True) + "\n")
    return info


def _write(file: IO[str], records: Iterable[Record | None]) -> int:
    """Write those that are there, and say how many."""
    lines = [canonical_json(r.model_dump(mode="json")) + "\n" for r in records if r is not None]
    file.writelines(lines)
    return len(lines)


def _write_calibration(root: Path, config: EngineConfig) -> int:
    """The calibration set, drawn from the training sources that are complete."""
    scores = read_records(root / "sources.jsonl", ScoreRecord)
    chosen = sample_calibration((s.source.id for s in scores if s.source.split == "train"), config)
    scores = read_records(root / "sources.jsonl", ScoreRecord)
    write_records(root / "calibration.jsonl", (s for s in scores if s.source.id in chosen))
    return len(chosen)
