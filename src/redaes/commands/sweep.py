"""`redaes sweep`: an ablation's grid of rows and seeds; `redaes sweep report`: what came of it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.errors import UserError, nearest

if TYPE_CHECKING:
    from redaes.sweeps.plan import Sweep


def sweep(
    file: str,
    seeds: int | None = None,
    seed: int | None = None,
    run: list[str] | None = None,
    preset: str | None = None,
    rows: str | None = None,
    jobs: int = 1,
    output: str = "runs/sweeps",
    set: list[str] | None = None,
    quick: bool = False,
    wandb: bool = False,
) -> int:
    """Carry out a sweep file on this computer. What is done is skipped, what was cut off goes on.

    Args:
        file: a W&B sweep file, or a ready one: sweeps/table2.yaml to sweeps/table6.yaml.
        seeds: seeds 0 .. N-1 instead of the file's.
        seed: this one seed; what W&B's agent passes.
        run: these rows only; can be given several times (also written --only).
        preset: nano, redaes-2b, redaes-3b or redaes-7b, instead of the file's.
        rows: for W&B's agent, which passes every parameter; the file itself says it.
        jobs: steps at the same time.
        output: folder of steps and results; sweeps that share it share steps.
        set: another value for a variable of the preset's pipeline, or a file that a row needs (aescot=FILE), as
            key=value; can be given several times.
        quick: shortened steps: a table in minutes instead of hours.
        wandb: register the sweep with W&B and start an agent; inside one, or offline, log the results to W&B.

    Returns:
        The exit code: 0, or 1 if a step failed.

    Raises:
        UserError: no such file, row or preset; wandb is not installed.
    """
    from redaes.pipeline import Run
    from redaes.presets import resolve_config
    from redaes.sweeps.plan import as_pipeline, load_sweep, plan, quick_words, registered
    from redaes.sweeps.results import record
    from redaes.sweeps.work import alone_in, carry_out

    if jobs < 1 or (seeds is not None and seeds < 1):
        raise UserError("--jobs and --seeds must be at least 1")
    loaded = load_sweep(resolve_config(file), preset)
    overrides = list(set or [])
    names = _runnable(loaded, run, overrides)
    words = quick_words(loaded.preset) if quick else None
    chosen = [seed] if seed is not None else loaded.seeds if seeds is None else range(seeds)
    if wandb and not _logs_here():
        line = ["--output", output, *(word for value in overrides for word in ("--set", value))]
        line += [*(["--jobs", str(jobs)] if jobs > 1 else ()), *(["--quick"] if quick else ())]
        return _agent(registered(loaded, names, chosen, line))
    folder = Path(output)
    cells = plan(loaded, folder, names, chosen, overrides, words)
    commit = _commit()
    if not cells:
        return 0
    with alone_in(folder, _say):
        current = Run(as_pipeline(cells, folder))
        _say(f"{len(cells)} runs, {len(current.states)} steps, {len(current.left())} of them left to do")

        def note() -> list[dict[str, Any]]:
            return record(folder, loaded, cells, current.states, quick, commit)

        note()
        failed = carry_out(current, jobs, _say, note)
        measured = note()
        if wandb:
            _log(measured, loaded.document.get("project"))
    for cell in cells:
        broken = next((step.name for step in cell.steps if step.name in failed), None)
        if broken:
            _say(f"{cell.run} seed {cell.seed}: not done, {broken}: {failed[broken]}")
    print(folder / "results.parquet")
    return 1 if failed else 0


def report(folder: str, output: str | None = None, html: str | None = None) -> int:
    """What a sweep's folder says of every table: means with intervals, differences from the paper's own row, in words.

    Args:
        folder: as given to `redaes sweep --output`.
        output: the markdown file to write; stdout without this and --html.
        html: a page to write that needs no network, with each seed as a dot.

    Returns:
        The exit code, 0.

    Raises:
        UserError: no results there, or a file that cannot be written.
    """
    from redaes.sweeps.results import read

    rows = read(Path(folder))
    try:
        if html:
            from redaes.sweeps.page import page

            Path(html).write_text(page(rows), encoding="utf-8")
            print(html)
        if output or not html:
            from redaes.sweeps.reading import markdown

            if output:
                Path(output).write_text(markdown(rows), encoding="utf-8")
            else:
                print(markdown(rows))
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error
    return 0


def _runnable(loaded: "Sweep", run: list[str] | None, overrides: list[str]) -> list[str]:
    """The rows asked for, without those that need a file nobody has given."""
    for name in run or ():
        if name not in loaded.rows:
            raise UserError(f"{loaded.table} has no run {name!r} ({nearest(name, loaded.rows)})")
    given = {key: value for key, _, value in (word.partition("=") for word in overrides) if key in loaded.files}
    for key, file in given.items():
        if not Path(file).is_file():
            raise UserError(f"--set {key}={file}: no such file")
    names = []
    for name in run or loaded.rows:
        needed = loaded.rows[name].needs
        if needed and needed not in given:
            _say(f"{name} is skipped: it needs a file, --set {needed}=FILE")
        else:
            names.append(name)
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _commit() -> str:
    """Of the sources, where they are a repository; else the version."""
    from redaes import __version__

    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__


def _logs_here() -> bool:
    """Whether this process is an agent's, or offline, where nothing can be registered."""
    return bool(os.environ.get("WANDB_SWEEP_ID")) or os.environ.get("WANDB_MODE") in ("offline", "disabled")


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("--wandb needs the package wandb; pip install 'redaes[wandb]'") from error
    return wandb


def _agent(document: dict[str, Any]) -> int:
    """Register a sweep and work on it until its grid is done; the agent runs the file's own command."""
    wandb = _wandb()
    project = document.get("project", "redaes")
    identity = wandb.sweep(document, project=project)
    return subprocess.run(
        [sys.executable, "-m", "wandb", "agent", "--project", project, identity], check=False
    ).returncode


def _log(rows: list[dict[str, Any]], project: str | None) -> None:
    """One run of W&B for each row of the results; inside an agent, the agent's own run."""
    wandb = _wandb()
    facts = ("table", "preset", "quick", "settings", "run", "seed", "stage", "model", "reference", "commit")
    for row in rows:
        config = {key: row[key] for key in facts}
        name = f"{row['table']}/{row['run']}/{row['seed']}"
        logged = wandb.init(project=project or "redaes", group=row["table"], name=name, config=config)
        logged.log({key: value for key, value in row.items() if key not in config and value is not None})
        logged.finish()
