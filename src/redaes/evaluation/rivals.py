"""What is evaluated on what: scorers and benchmarks as somebody names them, by options or in a file.

benchmarks:                          # name: folder, or settings; nothing: the folder that --root gives
  ava: /data/AVA
  flickr_aes: {root: /data/FLICKR-AES, list_file: /data/FLICKR-AES/test_list.json}
  holidays: {class_path: csv, root: /data/holidays.csv}
scorers:                             # ready configurations, or plug-ins with a name
  - benchmarks/scorers/qwen2.5-vl-7b.yaml
  - {name: mine, scorer: {class_path: redaes, init_args: {model: runs/nano/grpo/model}}}
runner: ray                          # where they score: a plug-in that can, or its settings; nothing: this machine
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redaes.data.benchmarks import Benchmark, about
from redaes.errors import UserError
from redaes.inference import Score, ScorerProtocol, combined
from redaes.inference.asking import LoadedScorer, images_at_once
from redaes.presets import read_mapping, resolve_config
from redaes.registry import PluginSpec, create, identity_of, load_plugin, split_spec
from redaes.scorers.questions import digest

TABLE_1 = "benchmarks/table1.yaml"
SHOWN = 5
"""Names that are said of what was left out of a benchmark; all of them are in its results."""


@dataclass(frozen=True)
class Rival:
    """A scorer that is not made yet.

    Attributes:
        name: for people.
        spec: plug-in and settings.
    """

    name: str
    spec: PluginSpec

    def make(
        self, *, batch_size: int | None = None, device: str | None = None, samples: int | None = None
    ) -> LoadedScorer:
        """Open it.

        Args:
            batch_size: images at once; None: what its settings say, or its own choice.
            device: where the model runs; None likewise.
            samples: answers about each image; None likewise.

        Raises:
            UserError: no such plug-in, a setting that cannot be, no weights, or several answers of a scorer that always
                gives the same one.
        """
        name, settings = split_spec(self.spec)
        given = {"batch_size": batch_size, "device": device}
        settings |= {key: value for key, value in given.items() if value is not None}
        draws = "samples" in inspect.signature(load_plugin("scorers", name)).parameters
        if draws and samples is not None:
            settings["samples"] = samples
        try:
            scorer: ScorerProtocol = create("scorers", {"class_path": name, "init_args": settings})
            mark = self._fingerprint(name, settings, scorer)
        except UserError:
            raise
        except Exception as error:  # whatever a scorer of another package raises
            raise UserError(f"it cannot be opened: {type(error).__name__}: {error}") from error
        if samples is not None and samples > 1 and not draws:
            if getattr(scorer, "deterministic", True):
                raise UserError(f"{self.name} answers the same each time; samples {samples} need a scorer that draws")
            scorer, mark = _Repeated(scorer, samples), f"{mark}x{samples}"
        return LoadedScorer(self.name, mark, scorer, images_at_once(scorer, batch_size))

    def _fingerprint(self, plugin: str, settings: Mapping[str, Any], scorer: ScorerProtocol) -> str:
        """The scorer's own, or a digest of class, settings, version of its package and, of a folder, its weights."""
        from redaes.inference.listing import hash_folder

        own = getattr(scorer, "fingerprint", "")
        if own:
            return str(own)
        asked = {key: value for key, value in settings.items() if key not in ("batch_size", "device")}
        identity = identity_of("scorers", {"class_path": plugin, "init_args": asked}, scorer)
        model = asked.get("model")
        if isinstance(model, str) and Path(model).is_dir():
            identity["weights"] = hash_folder(Path(model))
        return digest(self.name, identity)


class _Repeated:
    """A scorer that draws one answer a call, asked several times."""

    deterministic = False

    def __init__(self, scorer: ScorerProtocol, samples: int) -> None:
        self.scorer, self.samples = scorer, samples
        self.batch_size = getattr(scorer, "batch_size", None)

    def score(self, images: Any) -> list[Score]:
        """Mean and deviation of so many answers about each image."""
        draws = [self.scorer.score(images) for _ in range(self.samples)]
        return [combined(said) for said in zip(*draws, strict=True)]


@dataclass(frozen=True)
class Wanted:
    """A benchmark that is not read yet.

    Attributes:
        name: by which it is called here; of an own table or a dataset also in the results.
        spec: plug-in and settings.
        expected: whether somebody named it, so that it is a fault if it is not there.
    """

    name: str
    spec: PluginSpec
    expected: bool = True

    def load(self, roots: Sequence[str] = ()) -> Benchmark:
        """Read it.

        Args:
            roots: `NAME=FOLDER` for some benchmarks, `FOLDER` for all others: the download, or a folder of downloads.

        Raises:
            UserError: it is not there, or not as it is officially distributed.
        """
        plugin, settings = split_spec(self.spec)
        named = dict(root.split("=", 1) for root in roots if "=" in root)
        plain = [root for root in roots if "=" not in root]
        root = named.get(self.name) or (plain[0] if len(plain) == 1 and "root" not in settings else None)
        if root is None and "root" not in settings:
            if len(plain) > 1:
                raise UserError(f"--root is {' and '.join(plain)}; give one folder, or {self.name}=FOLDER for this one")
            raise UserError(
                f"where is {self.name}? give --root {self.name}=FOLDER; `redaes evaluate --list` says where to get it"
            )
        loaded = located(self.spec, root) if root else create("benchmarks", self.spec).load()
        benchmark: Benchmark = replace(loaded, name=self.name) if loaded.name == plugin else loaded
        return benchmark


def located(spec: PluginSpec, folder: str | Path) -> Benchmark:
    """A benchmark in a folder, or in a folder inside it.

    Raises:
        UserError: in neither; it says what the folder lacks.
    """
    try:
        found: Benchmark = create("benchmarks", spec, root=str(folder)).load()
    except UserError:
        for place in sorted(path for path in Path(folder).glob("*") if path.is_dir()):
            with suppress(UserError):
                found = create("benchmarks", spec, root=str(place)).load()
                return found
        raise
    return found


def load_all(wanted: Sequence[Wanted], roots: Sequence[str], say: Callable[[str], None]) -> tuple[list[Benchmark], int]:
    """Read benchmarks, and say what was left out of each and what is not there.

    Args:
        wanted: which.
        roots: as of `Wanted.load`.
        say: is called with a line for people.

    Returns:
        Those that are there, and how many are not although somebody named them.

    Raises:
        UserError: none is there.
    """
    loaded: list[Benchmark] = []
    faults = 0
    for each in wanted:
        try:
            loaded.append(each.load(roots))
        except UserError as error:
            if len(wanted) == 1:
                raise
            say(f"{each.name}: {error}")
            faults += each.expected
            continue
        for reason, ids in loaded[-1].left_out.items():
            more = ", ..." if len(ids) > SHOWN else ""
            say(f"{each.name}: {len(ids):,} {reason}: {', '.join(ids[:SHOWN])}{more}")
    if not loaded:
        none = f"none of {', '.join(each.name for each in wanted)} is there" if wanted else "no benchmark is named"
        raise UserError(f"{none}; `redaes evaluate --list` says which there are and where to get them")
    return loaded, faults


def official() -> list[Wanted]:
    """The benchmarks that others distribute, which a folder can be searched for; an own table is none."""
    return [Wanted(name, name, expected=False) for name, said in about().items() if said.images is not None]


def found_under(roots: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What there is of each official benchmark, and of others that a root names; nothing without roots.

    Returns:
        By name the folder of its `images`, `n_listed`, `n_found` and the counts of `left_out`; or the `error`.
    """
    named = [Wanted(root.partition("=")[0], root.partition("=")[0]) for root in roots if "=" in root]
    found: dict[str, dict[str, Any]] = {}
    for wanted in {each.name: each for each in (*official(), *named)}.values() if roots else ():
        try:
            benchmark = wanted.load(roots)
        except UserError as error:
            found[wanted.name] = {"error": str(error)}
            continue
        found[wanted.name] = {
            "images": os.path.commonpath({item.path.parent for item in benchmark.items}),
            "n_listed": benchmark.n_listed,
            "n_found": len(benchmark.items),
            "left_out": {reason: len(ids) for reason, ids in benchmark.left_out.items()},
        }
    return found


def asked_for(
    benchmarks: Sequence[str],
    scorers: Sequence[str],
    models: Sequence[str],
    plan: str | None,
    roots: Sequence[str],
    *,
    everything: bool,
) -> tuple[list[Wanted], list[Rival]]:
    """Benchmarks and scorers of options and of a file together.

    Args:
        benchmarks: names and files.
        scorers: plug-ins and files.
        models: for the plug-ins.
        plan: a file of both.
        roots: as of `Wanted.load`.
        everything: all official benchmarks too, and all scorers of Table 1 where no others are named.

    Raises:
        UserError: a file that cannot be read, or everything and nowhere to look.
    """
    wanted, rivals = read_plan(plan) if plan else ([], [])
    wanted = [*benchmarks_named(benchmarks), *wanted]
    if everything and not roots:
        raise UserError("--all looks for benchmarks under --root; give the folder that holds the downloads")
    if everything:
        named = {each.name for each in wanted}
        wanted += [each for each in official() if each.name not in named]
    if scorers or models or not (rivals or everything):
        rivals = [*rivals, *scorers_named(scorers, models)]
    return wanted, rivals or read_plan(TABLE_1)[1]


def benchmarks_named(names: Sequence[str]) -> list[Wanted]:
    """Benchmarks by name, or by a YAML file with a plug-in's class_path and init_args.

    An official set keeps its name; an own table or a dataset is called as its file.

    Raises:
        UserError: a file that cannot be read.
    """
    sets = {each.name for each in official()}
    wanted = []
    for name in names:
        spec: PluginSpec = read_mapping(resolve_config(name)) if _is_file(name) else name
        plugin = split_spec(spec)[0]
        wanted.append(Wanted(Path(name).stem if _is_file(name) and plugin not in sets else plugin, spec))
    return wanted


def scorers_named(scorers: Sequence[str], models: Sequence[str]) -> list[Rival]:
    """Scorers by ready configuration, and each plug-in with each model; without any, our scorer with nano.

    Args:
        scorers: plug-ins and YAML files.
        models: for the plug-ins.

    Raises:
        UserError: a file that cannot be read.
    """
    ready = [_ready(name) for name in scorers if _is_file(name)]
    plugins = [name for name in scorers if not _is_file(name)]
    if not plugins and (models or not ready):
        plugins = ["redaes"]
    made = [
        Rival(
            model if plugin == "redaes" else f"{plugin}:{model}", {"class_path": plugin, "init_args": {"model": model}}
        )
        for plugin in plugins
        for model in models or ["nano"]
    ]
    return [*ready, *made]


def read_plan(path: str) -> tuple[list[Wanted], list[Rival]]:
    """Benchmarks and scorers of a file; see the module's docstring.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    read = read_mapping(resolve_config(path))
    benchmarks, scorers = read.pop("benchmarks", {}), read.pop("scorers", [])
    read.pop("runner", None)  # `planned_runner` reads it
    if read or not isinstance(benchmarks, dict) or not isinstance(scorers, list):
        wrong = f"the key {next(iter(read))!r}" if read else "another form"
        raise UserError(f"{path} has {wrong}; it holds `benchmarks: {{NAME: FOLDER}}` and `scorers: [FILE.yaml, ...]`")
    return [_wanted(path, name, said) for name, said in benchmarks.items()], [_rival(path, said) for said in scorers]


def planned_runner(path: str) -> PluginSpec | None:
    """Which runner a file of benchmarks and scorers names.

    Raises:
        UserError: it cannot be read.
    """
    runner: PluginSpec | None = read_mapping(resolve_config(path)).get("runner")
    if runner is not None and not isinstance(runner, str | dict):
        raise UserError(f"{path}: runner is {runner!r}; give a name, or {{class_path: NAME, init_args: {{...}}}}")
    return runner


def _wanted(path: str, name: str, said: Any) -> Wanted:
    if said is None:
        return Wanted(name, name)
    if isinstance(said, str):
        return Wanted(name, {"class_path": name, "init_args": {"root": said}})
    if isinstance(said, dict):
        return Wanted(name, {"class_path": name, **said})
    raise UserError(f"{path}: benchmark {name} is {said!r}; give a folder, or settings such as {{root: FOLDER}}")


def _rival(path: str, said: Any) -> Rival:
    if isinstance(said, str):
        return _ready(said) if _is_file(said) else scorers_named([said], [])[0]
    if isinstance(said, dict) and isinstance(said.get("scorer"), str | dict):
        return Rival(str(said.get("name") or split_spec(said["scorer"])[0]), said["scorer"])
    raise UserError(f"{path}: scorer {said!r} is neither a file nor {{name: NAME, scorer: {{class_path: ...}}}}")


def _ready(name: str) -> Rival:
    read = read_mapping(resolve_config(name))
    return _rival(name, {"name": Path(name).stem, **read})


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
