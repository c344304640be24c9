"""Pipelines: a file of steps, each a command that one could type, run one after the other and skipped when done.

A pipeline is YAML with `output`, any other variables, and `steps`:

    output: runs/nano
    steps:
      - name: data
        command: [data, build, "${output}/data", --config, nano/data.yaml]
        outputs: ["${output}/data"]

Every step has a fingerprint: of its command, the bytes of its configuration and input files, the version of redaes and
the fingerprints of the earlier steps whose outputs it reads (all earlier ones, if it names no inputs). A step is done
when its marker in `<output>/.steps/` holds its fingerprint and its outputs exist. One that was cut off is started again
on top of what it left, since every command of ours continues where it was; one whose fingerprint has changed starts
from nothing. Nothing heavy is imported here: a step's memory is gone when the step ends.
"""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redaes import __version__
from redaes.errors import UserError, nearest
from redaes.presets import resolve_config

Status = Literal["waiting", "running", "done", "failed", "interrupted"]


class Step(BaseModel):
    """One command of a pipeline."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    command: tuple[str, ...] = Field(min_length=1, description="the words after `redaes`")
    inputs: tuple[str, ...] | None = Field(None, description="files and folders it reads; None: of all earlier steps")
    outputs: tuple[str, ...] = Field((), description="files and folders it writes, inside the run's folder")


class Pipeline(BaseModel):
    """A run's folder and the steps that fill it; other keys are variables for `${...}`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    output: Path
    steps: tuple[Step, ...] = Field(min_length=1)


@dataclass
class State:
    """What is known of one step; `seconds` and memory are of all attempts with this fingerprint."""

    fingerprint: str
    status: Status = "waiting"
    seconds: float | None = None
    peak_memory_mb: float | None = None
    exit_code: int | None = None


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline and fill in its variables.

    Args:
        path: the YAML file.
        overrides: `key=value`, applied before `${...}` is filled in.

    Raises:
        UserError: unreadable file, unknown key of a step, two steps of one name, outputs outside the run's folder.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        pipeline = Pipeline.model_validate(OmegaConf.to_container(merged, resolve=True))
    except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path}: {_problem(error)}") from error
    names = [step.name for step in pipeline.steps]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two steps are called {twice!r}")
    for step in pipeline.steps:
        for output in step.outputs:
            if not _within(Path(output), pipeline.output) or Path(output).resolve() == pipeline.output.resolve():
                raise UserError(f"{path}: step {step.name!r} writes {output}, which is not inside {pipeline.output}")
    return pipeline


def _problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r} ({nearest(str(first['loc'][-1]), Step.model_fields)})"
    return f"{where or 'the file'}: {first['msg']}"


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def fingerprints(pipeline: Pipeline) -> dict[str, str]:
    """The fingerprint of every step, by name.

    Raises:
        UserError: an input or configuration that neither exists nor is made by an earlier step.
    """
    made: dict[str, str] = {}
    earlier: list[Step] = []
    for step in pipeline.steps:
        needed, files = _needs(step, earlier)
        parts: list[Any] = [__version__, step.command, [made[name] for name in needed]]
        parts += [[name, _digest(path)] for name, path in files]
        made[step.name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        earlier.append(step)
    return made


def _needs(step: Step, earlier: Sequence[Step]) -> tuple[list[str], list[tuple[str, Path]]]:
    """Names of the steps it depends on, and the files from outside whose bytes count."""
    files = [(name, resolve_config(name)) for name in _configs(step.command)]
    if step.inputs is None:
        return [before.name for before in earlier], files
    needed: list[str] = []
    for name in step.inputs:
        makers = [e.name for e in earlier if any(_overlap(Path(name), Path(output)) for output in e.outputs)]
        if makers:
            needed += makers
        elif Path(name).exists():
            files.append((name, Path(name)))
        else:
            raise UserError(f"step {step.name!r} reads {name}, which neither exists nor is written by an earlier step")
    return list(dict.fromkeys(needed)), files


def _overlap(a: Path, b: Path) -> bool:
    return _within(a, b) or _within(b, a)


def _configs(command: Sequence[str]) -> list[str]:
    """The values of every `--config`."""
    named = [word.removeprefix("--config=") for word in command if word.startswith("--config=")]
    return named + [after for word, after in itertools.pairwise(command) if word in ("--config", "-c")]


def _digest(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(path.parent)).encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


class Run:
    """A pipeline being carried out, with its markers and `run.json`.

    Args:
        pipeline: what to do.
        start: name of a step to begin anew from; the earlier ones are taken as they are.
    """

    def __init__(self, pipeline: Pipeline, start: str | None = None) -> None:
        self.pipeline = pipeline
        self.folder = pipeline.output
        self._noting = threading.Lock()
        prints = fingerprints(pipeline)
        if start is not None and start not in prints:
            raise UserError(f"there is no step {start!r} ({nearest(start, prints)})")
        self.states = {step.name: self._recall(step, prints[step.name]) for step in pipeline.steps}
        if start is not None:
            self._begin_from(start, prints)

    def _recall(self, step: Step, fingerprint: str) -> State:
        marker = self._marker(step)
        state = State(**json.loads(marker.read_text("utf-8"))) if marker.is_file() else State("")
        if state.fingerprint != fingerprint:
            return State(fingerprint)
        if state.status == "done" and not all(Path(output).exists() for output in step.outputs):
            return State(fingerprint)
        return state

    def _begin_from(self, start: str, prints: dict[str, str]) -> None:
        names = list(prints)
        for name in names[: names.index(start)]:
            marker = self.folder / ".steps" / f"{name}.json"
            before = State(**json.loads(marker.read_text("utf-8"))) if marker.is_file() else State("")
            if before.status != "done":
                raise UserError(f"--from {start}: step {name!r} before it has not finished in {self.folder}")
            self.states[name] = before
        for name in names[names.index(start) :]:
            self.states[name] = State(prints[name])

    def _marker(self, step: Step) -> Path:
        return self.folder / ".steps" / f"{step.name}.json"

    def left(self) -> list[Step]:
        """The steps that are not done, in order."""
        return [step for step in self.pipeline.steps if self.states[step.name].status != "done"]

    def carry_out(self, step: Step) -> State:
        """Run one step to its end.

        Raises:
            UserError: it would write over files that no pipeline has made, or did not write what it should.
            KeyboardInterrupt: the step was interrupted; it has been told and has ended.
        """
        state = self.states[step.name]
        if state.status == "waiting":
            self._clear(step)
        self._note(step, "running")
        began = time.monotonic()
        code, memory, received = execute([sys.executable, "-m", "redaes", *step.command])
        state.seconds = round((state.seconds or 0.0) + time.monotonic() - began, 2)
        state.peak_memory_mb = max(filter(None, (memory, state.peak_memory_mb)), default=None)
        state.exit_code = code
        missing = [output for output in step.outputs if not Path(output).exists()]
        done = code == 0 and not missing and received is None
        self._note(step, "done" if done else "failed" if received is None else "interrupted")
        if received is not None:
            raise KeyboardInterrupt
        if code == 0 and missing:
            raise UserError(f"step {step.name!r} ended well but did not write {missing[0]}")
        return state

    def _clear(self, step: Step) -> None:
        """Remove what an earlier, different run of the step has written; refuse to touch anything else."""
        for output in map(Path, step.outputs):
            if not output.exists() or (output.is_dir() and not any(output.iterdir())):
                continue
            if not self._marker(step).is_file():
                raise UserError(
                    f"{output} exists and was not made by this pipeline; move it, or choose another --output"
                )
            if output.is_dir():
                shutil.rmtree(output)
            else:
                output.unlink()

    def _note(self, step: Step, status: Status) -> None:
        with self._noting:  # steps may be carried out in several threads
            self.states[step.name].status = status
            _write(self._marker(step), vars(self.states[step.name]))
            self.record()

    def record(self) -> None:
        """Write `run.json`: seconds, memory and status of every step."""
        keys = ("status", "seconds", "peak_memory_mb", "exit_code")
        steps = {
            step.name: {key: getattr(self.states[step.name], key) for key in keys} | {"command": step.command}
            for step in self.pipeline.steps
        }
        _write(self.folder / "run.json", {"version": __version__, "steps": steps})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


INHERITED: set[int] = set()
"""File descriptors that commands keep open as long as they run, such as that of a lock."""

RUNNING: set[int] = set()
"""Process groups of the commands being carried out now."""


def execute(command: Sequence[str]) -> tuple[int, float | None, int | None]:
    """Run a command to its end; its output goes to stderr, so that stdout stays ours.

    SIGINT and SIGTERM are passed on to the command and its children, once for each time that we get them, and we
    wait for them to end. Outside the main thread no signal arrives: there the caller passes it on to `RUNNING`.

    Returns:
        Exit code, peak memory in MB (None where the system does not tell), and the signal we got (None without).
    """
    received: list[int] = []
    process = subprocess.Popen(command, stdout=sys.stderr.fileno(), process_group=0, pass_fds=tuple(INHERITED))

    def pass_on(signum: int, _: Any) -> None:
        received.append(signum)
        os.killpg(process.pid, signum)

    RUNNING.add(process.pid)
    try:
        with handling(pass_on):
            _, status, usage = os.wait4(process.pid, 0)
    finally:
        RUNNING.discard(process.pid)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1024 if sys.platform != "darwin" else 1  # ru_maxrss is in KiB, on macOS in bytes
    return process.returncode, round(usage.ru_maxrss * unit / 1e6, 1), received[0] if received else None


@contextmanager
def handling(handler: Any) -> Iterator[None]:
    """Have SIGINT and SIGTERM call a handler; outside the main thread, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
