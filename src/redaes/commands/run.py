"""`redaes run`: carry out a pipeline; finished steps are skipped, the last line says what came of it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.errors import UserError

if TYPE_CHECKING:
    from redaes.pipeline import Run


def run(
    pipeline: str,
    output: str | None = None,
    start: str | None = None,
    set: list[str] | None = None,
) -> int:
    """Carry out a pipeline, each step in a process of its own.

    A step that is done is skipped; one that was cut off continues. When a configuration has changed, its step and those
    that depend on it start anew. Ends with one line of JSON on stdout, the run's summary, if its report made one.

    Args:
        pipeline: a YAML file, or the name of a ready one: nano.
        output: folder of the run, instead of the pipeline's own.
        start: name of a step to begin anew from (also written --from).
        set: another value for one of the pipeline's variables, as key=value; can be given several times.

    Returns:
        The exit code: 0, or that of the step that failed.

    Raises:
        UserError: no such pipeline or step, or files in the way.
    """
    from redaes.pipeline import Run, load_pipeline
    from redaes.presets import resolve_config

    name = pipeline if Path(pipeline).suffix in (".yaml", ".yml") else f"{pipeline}/pipeline.yaml"
    overrides = [*(set or []), *([f"output={output}"] if output is not None else [])]
    for override in overrides:
        if "=" not in override:
            raise UserError(f"--set {override} has no '='; write --set key=value")
    current = Run(load_pipeline(resolve_config(name), overrides), start)
    code = _steps(current, f"redaes run {pipeline}" + (f" --output {output}" if output else ""))
    _overview(current)
    if code == 0:
        _print_summary(current.folder / "results.json")
    return code


def _steps(current: "Run", again: str) -> int:
    """Carry out what is left; the exit code of the first step that fails."""
    total = len(current.pipeline.steps)
    left = current.left()
    if len(left) < total:
        print(f"{total - len(left)} of {total} steps are done already", file=sys.stderr)
    for number, step in enumerate(current.pipeline.steps, start=1):
        if step not in left:
            continue
        print(f"\n[{number}/{total}] {step.name}: redaes {' '.join(step.command)}", file=sys.stderr, flush=True)
        try:
            state = current.carry_out(step)
        except KeyboardInterrupt:
            print(f"stopped in step {step.name!r}; go on with: {again}", file=sys.stderr)
            raise
        if state.exit_code:
            print(f"step {step.name!r} failed with exit code {state.exit_code}; go on with: {again}", file=sys.stderr)
            return state.exit_code if state.exit_code > 0 else 128 - state.exit_code
    current.record()
    return 0


def _overview(current: "Run") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "status", title=str(current.folder), title_justify="left")
    table.add_column("seconds", justify="right")
    table.add_column("peak MB", justify="right")
    for name, state in current.states.items():
        memory = "" if state.peak_memory_mb is None else f"{state.peak_memory_mb:.0f}"
        table.add_row(name, state.status, "" if state.seconds is None else f"{state.seconds:.1f}", memory)
    Console(stderr=True).print(table)


def _print_summary(results: Path) -> None:
    if results.is_file():
        summary = json.loads(results.read_text(encoding="utf-8")).get("summary", {})
        print(json.dumps(summary), flush=True)
