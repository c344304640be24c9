"""`redaes data`: build a dataset, look at one, ask again what was given up."""

import json
import os
import sys
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redaes.data.manifest import Manifest
from redaes.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from redaes.engine.config import EngineConfig

INTERRUPTED = 130


def build(
    output: str,
    config: str = "nano/data.yaml",
    photos: str = "",
    seed: int | None = None,
    mode: Literal["lazy", "eager"] | None = None,
    workers: int | None = None,
    budget: float | None = None,
    ledger: str = "",
    runner: str = "",
    set: list[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Build a dataset of pairs, groups and scores from photographs. A stopped build continues where it was.

    Args:
        output: folder of the dataset.
        config: YAML file; names like nano/data.yaml are found in the package too.
        photos: folder of your own photographs instead of the config's source; they are split at random by photograph.
        seed: override the config's seed.
        mode: lazy asks only what can change the dataset, eager everything; both give the same pairs and groups.
        workers: sources at the same time; default as many as cores or the calls in flight need. It does not change a
            byte of the dataset.
        budget: what the calls in the ledger may cost in all, in the price table's currency.
        ledger: folder of the answers, which several datasets may share; default the output with .ledger at its end.
        runner: how the work is spread: processes, threads, serial, or a package's, such as ray, over a cluster. It
            does not change a byte either. Default: the config's, or what suits the plug-ins.
        set: override any key of the config, e.g. --set sources.train=50 --set groups.train=5 --set judges.0=pixel/tone.
        overwrite: replace a finished dataset, whatever it was made of.
    """
    from redaes.engine.config import load_config
    from redaes.presets import resolve_config

    replace: dict[str, Any] = {}
    overrides = list(set or [])
    if photos:
        root = photos.replace("${", "\\${")  # a name, not an interpolation
        replace["source"] = {"class_path": "folder", "init_args": {"root": root}}
        overrides = ["split.test=[]", "split.validation=[]", *overrides]
    for key, value in (("seed", seed), ("mode", mode), ("runner", runner or None)):
        if value is not None:
            overrides.append(f"{key}={value}")
    loaded = load_config(resolve_config(config), overrides, replace)
    return _build(_with_flow(loaded, workers, budget), Path(output), ledger, overwrite)


def retry(output: str, workers: int | None = None, budget: float | None = None, ledger: str = "") -> int:
    """Ask again what was given up, and put the dataset together anew.

    Args:
        output: folder of the dataset, as it was built.
        workers: as for build; default as it was built.
        budget: as for build; default as it was built.
        ledger: as for build.
    """
    from redaes.engine.build import choose_runner, ledger_of, noted_build, open_ledger, read_ledger
    from redaes.engine.config import EngineConfig
    from redaes.engine.preflight import check_before_paying
    from redaes.engine.stages import Crew

    path = Path(output)
    folder = ledger or ledger_of(path)
    with read_ledger(folder, output) as book:
        noted = noted_build(book, path)
    if noted is None:
        raise UserError(f"nothing was built at {output} with the ledger {folder}; run `redaes data build` first")
    values = {**noted.config, "flow": noted.flow, "runner": noted.runner}
    loaded = _with_flow(EngineConfig.model_validate(values), workers, budget)
    crew = Crew.from_config(loaded)
    check_before_paying(crew, loaded)  # what cannot be asked again is not forgotten
    with open_ledger(folder, output, choose_runner(loaded, crew)) as book:
        forgotten = book.forget_failures()
    news = f"{forgotten} calls that were given up are asked again" if forgotten else "no call was given up"
    print(f"{output}: {news}", file=sys.stderr)
    finished = (path / "manifest.json").is_file()
    left_out = finished and Manifest(path).info["counts"].get("incomplete", 0) > 0
    return _build(loaded, path, ledger, overwrite=left_out)


def _with_flow(config: "EngineConfig", workers: int | None, budget: float | None) -> "EngineConfig":
    """The configuration with what the command line says of the flow."""
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")
    if budget is not None and not 0 <= budget < inf:
        raise UserError(f"budget is {budget}; give 0 or more")
    said = {key: value for key, value in (("workers", workers), ("budget", budget)) if value is not None}
    return config.model_copy(update={"flow": config.flow.model_copy(update=said)})


def _build(config: "EngineConfig", output: Path, ledger: str, overwrite: bool) -> int:
    """Build with a view of the progress; returns the exit code."""
    from redaes.commands.data_progress import Progress
    from redaes.engine.build import build as build_dataset
    from redaes.sources.listing import printable

    progress = Progress()
    try:
        with progress:
            built = build_dataset(config, output, None, progress, overwrite, ledger or None)
    except KeyboardInterrupt:
        print(f"interrupted with {progress.reached} finished; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    counts = built.info["counts"]
    news = " (already built)" if built.already else ""
    print(f"{output}: {counts['sources']} sources, {counts['pairs']} pairs, {counts['groups']} groups{news}")
    for reason in progress.reasons:
        print(f"left out: {printable(reason)}", file=sys.stderr)
    if counts.get("incomplete"):
        print(
            f"{counts['incomplete']} sources are left out, for calls about them were given up; "
            f"`redaes data retry {output}` asks again",
            file=sys.stderr,
        )
    return 1 if counts.get("incomplete") else 0


def status(dataset: str, format: Literal["table", "json"] = "table", ledger: str = "") -> None:
    """Show what came through each stage, how the editors did (Tab. 8) and how the judges agreed (Tab. 9).

    Of a dataset that is not finished, and of a ledger, it shows the calls that were made so far.

    Args:
        dataset: folder of a dataset, or of a ledger.
        format: table for people, json for programs.
        ledger: as for build.
    """
    from redaes.engine.build import is_distributed, ledger_of

    path = Path(dataset)
    if (path / "manifest.json").is_file():
        info = Manifest(path).info
        told: dict[str, Any] = {"counts": info["counts"], **info["statistics"]}
        tables = _tables(info["statistics"])
    else:
        places: list[str | Path] = [ledger] if ledger else [dataset, ledger_of(path)]
        found = (place for place in places if is_distributed(place) or (Path(place) / "ledger.sqlite").is_file())
        folder = next(found, None)
        if folder is None:
            raise UserError(f"no dataset at {dataset}, finished or begun; make one with `redaes data build`")
        told = _standing(folder, path)
        tables = _standing_tables(told)
    if format == "json":
        print(json.dumps(told))
        return
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


def _standing(folder: Path | str, output: Path) -> dict[str, Any]:
    """What a ledger says of itself and of the latest build of a dataset on it."""
    from redaes.engine.build import noted_builds, read_ledger

    with read_ledger(folder) as book:
        builds = [
            {"output": noted.output, "sources": noted.sources, "done": book.results_count(noted.mark)}
            for noted in noted_builds(book)
            if str(output) == str(Path(folder)) or noted.output == os.path.abspath(output)
        ]
        return {"builds": builds, "calls": [total._asdict() for total in book.totals()]}


def _standing_tables(told: dict[str, Any]) -> "list[Table]":
    from rich.table import Table

    builds = Table("dataset", "sources", "done", title="Builds", title_justify="left")
    for build in told["builds"]:
        builds.add_row(build["output"], str(build["sources"]), str(build["done"]))
    columns = ("role", "plug-in", "model", "status", "calls", "tokens", "cost")
    calls = Table(*columns, title="Calls", title_justify="left")
    for row in told["calls"]:
        tokens = row["input_tokens"] + row["output_tokens"]
        said = [row["role"], row["plugin"], row["model"], row["status"]]
        calls.add_row(*said, str(row["calls"]), str(tokens), f"{row['cost']:.4f}")
    return [builds, calls]


def repair(dataset: str) -> None:
    """Make the database of a damaged ledger anew, from the ledger's own copy of every row. The old one is kept aside.

    Args:
        dataset: the dataset that is built, or the folder of its ledger.
    """
    from redaes.engine.recovery import repair as repair_ledger

    done = repair_ledger(dataset)
    print(f"{done.folder}: {done.calls} calls")
    if done.aside:
        print(f"the old database is kept in {done.aside}")
    if done.damaged_lines:
        print(f"{done.damaged_lines} lines of its segments are damaged; {done.rescued} rows came from the old database")


def _tables(statistics: dict[str, Any]) -> "list[Table]":
    from rich.table import Table

    from redaes.engine.statistics import FUNNEL

    biased = statistics.get("biased", [])
    funnel = Table("stage", "kept", title="Funnel", title_justify="left")
    for name in FUNNEL:
        funnel.add_row(name.replace("_", " "), str(statistics["funnel"][name]))
    title = "Verification (Tab. 8)" + _caveat("verification", biased)
    editors = Table("editor", "VIEScore mean", "success rate", title=title, title_justify="left")
    for name, row in statistics["verification"].items():
        editors.add_row(name, f"{row['mean']:.2f}", f"{row['success_rate']:.1%}")
    title = "Agreement (Tab. 9)" + _caveat("judge_agreement", biased)
    judges = Table("judges", "same direction", title=title, title_justify="left")
    for name, rate in statistics["judge_agreement"].items():
        judges.add_row(name, f"{rate:.1%}")
    calls = Table("calls", "made", "saved, at least", title="Calls", title_justify="left")
    for role, count in statistics.get("calls", {}).items():
        calls.add_row(role, str(count["made"]), str(count["saved"]))
    return [funnel, editors, judges, calls]


def _caveat(table: str, biased: list[str]) -> str:
    return ", biased: a lazy build" if table in biased else ""
