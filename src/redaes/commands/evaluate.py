"""`redaes evaluate`: how well a model agrees with people on benchmarks, or with the judges on a dataset's groups."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.records import Split

if TYPE_CHECKING:
    from rich.table import Table

    from redaes.data.benchmarks import Benchmark


def evaluate(
    data: str = "data",
    output: str = "evaluation.json",
    model: str = "nano",
    split: Split = "test",
    samples: int | None = None,
    batch_size: int = 16,
    device: str | None = None,
    scorer: str = "redaes",
    benchmark: list[str] | None = None,
    root: list[str] | None = None,
    predictions: str = "runs/evaluation",
    html: str | None = None,
    format: Literal["table", "json"] = "table",
    list: bool = False,
) -> int:
    """Score images and measure the agreement with people (--benchmark) or with the judges of a dataset (--data).

    On benchmarks every answer is kept, and a repeated command scores only what is missing. Several benchmarks are given
    by repeating the option: --benchmark ava --root ava=/data/AVA --benchmark para --root para=/data/PARA.

    Args:
        data: a dataset folder written by `redaes data build`; not used with --benchmark.
        output: the JSON file to write for --data: measures with 95 % intervals, and every prediction.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        split: train, validation or test.
        samples: evaluate about this many images only, drawn at random but always the same; of a dataset whole groups.
        batch_size: images scored at once.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model (`redaes plugins list`), or a ready configuration of one, such as
            benchmarks/scorers/qwen2.5-vl-7b.yaml, which then says which model.
        benchmark: name of a benchmark (--list), or a YAML file with a plug-in's class_path and init_args.
        root: folder of the official download; with several benchmarks NAME=FOLDER.
        predictions: folder where the answers on benchmarks are kept.
        html: the page to write of the benchmarks named, with every scorer that the folder of predictions has on them;
            without --benchmark of everything in that folder, and nothing is scored.
        format: of what is printed of benchmarks: table for people, json for programs, one line each.
        list: only say which benchmarks there are, where each is obtained and under what terms.

    Returns:
        The exit code: 0, or 1 where images could not be opened or scored.

    Raises:
        UserError: no such dataset or benchmark, no groups in the split, a model that cannot be loaded.
    """
    if list:
        return _list(format)
    if benchmark:
        made = [_benchmark(name, root or []) for name in benchmark]
        code = _on_benchmarks(made, scorer, model, batch_size, device, Path(predictions), samples, format)
        return _page(predictions, html, [each.name for each in made]) or code if html else code
    if html:
        return _page(predictions, html)
    return _on_groups(data, output, model, split, samples, batch_size, device, scorer)


def _on_groups(
    data: str,
    output: str,
    model: str,
    split: Split,
    samples: int | None,
    batch_size: int,
    device: str | None,
    scorer: str,
) -> int:
    """Measure on the groups of a dataset and write one JSON file."""
    from redaes.evaluation.runner import choose_groups, evaluation_document, predict, write_evaluation
    from redaes.inference.listing import fingerprint, load_scorer
    from redaes.inference.terminal import with_progress

    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    dataset = Manifest(data)
    groups = choose_groups(dataset.groups(split), samples)
    if not groups:
        raise UserError(f"{data} has no groups in the split {split!r}")
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(len(group.members) for group in groups)
    name = fingerprint(model, scorer)
    loaded = load_scorer(model, scorer=scorer, batch_size=batch_size, device=device)
    start = time.monotonic()
    batches = with_progress(predict(dataset, groups, loaded, batch_size), total)
    predictions = [prediction for batch in batches for prediction in batch]
    seconds = time.monotonic() - start
    document = evaluation_document(predictions, model=name, split=split, dataset=dataset, seconds=seconds)
    write_evaluation(path, document)
    print(_summary(document["metrics"]), file=sys.stderr)
    return 0


def _summary(metrics: "dict[str, dict[str, dict[str, float | None]]]") -> str:
    """The measure that stage 3 trains, and how much of the split it rests on."""
    within = metrics["failures_as_mean"]["srcc_within"]
    value, low, high = ("undefined" if within[k] is None else f"{within[k]:.3f}" for k in ("value", "low", "high"))
    return (
        f"order within groups (SRCC): {value}, 95 % interval {low} to {high}; "
        f"{metrics['n']} images in {metrics['groups']} groups, {metrics['parsed']} answers parsed"
    )


def _benchmark(name: str, roots: Sequence[str]) -> "Benchmark":
    """Load one benchmark from the root that is meant for it."""
    from redaes.presets import read_mapping, resolve_config
    from redaes.registry import create, split_spec

    spec: Any = read_mapping(resolve_config(name)) if name.endswith((".yaml", ".yml")) else name
    known, settings = split_spec(spec)
    named = dict(part.split("=", 1) for part in roots if "=" in part)
    plain = [part for part in roots if "=" not in part]
    root = named.get(known) or (plain[0] if len(plain) == 1 else None)
    if root is None and "root" not in settings:
        raise UserError(f"where is {known}? give --root {known}=FOLDER; `redaes evaluate --list` says where to get it")
    benchmark: Benchmark = create("benchmarks", spec, **({"root": root} if root else {})).load()
    return benchmark


def _on_benchmarks(
    benchmarks: "Sequence[Benchmark]",
    scorer: str,
    model: str,
    batch_size: int,
    device: str | None,
    folder: Path,
    samples: int | None,
    format: Literal["table", "json"],
) -> int:
    """Score what is missing on each benchmark, and print what comes out of each."""
    from redaes.evaluation.benchmarks import drawn, result, score_missing
    from redaes.evaluation.comparison import keep_compared
    from redaes.evaluation.predictions import Predictions
    from redaes.inference.listing import fingerprint, load_scorer
    from redaes.inference.terminal import with_progress
    from redaes.presets import read_mapping, resolve_config
    from redaes.registry import create

    if batch_size < 1 or (samples is not None and samples < 1):
        raise UserError("--batch_size and --samples must be at least 1")
    if scorer.endswith((".yaml", ".yml")):
        ready = read_mapping(resolve_config(scorer))
        name = str(ready.get("name", Path(scorer).stem))
        loaded = create("scorers", ready["scorer"], batch_size=batch_size, device=device)
        mark = getattr(loaded, "fingerprint", "") or f"{name}:{json.dumps(ready['scorer'], sort_keys=True)}"
    else:
        name, loaded = model, load_scorer(model, scorer=scorer, batch_size=batch_size, device=device)
        mark = getattr(loaded, "fingerprint", "") or fingerprint(model, scorer)
    kept, incomplete, results = Predictions(folder), False, []
    for benchmark in benchmarks:
        chosen = drawn(benchmark.items, samples)
        missing = kept.missing(benchmark.name, mark, chosen)
        if len(missing) < len(chosen):
            print(f"{benchmark.name}: {len(chosen) - len(missing)} images are scored already", file=sys.stderr)
        for batch in with_progress(score_missing(benchmark, missing, loaded, mark, kept, batch_size), len(missing)):
            for answer in batch:
                if answer.status in ("unreadable", "failed"):
                    print(f"{benchmark.name}: {answer.id}: {answer.status}: {answer.error}", file=sys.stderr)
        answers = kept.answers(benchmark.name, mark)
        found = result(benchmark, chosen, answers, scorer=name, fingerprint=mark)
        results.append(keep_compared(folder, benchmark, found))
        incomplete |= bool(results[-1]["n_unreadable"] or results[-1]["n_failed"])
        if format == "json":
            print(json.dumps(results[-1], allow_nan=False), flush=True)
    if format == "table":
        _show(results)
    return int(incomplete)


def _page(folder: str, html: str, names: Sequence[str] | None = None) -> int:
    """Show what is on disk."""
    from redaes.evaluation.benchmark_report import write_report

    print(f"wrote {write_report(folder, html, names)}", file=sys.stderr)
    return 0


def _list(format: Literal["table", "json"]) -> int:
    """Where every benchmark comes from."""
    from dataclasses import asdict

    from redaes.data.benchmarks import about

    if format == "json":
        print(json.dumps({name: asdict(said) for name, said in about().items()}))
        return 0
    for name, said in about().items():
        images = "" if said.images is None else f", {said.images:,} images"
        print(f"{name}: {said.title}{images}")
        for label, words in (("from", said.source), ("terms", said.licence), ("files", said.layout)):
            print(f"  {label:<6}{words}")
    return 0


def _show(results: Sequence[dict[str, Any]]) -> None:
    """A line for each benchmark: both correlations with their intervals, and what they rest on."""
    from rich.console import Console
    from rich.table import Table

    counted = ("scored", "drawn", "listed", "missing", "unreadable", "failed", "unparsed")
    table = Table("benchmark", "PLCC", "SRCC")
    for name in counted:
        table.add_column(name, justify="right")
    for row in results:
        missing = row["n_listed"] - row["n_found"]
        broken = (row["n_unreadable"], row["n_failed"], row["n_unparsed"])
        counts = (row["n_scored"], row["n_drawn"], row["n_listed"], missing, *broken)
        cells = [_estimate(row[name]) for name in ("plcc", "srcc")]
        table.add_row(f"{row['benchmark']}\n{row['split']}", *cells, *(f"{count:,}" for count in counts))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    if any(row["differences"] for row in results):
        console.print(_differences(results))
    for row in results:
        for note in row["notes"]:
            console.print(f"{row['benchmark']}: {note}", highlight=False, markup=False)


def _differences(results: Sequence[dict[str, Any]]) -> "Table":
    """Each scorer against every other on the same images."""
    from rich.table import Table

    table = Table("benchmark", "difference", "PLCC", "SRCC", "images")
    for result in results:
        pairs: dict[str, dict[str, dict[str, Any]]] = {}
        for row in result["differences"]:
            pairs.setdefault(row["b"], {})[row["measure"]] = row
        for other, rows in pairs.items():
            cells = [_estimate(rows[name]) for name in ("plcc", "srcc")]
            images = f"{rows['srcc']['n']:,}"
            table.add_row(result["benchmark"], f"{rows['srcc']['a']}\nminus {other}", *cells, images)
    return table


def _estimate(measure: dict[str, float | None]) -> str:
    value, low, high = (measure[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "undefined"
    return f"{value:.4f}\n[{low:.3f}, {high:.3f}]"
