"""From a sweep file to steps: what every row of an ablation does, and which steps rows have in common.

A sweep file is W&B's (`parameters.run`, `.seed`, `.preset`, `.rows`); W&B's schema leaves no room for more, so what a
row is stands in the file that `rows` names. A row is a preset's pipeline with words added to its commands. A step's
folder is named by a hash of its command, in which its inputs go by their own hashes: rows that agree up to a step
share it, in one sweep or several with the same output. A row that needs a file, such as AesCoT, names it `${aescot}`;
the file's bytes are part of what its steps are.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from redaes.errors import UserError, nearest
from redaes.pipeline import Pipeline, Step, load_pipeline
from redaes.presets import read_mapping, resolve_config

TRAINED = ("sft", "calibration", "grpo")
STEPS = ("data", "initial", *TRAINED)
_OUTPUT = "SWEEP_OUTPUT"
_FOLDER = re.compile(rf"{_OUTPUT}/({'|'.join(STEPS)})(?=/|$)")


class Row(BaseModel):
    """What distinguishes one row of a table: words by step, steps left out, where it ends, a file it needs.

    Words of `nano` are added on that preset, those of `quick` where steps are shortened.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[str, ...] = ()
    sft: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    grpo: tuple[str, ...] = ()
    nano: dict[str, tuple[str, ...]] = {}
    quick: dict[str, tuple[str, ...]] = {}
    skip: tuple[str, ...] = ()
    last: str = "grpo"
    needs: str | None = None

    def words(self, step: str, preset: str) -> tuple[str, ...]:
        """What is added to the command of a step."""
        own = getattr(self, step) if step in ("data", *TRAINED) else ()
        return (*own, *(self.nano.get(step, ()) if preset == "nano" else ()))


@dataclass(frozen=True)
class Sweep:
    """A sweep file that was read.

    Attributes:
        table: its name.
        title: its description.
        preset: folder of the ready configurations its rows are made of.
        seeds: of data, weights and sampling.
        common: what holds for every row.
        rows: by name, in the table's order.
        reference: the row that the others are compared with, the paper's own.
        file: where it was read from.
        document: the file as it stands, for W&B.
    """

    table: str
    title: str
    preset: str
    seeds: tuple[int, ...]
    common: Row
    rows: dict[str, Row]
    reference: str
    file: Path
    document: dict[str, Any]

    @property
    def files(self) -> set[str]:
        """Names of the files that rows need; `--set` gives them."""
        return {row.needs for row in self.rows.values() if row.needs}


@dataclass(frozen=True)
class Cell:
    """One row with one seed: its settings, its steps in order, where in the sweep's folder its results will lie."""

    run: str
    seed: int
    stage: str
    model: str
    settings: tuple[str, ...]
    steps: tuple[Step, ...]
    evaluation: Path


def load_sweep(path: Path, preset: str | None = None) -> Sweep:
    """Read a sweep file and the rows it names.

    Args:
        path: of the file.
        preset: instead of the file's.

    Raises:
        UserError: unreadable file, no rows, a row that is not described, an unknown key of a row.
    """
    document = read_mapping(path)
    try:
        parameters = document["parameters"]
        names, seeds = parameters["run"]["values"], parameters["seed"]["values"]
        rows_file, ready = parameters["rows"]["value"], parameters["preset"]["value"]
        table = document["name"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: no {error} where a sweep has name and parameters run, seed, preset, rows") from error
    described = read_mapping(resolve_config(rows_file)).get(table)
    if not isinstance(described, dict):
        raise UserError(f"{rows_file} describes no rows of {table!r}, which {path} asks for")
    known = described.get("rows", {})
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise UserError(f"{path}: run {missing!r} is not described in {rows_file} ({nearest(missing, known)})")
    rows = {name: _row(known[name], f"{rows_file}: {table}.rows.{name}") for name in names}
    common = _row(described.get("all", {}), f"{rows_file}: {table}.all")
    reference = described.get("reference", names[-1])
    if reference not in known:
        raise UserError(f"{rows_file}: {table}.reference is {reference!r} ({nearest(str(reference), known)})")
    title = document.get("description", "")
    return Sweep(table, title, preset or ready, tuple(seeds), common, rows, reference, path, document)


def _row(described: Any, where: str) -> Row:
    try:
        row = Row.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {key}: {first['msg']} (keys: {', '.join(Row.model_fields)})") from error
    for key, names in (("last", [row.last]), ("skip", row.skip)):
        unknown = next((name for name in names if name not in TRAINED), None)
        if unknown is not None:
            raise UserError(f"{where}: {key} is {unknown!r} ({nearest(unknown, TRAINED)})")
    if row.last in row.skip or TRAINED[0] in row.skip:
        raise UserError(f"{where}: skip cannot hold {TRAINED[0]}, nor the step that is last")
    return row


def quick_words(preset: str) -> dict[str, tuple[str, ...]]:
    """What shortens the steps of a preset so far that a table takes minutes.

    Raises:
        UserError: the preset has no such settings.
    """
    try:
        path = resolve_config(f"{preset}/quick.yaml")
    except UserError as error:
        raise UserError(f"--quick is for presets with a quick.yaml, such as nano; {preset} has none") from error
    return {step: tuple(words) for step, words in read_mapping(path).items()}


def plan(
    sweep: Sweep,
    output: Path,
    runs: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    quick: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Cell]:
    """The cells of a grid, rows outermost.

    Args:
        sweep: what the rows are.
        output: folder of all steps.
        runs: names of rows.
        seeds: of each row.
        overrides: variables of the preset's pipeline, as key=value.
        quick: words to add last, by step.
    """
    return [_cell(sweep, output, run, seed, overrides, quick or {}) for run in runs for seed in seeds]


def _cell(
    sweep: Sweep, output: Path, run: str, seed: int, overrides: Sequence[str], quick: Mapping[str, tuple[str, ...]]
) -> Cell:
    row = sweep.rows[run]
    files = {name: value for name, _, value in (word.partition("=") for word in overrides) if name in sweep.files}
    settings = tuple(sorted(word for word in overrides if word.partition("=")[0] not in files))
    variables = [*settings, f"seed={seed}", f"output={_OUTPUT}"]
    ready = {s.name: s for s in load_pipeline(resolve_config(f"{sweep.preset}/pipeline.yaml"), variables).steps}
    folders: dict[str, str] = {}

    def make(name: str, added: Sequence[str]) -> Step:
        shortened = (*quick.get(name, ()), *row.quick.get(name, ())) if quick else ()
        step = _addressed(ready[name], [*added, *shortened], folders, output, files)
        folders[name] = step.outputs[0]
        return step

    # Every row starts from one model and is measured on one dataset, whatever it is trained on.
    steps = [make("data", sweep.common.words("data", sweep.preset))]
    measured = folders["data"]
    if "initial" in ready:
        steps.append(make("initial", ()))
    if row.words("data", sweep.preset):
        steps.append(make("data", (*sweep.common.words("data", sweep.preset), *row.words("data", sweep.preset))))
    for name in TRAINED[: TRAINED.index(row.last) + 1]:
        if name in row.skip:
            folders[name] = steps[-1].outputs[0]  # the next one starts from the model before it
        else:
            steps.append(make(name, (*sweep.common.words(name, sweep.preset), *row.words(name, sweep.preset))))
    model = f"{folders[row.last]}/model"
    key = _key(["evaluate", *(word.removeprefix(f"{output}/") for word in (measured, model))])
    evaluation = output / "steps" / f"evaluation-{key}.json"
    words = ("evaluate", "--data", measured, "--model", model, "--output", str(evaluation))
    inputs = (measured, folders[row.last])
    steps.append(Step(name=f"evaluate-{key}", command=words, inputs=inputs, outputs=(str(evaluation),)))
    return Cell(run, seed, row.last, model.removeprefix(f"{output}/"), settings, tuple(steps), evaluation)


def _addressed(
    step: Step, added: Sequence[str], folders: Mapping[str, str], output: Path, files: Mapping[str, str]
) -> Step:
    """A step of a preset with words added, in a folder of its own that is named by what it does."""

    def place(word: str, own: str) -> str:
        return _FOLDER.sub(lambda found: folders.get(found[1], own) if found[1] != step.name else own, word)

    used = [file for name, file in files.items() if any(f"${{{name}}}" in word for word in added)]
    for name, file in files.items():
        added = [word.replace(f"${{{name}}}", file) for word in added]
    words = [*step.command, *added]
    # Where the sweep's folder lies is no part of what a step is.
    key = _key([place(word, "@").replace(f"{output}/", "") for word in words])
    own = str(output / "steps" / f"{step.name}-{key}")
    inputs = (*(place(word, own) for word in step.inputs or ()), *used)
    command = tuple(place(word, own) for word in words)
    return Step(name=f"{step.name}-{key}", command=command, inputs=inputs, outputs=(own,))


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:12]


def as_pipeline(cells: Sequence[Cell], output: Path) -> Pipeline:
    """All steps of all cells, each once, in an order in which they can be done."""
    steps = {step.name: step for cell in cells for step in cell.steps}
    return Pipeline(output=output, steps=tuple(steps.values()))


def registered(sweep: Sweep, runs: Sequence[str], seeds: Sequence[int], words: Sequence[str]) -> dict[str, Any]:
    """A sweep file as W&B is told of it: the grid that was asked for, and an agent's line with the other words.

    Args:
        sweep: the file that was read.
        runs: names of rows.
        seeds: of each row.
        words: to put before the parameters that W&B fills in.
    """
    grid = {"run": {"values": list(runs)}, "seed": {"values": list(seeds)}, "preset": {"value": sweep.preset}}
    line = sweep.document.get("command", ["${env}", "redaes", "sweep", str(sweep.file), "--wandb", "${args}"])
    place = line.index("${args}") if "${args}" in line else len(line)
    command = [*line[:place], *words, *line[place:]]
    return {**sweep.document, "parameters": {**sweep.document["parameters"], **grid}, "command": command}
