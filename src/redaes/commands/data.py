"""`redaes data`: build a dataset, look at one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table


def build(
    output: str,
    config: str = "nano/data.yaml",
    photos: str = "",
    seed: int | None = None,
    workers: int | None = None,
    set: list[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Build a dataset of pairs, groups and scores from photographs. A killed build continues where it was.

    Args:
        output: folder of the dataset.
        config: YAML file; names like nano/data.yaml are found in the package too.
        photos: folder of your own photographs instead of the config's source; they are split at random by photograph.
        seed: override the config's seed.
        workers: processes; default one per core. It does not change a byte of the dataset.
        set: override any key of the config, e.g. --set sources.train=50 --set groups.train=5 --set judges.0=pixel/tone.
        overwrite: replace a finished dataset, whatever it was made of.
    """
    from redaes.engine.build import build as build_dataset
    from redaes.engine.config import load_config
    from redaes.engine.runners import ProcessRunner
    from redaes.presets import resolve_config

    replace: dict[str, Any] = {}
    overrides = list(set or [])
    if photos:
        root = photos.replace("${", "\\${")  # a name, not an interpolation
        replace["source"] = {"class_path": "folder", "init_args": {"root": root}}
        overrides = ["split.test=[]", "split.validation=[]", *overrides]
    if seed is not None:
        overrides.append(f"seed={seed}")
    loaded = load_config(resolve_config(config), overrides, replace)
    with _Progress() as progress:
        built = build_dataset(loaded, Path(output), ProcessRunner(workers), progress, overwrite)
    counts = built.info["counts"]
    news = " (already built)" if built.already else ""
    print(f"{output}: {counts['sources']} sources, {counts['pairs']} pairs, {counts['groups']} groups{news}")


def status(dataset: str, format: Literal["table", "json"] = "table") -> None:
    """Show what came through each stage, how the editors did (Tab. 8) and how the judges agreed (Tab. 9).

    Args:
        dataset: folder of a dataset.
        format: table for people, json for programs.
    """
    from redaes.data.manifest import Manifest

    info = Manifest(dataset).info
    if format == "json":
        print(json.dumps({"counts": info["counts"], **info["statistics"]}))
        return
    from rich.console import Console

    console = Console()
    for table in _tables(info["statistics"]):
        console.print(table)


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

    funnel = Table("stage", "kept", title="Funnel", title_justify="left")
    for name in FUNNEL:
        funnel.add_row(name.replace("_", " "), str(statistics["funnel"][name]))
    editors = Table("editor", "VIEScore mean", "success rate", title="Verification (Tab. 8)", title_justify="left")
    for name, row in statistics["verification"].items():
        editors.add_row(name, f"{row['mean']:.2f}", f"{row['success_rate']:.1%}")
    judges = Table("judges", "same direction", title="Agreement (Tab. 9)", title_justify="left")
    for name, rate in statistics["judge_agreement"].items():
        judges.add_row(name, f"{rate:.1%}")
    return [funnel, editors, judges]


class _Progress:
    """A rich bar on a terminal, a line every tenth otherwise; both on stderr."""

    def __enter__(self) -> "_Progress":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = None
        self.tenth = -1
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task("sources", total=None)
            self.bar.start()
        return self

    def __call__(self, done: int, total: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total)
        elif total and 10 * done // total > self.tenth:
            self.tenth = 10 * done // total
            print(f"sources: {done}/{total}", file=sys.stderr, flush=True)

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.stop()
