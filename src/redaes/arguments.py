"""From words to a function's arguments, with errors of one line that name the nearest valid word.

jsonargparse does the parsing: types come from the signature, help from the docstring. Required parameters are
positional, the others are options. A list may be given by repeating its option: `--set a=1 --set b=2`.
"""

import difflib
import inspect
import re
import types
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from redaes.errors import UserError

# How jsonargparse words what it does not know; the group is the unknown word.
_UNKNOWN = (
    re.compile(r"[Uu]nrecognized arguments: (?P<option>-\S*)"),
    re.compile(r"Subcommand '[^']*' does not accept option '(?P<key>[^']*)'"),
    re.compile(r"Group '(?P<group>[^']*)' does not accept option '(?P<key>[^']*)'"),
    re.compile(r"Option '(?P<key>[^']*)' is not accepted"),
)
_EXPECTED = re.compile(r"Expected an? (<class '[\w.]+'>|typing[.]Literal\[[^\]]*\])")


class OneLineErrors(ArgumentParser):
    """An argument parser whose errors are `UserError`s of one line; also for the parsers nested inside it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what went wrong as a `UserError`."""
        raise UserError(self.explain(message, ex)) from ex

    def explain(self, message: str, ex: Exception | None) -> str:
        """One line for what jsonargparse says."""
        for pattern in _UNKNOWN:
            found = pattern.search(message)
            if found:
                parser = getattr(ex, "subcommand_parser", None) or self
                return unknown(found.groupdict(), _destinations(parser))
        return shorten(message)


def _destinations(parser: ArgumentParser) -> list[str]:
    """Dotted names a parser knows, without those that only print something."""
    return [a.dest for a in parser._actions if a.dest != "help" and not a.dest.startswith("print_")]


def unknown(found: dict[str, str | None], known: Iterable[str]) -> str:
    """Say that a key or option is unknown, with the nearest known one beside it.

    Args:
        found: `key`, perhaps with the `group` it is in, or `option` as typed.
        known: dotted names that would be right.

    Example:
        >>> unknown({"option": "--trainer.max_step=3"}, ["trainer.max_steps", "trainer.devices", "model"])
        "unknown option '--trainer.max_step' (did you mean '--trainer.max_steps'? known: devices, max_steps)"
    """
    option = found.get("option")
    word = (option or "").lstrip("-").partition("=")[0] or ".".join(
        filter(None, (found.get("group"), found.get("key")))
    )
    parent, wrong, siblings = _where(word, list(known))
    close = difflib.get_close_matches(wrong, siblings, n=1, cutoff=0.5)
    dashes = "--" if option else ""
    # The nearest is named in full, so that it can be copied.
    meant = f"did you mean {dashes + '.'.join([*parent, close[0]])!r}? " if close else ""
    shown = dashes + ".".join([*parent, wrong]) if option is None or option.startswith("--") else option
    return f"unknown {'option' if option else 'key'} {shown!r} ({meant}known: {', '.join(siblings) or 'none'})"


def _where(word: str, known: list[str]) -> tuple[list[str], str, list[str]]:
    """Split a dotted word at its first unknown part, with the known names at that place."""
    parent: list[str] = []
    children: list[str] = []
    for part in word.split("."):
        prefix = ".".join([*parent, ""]) if parent else ""
        children = sorted({name.removeprefix(prefix).partition(".")[0] for name in known if name.startswith(prefix)})
        if part not in children:
            return parent, part, children
        parent.append(part)
    return parent[:-1], parent[-1], children


def shorten(message: str) -> str:
    """One line of jsonargparse's several: the key, the value and what it should be, or the first telling cause.

    Example:
        >>> shorten('Parser key "batch_size":\\n  Expected a <class \\'int\\'>. Got value: many')
        "batch_size is 'many'; it must be int"
    """
    lines = [line.strip().removeprefix("- ").strip() for line in message.splitlines()]
    told = [line for line in lines if re.search(r"^unknown |has no setting|refuses its settings|; it must be ", line)]
    if told:
        return told[0]
    key = re.search(r'Parser key "([^"]+)":', message)
    imported = re.search(r"Expected a dot import path string: (\S+)", message)
    if imported:
        return f"{key[1] if key else 'configuration'}: there is no class {imported[1]!r}"
    wanted = dict.fromkeys(_EXPECTED.findall(message))
    given = re.search(r"(?:Given|Got) value: (.*)", message)
    if key and wanted and given:
        types = [re.sub(r"<class '(?:\w+[.])*(\w+)'>|typing[.]Literal\[(.*)]", r"\1\2", word) for word in wanted]
        return (
            f"{key[1]} is {given[1]!r:.80}; it must be {' or '.join('null' if t == 'NoneType' else t for t in types)}"
        )
    noise = ("Parser key", "Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'None")
    rest = "; ".join(line for line in lines if line and not line.startswith(noise)) or " ".join(message.split())
    return f"{key[1]}: {rest}" if key else rest


def call(function: Callable[..., int | None], words: list[str], prog: str) -> int | None:
    """Parse `words` by the function's signature and call it.

    Args:
        function: typed, with a Google docstring.
        words: what was typed after the command's name.
        prog: the command as shown in its help.

    Raises:
        UserError: words that do not fit the signature.
    """
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    many = [n for n, p in parameters.items() if p.default is p.empty and _is_list(hints[n])]
    parser = OneLineErrors(
        prog=prog, allow_abbrev=False, description=inspect.cleandoc(function.__doc__ or "").split("\n\nArgs:")[0]
    )
    for name in many:
        parser.add_argument(name, nargs="+", type=str, help=_described(function, name))
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=set(many))
    values = parser.parse_args(_as_typed(words, hints))
    return function(**vars(values))


def _described(function: Callable[..., Any], name: str) -> str | None:
    from docstring_parser import parse

    return {p.arg_name: p.description for p in parse(function.__doc__ or "").params}.get(name)


def _is_list(hint: Any) -> bool:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return any(get_origin(member) is list for member in members)


def _as_typed(words: list[str], hints: dict[str, Any]) -> list[str]:
    """What people type, in jsonargparse's form.

    `--batch-size 3` -> `--batch_size 3`; `--overwrite` -> `--overwrite=true`; `--set a=1` -> `--set+ a=1`; `-o` ->
    `--output`.
    """
    result: list[str] = []
    words = ["--output" if word == "-o" and "output" in hints else word for word in words]
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_") if word.startswith("--") else ""
        hint = hints.get(name)
        if hint is bool and not equals and following not in ("true", "false"):
            result.append(f"--{name}=true")
        elif _is_list(hint) and not value.startswith("["):
            result.append(f"--{name}+{equals}{value}")
        else:
            result.append(f"--{name}{equals}{value}" if name in hints else word)
    return result
