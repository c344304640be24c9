"""`redaes evaluate`: how well a model agrees with people on benchmarks, or with the judges on a dataset's groups."""

import json
import signal
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

    from redaes.evaluation.matrix import Settings
    from redaes.evaluation.rivals import Rival, Wanted

MEASURES = {"plcc": "PLCC", "plcc_logistic": "PLCC\nlogistic", "srcc": "SRCC", "srcc_within": "SRCC\nin groups"}
"""Those of a line of the table, where they are measured; --format json has all."""


def evaluate(
    data: str = "data",
    output: str = "evaluation.json",
    model: list[str] | None = None,
    split: Split = "test",
    images: int | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    devices: str | None = None,
    shard: str | None = None,
    runner: str | None = None,
    scorer: list[str] | None = None,
    benchmark: list[str] | None = None,
    root: list[str] | None = None,
    config: str | None = None,
    all: bool = False,
    logistic: bool = False,
    predictions: str = "runs/evaluation",
    html: str | None = None,
    format: Literal["table", "json"] = "table",
    list: bool = False,
) -> int:
    """Score images and measure the agreement with people (--benchmark) or with the judges of a dataset (--data).

    On benchmarks every answer is kept, and a repeated command scores only what is missing. Options that name things can
    be repeated: --benchmark ava --root ava=/data/AVA --benchmark para --root para=/data/PARA --model nano --model M.
    What cannot be done, such as a scorer whose key is not there, is said in a line, and the rest goes on.

    Args:
        data: a dataset folder written by `redaes data build`; not used with benchmarks.
        output: the JSON file to write for --data: measures with 95 % intervals, and every prediction.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package. Default: nano.
        split: train, validation or test.
        images: evaluate about this many images only, drawn at random but always the same; of a dataset whole groups.
        samples: answers about each image, for a scorer that draws them: their mean is the score, and each image of a
            benchmark gets an interval that holds people's score with a probability of 95 %.
        batch_size: images scored at once. Default: the scorer's own choice; of our models 64 if small, else 16.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        devices: one process on each of these, such as 'cuda:0,cuda:1', or on so many GPUs (without a GPU: so many
            processes), for benchmarks.
        shard: score this part of every benchmark only, such as 2/4: one command for each part, all with the same folder
            of predictions. The last one prints the results.
        runner: where the scorers work on benchmarks: a plug-in that can score, such as ray, or a YAML file with its
            class_path and init_args. Default: the key `runner` of --config, else this machine.
        scorer: the plug-in that serves the models (`redaes plugins list`), or a ready configuration of one, such as
            benchmarks/scorers/qwen2.5-vl-7b.yaml, which then says which model.
        benchmark: name of a benchmark (--list), or a YAML file with a plug-in's class_path and init_args.
        root: folder of the official download, or one that holds several; of one benchmark among others NAME=FOLDER.
        config: a YAML file of benchmarks and scorers, such as benchmarks/table1.yaml, in addition to those of options.
        all: every benchmark that is found under --root, with the scorers given, or else all of benchmarks/table1.yaml.
        logistic: measure PLCC also after a logistic curve of four parameters, as papers on image quality do.
        predictions: folder where the answers on benchmarks are kept.
        html: the page to write of the benchmarks evaluated, with every scorer that the folder of predictions has on
            them; without a benchmark of everything in that folder, and nothing is scored.
        format: of what is printed of benchmarks: table for people, json for programs, one line each.
        list: only say which benchmarks there are, where each is obtained, under what terms, and what --root holds.

    Returns:
        The exit code: 0, or 1 where images could not be opened or scored, or something named could not be evaluated.

    Raises:
        UserError: no such dataset or benchmark, no groups in the split, a model that cannot be loaded.
    """
    from redaes.evaluation.rivals import asked_for, scorers_named

    for name, value in (("images", images), ("samples", samples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    if list:
        return _list(root or [], format)
    if html:
        _make_room(Path(html))
    if benchmark or config or all:
        from redaes.evaluation.matrix import Settings, shard_of
        from redaes.evaluation.processes import device_names
        from redaes.evaluation.rivals import planned_runner
        from redaes.inference.pools import runner_named

        where = runner_named(runner) if runner else planned_runner(config) if config else None
        if where is not None and devices:
            raise UserError("a runner places the scorers itself; leave --devices out, or --runner")
        on = tuple(device_names(devices)) if devices else ()
        part = shard_of(shard) if shard else (1, 1)
        settings = Settings(images, samples, batch_size, device, on, part, logistic, where)
        asked = asked_for(benchmark or [], scorer or [], model or [], config, root or [], everything=all)
        return _on_benchmarks(*asked, root or [], Path(predictions), settings, format, html)
    if html:
        return _page(Path(predictions), html)
    rivals = scorers_named(scorer or [], model or [])
    if len(rivals) > 1 or devices or shard or runner:
        raise UserError(
            "--data takes one --model or --scorer, and neither --devices nor --shard nor --runner; "
            "see --benchmark groups"
        )
    return _on_groups(data, output, rivals[0], split, images, samples, batch_size, device)


def _on_groups(
    data: str,
    output: str,
    rival: "Rival",
    split: Split,
    images: int | None,
    samples: int | None,
    batch_size: int | None,
    device: str | None,
) -> int:
    """Measure on the groups of a dataset and write one JSON file."""
    from redaes.evaluation.runner import choose_groups, evaluation_document, predict, write_evaluation
    from redaes.inference.terminal import with_progress

    dataset = Manifest(data)
    groups = choose_groups(dataset.groups(split), images)
    if not groups:
        raise UserError(f"{data} has no groups in the split {split!r}")
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(len(group.members) for group in groups)
    loaded = rival.make(batch_size=batch_size, device=device, samples=samples)
    start = time.monotonic()
    batches = with_progress(predict(dataset, groups, loaded.scorer, loaded.batch_size), total)
    predictions = [prediction for batch in batches for prediction in batch]
    seconds = time.monotonic() - start
    document = evaluation_document(predictions, model=loaded.fingerprint, split=split, dataset=dataset, seconds=seconds)
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


def _on_benchmarks(
    wanted: "Sequence[Wanted]",
    rivals: "Sequence[Rival]",
    roots: Sequence[str],
    folder: Path,
    settings: "Settings",
    format: Literal["table", "json"],
    html: str | None,
) -> int:
    """Score what is missing of each scorer on each benchmark, and print what comes out."""
    from redaes.evaluation.matrix import evaluate_all
    from redaes.evaluation.predictions import Predictions
    from redaes.evaluation.rivals import load_all
    from redaes.inference.terminal import with_progress
    from redaes.pipeline import handling

    benchmarks, faults = load_all(wanted, roots, _say)
    alone, results = len(wanted) * len(rivals) == 1, []
    with handling(signal.default_int_handler):  # a scheduler's SIGTERM too: what has been answered is kept
        for found in evaluate_all(benchmarks, rivals, Predictions(folder), settings, _say, with_progress):
            if isinstance(found, UserError):
                if alone:
                    raise found
                _say(str(found))
                faults += 1
                continue
            results.append(found)
            faults += found["n_unreadable"] + found["n_failed"]
            if format == "json":
                printed = {key: value for key, value in found.items() if key != "left_out_ids"}
                print(json.dumps(printed, allow_nan=False), flush=True)
    if format == "table" and results:
        _show(results)
    if html and results:
        _page(folder, html, [benchmark.name for benchmark in benchmarks])
    return int(faults > 0)


def _make_room(page: Path) -> None:
    """For a page, before the work for it is done."""
    from redaes.evaluation.html import refuse_unwritable

    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write --html {page}: {error.strerror or error}") from error
    refuse_unwritable(page)


def _page(folder: Path, html: str, names: Sequence[str] | None = None) -> int:
    """Show what is on disk."""
    from redaes.evaluation.benchmark_report import write_report

    _say(f"wrote {write_report(folder, html, names)}")
    return 0


def _say(line: str) -> None:
    from redaes.inference.listing import printable

    print(printable(line), file=sys.stderr)


def _list(roots: Sequence[str], format: Literal["table", "json"]) -> int:
    """Where every benchmark comes from, and what there is of it."""
    from dataclasses import asdict

    from redaes.data.benchmarks import about
    from redaes.evaluation.rivals import found_under

    there = found_under(roots)
    if format == "json":
        found = {name: {"found": there[name]} if name in there else {} for name in about()}
        print(json.dumps({name: {**asdict(said), **found[name]} for name, said in about().items()}))
        return 0
    for name, said in about().items():
        images = "" if said.images is None else f", {said.images:,} images"
        print(f"{name}: {said.title}{images}")
        for label, words in (("from", said.source), ("terms", said.licence), ("files", said.layout)):
            print(f"  {label:<6}{words}")
        if name in there:
            print(f"  {'here':<6}{_found(there[name])}")
    return 0


def _found(said: dict[str, Any]) -> str:
    """One line of what is there of a benchmark."""
    if "error" in said:
        return f"no: {said['error']}"
    left_out = "".join(f"; {count:,} {reason}" for reason, count in said["left_out"].items())
    return f"{said['n_found']:,} of {said['n_listed']:,} listed images in {said['images']}{left_out}"


def _show(results: Sequence[dict[str, Any]]) -> None:
    """A line for each benchmark: both correlations with their intervals, and what they rest on."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    counted = ("scored", "drawn", "listed", "missing", "unreadable", "failed", "unparsed")
    measures = {name: title for name, title in MEASURES.items() if any(name in row for row in results)}
    columns = [Column(title, no_wrap=True) for title in measures.values()]
    table = Table("benchmark", Column("scorer", overflow="fold"), *columns)
    for name in counted:
        table.add_column(name, justify="right")
    for row in results:
        missing = row["n_listed"] - row["n_found"]
        broken = (row["n_unreadable"], row["n_failed"], row["n_unparsed"])
        counts = (row["n_scored"], row["n_drawn"], row["n_listed"], missing, *broken)
        cells = [_estimate(row[name]) if name in row else "" for name in measures]
        names = (Text(f"{row['benchmark']}\n{row['split']}"), Text(row["scorer"]))
        table.add_row(*names, *cells, *(f"{count:,}" for count in counts))
    console = Console(width=None if sys.stdout.isatty() else 120 + 18 * len(measures))
    console.print(table)
    if any(row["differences"] for row in results):
        console.print(_differences(results))
    for line in dict.fromkeys(f"{row['benchmark']}: {note}" for row in results for note in row["notes"]):
        console.print(line, highlight=False, markup=False)


def _differences(results: Sequence[dict[str, Any]]) -> "Table":
    """Each two scorers against each other on the same images, the one asked for later first."""
    from rich.table import Table
    from rich.text import Text

    table = Table("benchmark", "difference", "PLCC", "SRCC", "images")
    pairs: dict[tuple[str, frozenset[str]], dict[str, Any]] = {}
    for row in (row for result in results for row in result["differences"]):
        pairs.setdefault((row["benchmark"], frozenset((row["a"], row["b"]))), {})[row["measure"]] = row
    for (benchmark, _), of in pairs.items():
        names = Text(f"{of['plcc']['a']}\nminus {of['plcc']['b']}")
        table.add_row(benchmark, names, *(_estimate(of[name]) for name in ("plcc", "srcc")), f"{of['plcc']['n']:,}")
    return table


def _estimate(measure: dict[str, float | None]) -> str:
    value, low, high = (measure[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "undefined"
    return f"{value:.4f}\n[{low:.3f}, {high:.3f}]"
