"""Plug-ins in the configurations of `redaes fit`: named by entry point, their settings overridden one by one.

jsonargparse knows classes it can import; to it a plug-in parameter is a string or a mapping. Two things are done:
configuration values are written in a form it leaves alone, and an override of one setting, `--model.reward.tau=0.25`,
is preceded by the name of the plug-in that it is for.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_OPTION = re.compile(
    r"--(?P<section>model|data)\.(?P<parameter>\w+)(?P<setting>\.[\w.]+)?(?:=(?P<value>.*))?", re.DOTALL
)


def plain_plugins(value: Any) -> Any:
    """Write plug-ins, named by entry point, as `{class_path: rrc, tau: 1.0}` instead of with `init_args`.

    jsonargparse takes every mapping of exactly class_path and init_args for a class to import, which an entry-point
    name is not. Class names begin with a capital or hold a dot; entry-point names do neither.

    Example:
        >>> plain_plugins({"reward": {"class_path": "rrc", "init_args": {"tau": 1.0}}})
        {'reward': {'class_path': 'rrc', 'tau': 1.0}}
        >>> plain_plugins({"class_path": "CSVLogger", "init_args": {"name": ""}})
        {'class_path': 'CSVLogger', 'init_args': {'name': ''}}
    """
    if isinstance(value, list):
        return [plain_plugins(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {key: plain_plugins(item) for key, item in value.items()}
    name = plain.get("class_path")
    if not isinstance(name, str) or "." in name or name[:1].isupper():
        return plain
    settings = {key: item for key, item in plain.items() if key not in ("class_path", "init_args")}
    settings = {**(plain.get("init_args") or {}), **settings}
    return {"class_path": name, **settings} if settings else name


def read_plugins() -> None:
    """Let jsonargparse read plug-ins in files and values; interpolations start at the configuration's own root."""
    from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings
    from yaml import YAMLError

    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    # jsonargparse makes this loader when it is first used.
    parser = ArgumentParser(parser_mode="omegaconf+")
    parser.add_argument("--first", type=int)
    parser.parse_string("first: 1")
    load = get_loader("omegaconf+")
    set_loader("omegaconf+", lambda text: plain_plugins(load(text)), (YAMLError,))


def name_plugins(words: Sequence[str], classes: Mapping[str, Iterable[type]]) -> list[str]:
    """Put `--model.reward.class_path=rrc` before the first `--model.reward.tau=...` where only a name is known so far.

    The name is what was said last: an option, a configuration file, or the default of the class.

    Args:
        words: the arguments, in order; configuration files exist.
        classes: for `model` and `data`, the classes that go by short names.
    """
    said: dict[str, Any] = {}
    result: list[str] = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word in ("--config", "-c"):
            _merge(said, _read(Path(following)))
        short = re.fullmatch(r"--(model|data)(?:\.class_path)?(?:=(.*))?", word)
        if short:
            said.setdefault(short[1], {})["class_path"] = following if short[2] is None else short[2]
        option = _OPTION.fullmatch(word)
        if option and option["parameter"] != "class_path":
            section, parameter = option["section"], option["parameter"]
            arguments = said.setdefault(section, {}).setdefault("init_args", {})
            if not option["setting"]:
                arguments[parameter] = following if option["value"] is None else option["value"]
            else:
                if parameter not in arguments:
                    arguments[parameter] = _default(classes[section], said[section].get("class_path"), parameter)
                name, arguments[parameter] = arguments[parameter], {}
                if option["setting"] != ".class_path" and isinstance(name, str) and not name.startswith(("{", "[")):
                    result.append(f"--{section}.{parameter}.class_path={name}")
        result.append(word)
    return result


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # the parser reads it again and says what is wrong


def _merge(target: dict[str, Any], source: Any) -> None:
    for key, value in source.items() if isinstance(source, dict) else ():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _default(classes: Iterable[type], name: Any, parameter: str) -> Any:
    """The plug-in that a class takes where nobody names one."""
    from redaes.registry import PluginSpec

    for found in classes:
        if name in (found.__name__, f"{found.__module__}.{found.__qualname__}"):
            wanted = inspect.signature(found).parameters.get(parameter)
            return wanted.default if wanted is not None and wanted.annotation == PluginSpec else None
    return None
