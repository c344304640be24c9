"""`redaes plugins`: what is installed, what is broken, and a package to start a new one from."""

import json
import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template
from typing import Literal

from redaes.errors import UserError, nearest
from redaes.registry import KINDS, PROTOCOLS, PluginInfo, check_plugins, list_plugins, singular

Format = Literal["table", "json"]


def list_(format: Format = "table") -> int:
    """List the installed plug-ins: kind, name, package and version. None is imported.

    With REDAES_DISABLE_PLUGINS=1 in the environment only the built-in ones are seen, here and everywhere.

    Args:
        format: table for people, json for programs.

    Returns:
        The exit code, 0.
    """
    _show(list_plugins(), format, checked=False)
    return 0


def check(format: Format = "table") -> int:
    """Load every plug-in on its own and say which are broken, with their package and the cause.

    Args:
        format: table for people, json for programs.

    Returns:
        The exit code: 0 if all are fine, 1 if one is broken.
    """
    plugins = check_plugins()
    _show(plugins, format, checked=True)
    return int(not all(plugin.ok for plugin in plugins))


def _show(plugins: list[PluginInfo], form: Format, checked: bool) -> None:
    if form == "json":
        print(json.dumps([asdict(plugin) for plugin in plugins], indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("kind", "name", "package", "version", *(["state"] if checked else []))
    for plugin in plugins:
        state = ["ok" if plugin.ok else f"[red]{escape(plugin.error or 'broken')}[/red]"] if checked else []
        table.add_row(singular(plugin.kind), escape(plugin.name), plugin.package, plugin.version, *state)
    Console().print(table)


def new(kind: str, name: str, folder: str = "plugins") -> int:
    """Write a ready package with one plug-in: it installs, passes its test, and can be changed from there.

    Args:
        kind: reward, judge, editor, source, instructor, verifier, fusion, rollout, scorer or runner.
        name: the entry-point name that configurations will use, such as my_reward or vendor/model.
        folder: where to put the package's folder.

    Returns:
        The exit code, 0.

    Raises:
        UserError: unknown kind, a name that cannot be one, or a folder that exists already.
    """
    group = _group(kind)
    if not re.fullmatch(r"[a-z][a-z0-9_]*([/-][a-z0-9_]+)*", name):
        raise UserError(f"{name!r} cannot be a plug-in's name; use small letters, digits, '_', '-' and '/'")
    module = "redaes_" + re.sub(r"\W", "_", name)
    package = Path(folder) / module.replace("_", "-")
    if package.exists():
        raise UserError(f"{package} exists; choose another name or --folder")
    try:
        for path, text in _files(group, name, module).items():
            (package / path).parent.mkdir(parents=True, exist_ok=True)
            (package / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {package}: {error.strerror or error}") from error
    print(f"wrote {package}: pip install -e {package}, then pytest {package}/tests")
    return 0


def _group(kind: str) -> str:
    """`reward` or `rewards` -> `rewards`."""
    known = {singular(group): group for group in KINDS}
    if kind not in known and kind not in KINDS:
        raise UserError(f"unknown kind of plug-in {kind!r} ({nearest(kind, known)})")
    return known.get(kind, kind)


def _files(group: str, name: str, module: str) -> dict[str, str]:
    """Paths inside the new package, and their text."""
    code, imports, body = re.split(r"^---.*\n", _template(f"kinds/{group}.py.txt"), flags=re.MULTILINE)
    values = {
        "name": name,
        "kind": group,
        "singular": singular(group),
        "module": module,
        "distribution": module.replace("_", "-"),
        "class_name": "".join(part.capitalize() for part in re.split(r"\W|_", name)),
        "protocol": PROTOCOLS[group].replace(":", "."),
        "test_imports": imports,
    }
    values["test_body"] = Template(body).substitute(values).rstrip()
    files = {
        "pyproject.toml": _template("package/pyproject.toml.txt"),
        "README.md": _template("package/README.md.txt"),
        f"src/{module}/__init__.py": code,
        f"tests/test_{module}.py": _template("package/test.py.txt"),
    }
    return {path: Template(text).substitute(values) for path, text in files.items()}


def _template(name: str) -> str:
    return resources.files("redaes").joinpath(f"plugin_template/{name}").read_text("utf-8")
