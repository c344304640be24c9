"""Results on disk: what one scorer came to on one benchmark, kept as JSON under `FOLDER/results/`.

In: documents made by `redaes.evaluation.benchmarks.result`. Out: the same documents, for tables, pages and programs.
One file for each benchmark, split and scorer; a later evaluation takes the place of the earlier one. Beside them, under
`FOLDER/benchmarks/`, what people said of every image and where its file is: a page can then be drawn, and two scorers
compared, without the official lists and without a scorer.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redaes.data.benchmarks import Benchmark, Item
from redaes.data.manifest import write_atomically
from redaes.errors import UserError
from redaes.evaluation.predictions import slug

SCHEMA_VERSION = 1
NAMED_BY = ("benchmark", "split", "fingerprint")


def file_name(result: Mapping[str, Any]) -> str:
    """What files of one benchmark, split and scorer are called, without a suffix."""
    return "--".join(slug(str(result[key])) for key in NAMED_BY)


def write_result(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Keep a result, whole or not at all.

    Args:
        folder: of the evaluation; the file goes into its folder `results`.
        result: the document.

    Returns:
        The file.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(folder) / "results" / f"{file_name(result)}.json"
    text = json.dumps({"schema_version": SCHEMA_VERSION, **result}, indent=1, ensure_ascii=False, allow_nan=False)
    return _write(path, text)


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """Every result under a folder, by file name.

    Raises:
        UserError: a file there that is none of ours; the message names it.
    """
    return [_read(path) for path in sorted((Path(folder) / "results").glob("*.json"))]


def write_benchmark(folder: str | Path, benchmark: Benchmark) -> Path:
    """Keep what a page needs of a benchmark: of each image its name, file, score and group.

    Args:
        folder: of the evaluation.
        benchmark: whole, whatever is drawn from it.

    Returns:
        The file.

    Raises:
        UserError: it cannot be written.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "native_range": benchmark.native_range,
        "n_listed": benchmark.n_listed,
        "items": [(item.id, str(item.path.absolute()), item.mos, item.group) for item in benchmark.items],
    }
    return _write(_benchmark_path(folder, benchmark.name, benchmark.split), json.dumps(document, allow_nan=False))


def read_benchmark(folder: str | Path, name: str, split: str) -> Benchmark | None:
    """What `write_benchmark` kept; None where nothing is.

    Raises:
        UserError: a file there that is none of ours; the message names it.
    """
    path = _benchmark_path(folder, name, split)
    if not path.is_file():
        return None
    try:
        document = _document(path)
        low, high = map(float, document["native_range"])
        items = [Item(id, Path(file), float(mos), group=group) for id, file, mos, group in document["items"]]
        return Benchmark(name, split, (low, high), items, document["n_listed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} was not written by `redaes evaluate` ({error}); move it away and evaluate") from error


def _benchmark_path(folder: str | Path, name: str, split: str) -> Path:
    return Path(folder) / "benchmarks" / f"{slug(name)}--{slug(split)}.json"


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _document(path: Path) -> dict[str, Any]:
    """What a file of ours holds; fails in the ways that JSON of somebody else's does."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {document['schema_version']}, not {SCHEMA_VERSION}")
    return document


def _read(path: Path) -> dict[str, Any]:
    try:
        document = _document(path)
        if missing := [key for key in (*NAMED_BY, "scorer", "measures") if key not in document]:
            raise ValueError(f"no {', '.join(missing)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result written by `redaes evaluate`: {error}") from error
    return document
