"""The plug-in registry: finds, lists and creates plug-ins declared as entry points.

Every kind is an entry-point group `redaes.<kind>` and a Protocol. Built-ins are declared in our own pyproject exactly
as a third party declares theirs. A config names a plug-in by its entry-point name or by class path, alone or with
settings: `rrc`, `my_package.Reward`, `{class_path: rrc, init_args: {tau: 0.5}}`. Loading one imports only that one.
"""

import difflib
import hashlib
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions
from importlib.metadata import version as distribution_version
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from redaes.errors import UserError, nearest
from redaes.importing import uncollected

PluginSpec = str | dict[str, Any]

PROTOCOLS: dict[str, str] = {
    "sources": "redaes.sources:PhotoSource",
    "editors": "redaes.editors:Editor",
    "judges": "redaes.judges:Judge",
    "instructors": "redaes.instructors:Instructor",
    "verifiers": "redaes.verifiers:Verifier",
    "fusion": "redaes.fusion:Fusion",
    "rewards": "redaes.rewards:Reward",
    "rollouts": "redaes.rollout:Rollout",
    "scorers": "redaes.inference:ScorerProtocol",
    "benchmarks": "redaes.data.benchmarks:BenchmarkProtocol",
    "runners": "redaes.engine.runners:Runner",
}
KINDS = tuple(PROTOCOLS)

# The optional dependency a missing module belongs to.
EXTRAS = {
    "skimage": "nano",
    "openai": "data",
    "anthropic": "data",
    "httpx2": "data",
    "pyarrow": "data",
    "imagehash": "data",
    "diffusers": "editors",
    "timm": "baselines",
}

# Plug-ins of this project that are packages of their own.
PACKAGES = {
    ("editors", "nano_banana"): "redaes-google",
    ("rollouts", "vllm"): "redaes-vllm",
    ("rollouts", "vllm_server"): "redaes-vllm",
    ("scorers", "pyiqa"): "redaes-pyiqa",
    ("runners", "ray"): "redaes-ray",
}

DISABLE = "REDAES_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginInfo:
    """One installed plug-in. `ok` and `error` are None until it was loaded (`redaes plugins check`)."""

    kind: str
    name: str
    package: str
    version: str
    value: str
    ok: bool | None = None
    error: str | None = None


def singular(kind: str) -> str:
    """`rewards` -> `reward`: for messages."""
    return kind.removesuffix("s") if kind != "fusion" else kind


def _entry_points(kind: str) -> dict[str, list[EntryPoint]]:
    """What is declared under each name; more than one entry is a conflict between packages."""
    if kind not in PROTOCOLS:
        raise UserError(f"unknown kind of plug-in {kind!r} ({nearest(kind, KINDS)})")
    only_ours = os.environ.get(DISABLE, "") not in ("", "0")
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=f"redaes.{kind}"), key=lambda e: e.name):
        if not only_ours or (entry.dist is not None and entry.dist.name == "redaes"):
            found.setdefault(entry.name, []).append(entry)
    return found


def _package(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")


def find(kind: str) -> list[str]:
    """Names of the installed plug-ins of one kind, sorted, without importing any.

    Raises:
        UserError: no such kind.

    Example:
        >>> "rrc" in find("rewards")
        True
    """
    return list(_entry_points(kind))


def list_plugins() -> list[PluginInfo]:
    """Every installed plug-in of every kind, without importing any."""
    return [
        PluginInfo(kind, name, *_package(entry), entry.value)
        for kind in KINDS
        for name, entries in _entry_points(kind).items()
        for entry in entries
    ]


def check_plugins() -> list[PluginInfo]:
    """Every installed plug-in, each loaded on its own: a broken one is reported, the others are not disturbed."""
    checked = []
    for info in list_plugins():
        try:
            _check_class(info.kind, info.name, load_plugin(info.kind, info.name))
            ok, error = True, None
        except UserError as problem:
            ok, error = False, str(problem)
        checked.append(replace(info, ok=ok, error=error))
    return checked


def load_plugin(kind: str, name: str) -> type[Any]:
    """The class of one plug-in, by entry-point name or class path.

    Args:
        kind: one of `KINDS`.
        name: `rrc`, or a path `package.module.Class`.

    Raises:
        UserError: unknown name (with the nearest), or one that fails to import (with package and cause).
    """
    found = _entry_points(kind)
    if name in found:
        return _load_entry(kind, name, found[name])
    if "." in name:
        return _import_class(kind, name)
    if (kind, name) in PACKAGES:
        package = PACKAGES[kind, name]
        raise UserError(f"{singular(kind)} {name!r} is in the package {package}; pip install plugins/{package}")
    hint = nearest(name, found).replace("known:", "installed:")
    raise UserError(f"unknown {singular(kind)} {name!r} ({hint})")


def _load_entry(kind: str, name: str, entries: list[EntryPoint]) -> type[Any]:
    packages = [" ".join(_package(entry)) for entry in entries]
    if len(entries) > 1:
        raise UserError(f"{singular(kind)} {name!r} is declared by {' and '.join(packages)}; uninstall all but one")
    try:
        with uncollected():
            loaded: type[Any] = entries[0].load()
    except Exception as error:  # whatever a third party's module raises on import, named with its package
        raise UserError(f"{singular(kind)} {name!r} of {packages[0]} does not load: {_cause(error)}") from error
    return loaded


def _import_class(kind: str, path: str) -> type[Any]:
    module, _, attribute = path.rpartition(".")
    try:
        loaded: type[Any] = getattr(import_module(module), attribute)
    except Exception as error:
        raise UserError(f"{singular(kind)} {path!r} does not load: {_cause(error)}") from error
    return loaded


def _cause(error: BaseException) -> str:
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"{text}; pip install 'redaes[{EXTRAS[missing]}]'" if missing in EXTRAS else text


def optional(module: str) -> Any:
    """A module of an optional dependency.

    Raises:
        UserError: it is not installed; the message names the extra that brings it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{module} is needed and cannot be imported: {_cause(error)}") from error


def require(module: str) -> None:
    """Say that a plug-in cannot be made without a module, before the first work it is given, and without importing it.

    Raises:
        ModuleNotFoundError: it is not installed; `create` makes a UserError of it that names the extra to install.
    """
    if find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def protocol(kind: str) -> type[Any]:
    """The Protocol class that plug-ins of this kind satisfy."""
    module, _, name = PROTOCOLS[kind].partition(":")
    loaded: type[Any] = getattr(import_module(module), name)
    return loaded


def _check_class(kind: str, name: str, loaded: Any) -> None:
    if not callable(loaded):
        raise UserError(f"{singular(kind)} {name!r} is {loaded!r}; a plug-in is a class or a function that makes one")
    wanted = protocol(kind)
    if inspect.isclass(loaded):
        methods = [
            m for m in vars(wanted) if callable(getattr(wanted, m)) and (not m.startswith("_") or m == "__call__")
        ]
        missing = [m for m in methods if not callable(getattr(loaded, m, None))]
        if missing:
            raise UserError(f"{singular(kind)} {name!r} lacks {', '.join(missing)} of {PROTOCOLS[kind]}")


def split_spec(spec: PluginSpec) -> tuple[str, dict[str, Any]]:
    """Name and settings of a plug-in as a config writes it.

    Keys beside `class_path` count as settings, so that `--model.reward.tau=0.25` overrides one.

    Example:
        >>> split_spec({"class_path": "rrc", "init_args": {"tau": 1.0}, "tau": 0.25})
        ('rrc', {'tau': 0.25})
    """
    if isinstance(spec, str):
        return spec, {}
    settings = {key: value for key, value in spec.items() if key not in ("class_path", "init_args")}
    if not isinstance(spec.get("class_path"), str):
        raise UserError(f"{dict(spec)!r} names no plug-in; write {{class_path: NAME, init_args: {{...}}}} or just NAME")
    return spec["class_path"], {**(spec.get("init_args") or {}), **settings}


def create(kind: str, spec: PluginSpec, **overrides: Any) -> Any:
    """Make a plug-in from what a config says.

    Args:
        kind: one of `KINDS`.
        spec: a name, or `{class_path: name, init_args: {...}}`.
        overrides: settings that win over the config's.

    Returns:
        An instance that satisfies the kind's Protocol.

    Raises:
        UserError: unknown plug-in or setting (with the nearest), a setting it refuses, or not of this kind.
    """
    name, settings = split_spec(dict(spec) if isinstance(spec, Mapping) else spec)
    settings |= overrides
    loaded = load_plugin(kind, name)
    _check_class(kind, name, loaded)
    _check_settings(kind, name, loaded, settings)
    try:
        made = loaded(**settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{singular(kind)} {name!r} refuses its settings: {_cause(error)}") from error
    except ModuleNotFoundError as error:
        raise UserError(f"{singular(kind)} {name!r} cannot be made: {_cause(error)}") from error
    if not isinstance(made, protocol(kind)):
        raise UserError(f"{singular(kind)} {name!r} does not satisfy {PROTOCOLS[kind]}")
    return made


def identity_of(kind: str, spec: PluginSpec, plugin: Any) -> dict[str, Any]:
    """What the answers of a plug-in depend on that does not say so itself (`redaes.calls`, `identity`).

    Args:
        kind: one of `KINDS`.
        spec: what it was made from.
        plugin: it.

    Returns:
        Its class, its settings and the version of its package; of a class that no package brought, a digest of the
        file it stands in, so that a change of the code is a change of the plug-in.
    """
    name, settings = split_spec(spec)
    made = type(plugin)
    value = f"{made.__module__}:{made.__qualname__}"
    declared = (entry for entries in _entry_points(kind).values() for entry in entries)
    entry = next((entry for entry in declared if entry.name == name or entry.value == value), None)
    version = _package(entry)[1] if entry else _version_of_module(made.__module__)
    return {"class": f"{made.__module__}.{made.__qualname__}", "settings": settings, "version": version}


# It reads what every installed package holds, which takes half a second.
_distributions = cache(packages_distributions)


def _version_of_module(module: str) -> str:
    packages = _distributions().get(module.partition(".")[0])
    if packages:
        return distribution_version(packages[0])
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else "unknown"


def _check_settings(kind: str, name: str, loaded: Any, settings: Mapping[str, Any]) -> None:
    parameters = inspect.signature(loaded).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key, value in settings.items():
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1, cutoff=0.5)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise UserError(
                f"{singular(kind)} {name!r} has no setting {key!r} ({meant}settings: {', '.join(parameters) or 'none'})"
            )
        _check_type(f"{key!r} of {singular(kind)} {name!r}", value, parameters[key].annotation)


def _check_type(what: str, value: Any, annotation: Any) -> None:
    """Refuse a plain value of the wrong type; other annotations are the plug-in's own business."""
    members = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if not set(members) <= {bool, int, float, str, NoneType}:
        return
    number = isinstance(value, int) and not isinstance(value, bool) and float in members
    if not number and not any(type(value) is member for member in members):
        wanted = " or ".join("null" if m is NoneType else m.__name__ for m in members)
        raise UserError(f"{what} is {value!r}; it must be {wanted}")
