"""The command line: a table from names to typed functions, and how their failures are shown.

A command is a function in `redaes.commands`; its signature is the interface and its docstring the help. Only the chosen
one is imported, so that `--help` needs neither torch nor even an argument parser.

Exit codes: 0 done, 1 done with failures the command has reported, 2 bad input (one line on stderr; `--debug` shows
where it comes from), 130 interrupted. Anything else is a fault of ours and keeps its traceback.
"""

import atexit
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from redaes import __version__
from redaes.errors import UserError, nearest
from redaes.importing import when_imported


class Command(NamedTuple):
    """One line of the table: what to call and what it is for."""

    target: str
    summary: str


COMMANDS: dict[str, Command] = {
    "run": Command("redaes.commands.run:run", "a whole pipeline, step by step, resumable: redaes run nano"),
    "sweep": Command("redaes.commands.sweep:sweep", "an ablation's rows and seeds, resumable: redaes sweep FILE"),
    "sweep report": Command("redaes.commands.sweep:report", "the rows of a sweep with intervals, and what they say"),
    "init": Command("redaes.commands.init:init", "make a small model from nothing"),
    "fit": Command("redaes.commands.fit:fit", "train one stage from configuration files"),
    "validate": Command("redaes.commands.fit:validate", "one pass over the validation data"),
    "test": Command("redaes.commands.fit:test", "one pass over the test data"),
    "predict": Command("redaes.commands.fit:predict", "one pass over the data to predict"),
    "data build": Command("redaes.commands.data:build", "build a dataset of pairs, groups and scores from photographs"),
    "data status": Command("redaes.commands.data:status", "what a dataset holds and how judges and editors did"),
    "data retry": Command("redaes.commands.data:retry", "ask again what was given up, and complete the dataset"),
    "data estimate": Command(
        "redaes.commands.estimate:estimate", "calls, tokens and cost of a build before it is made"
    ),
    "data repair": Command("redaes.commands.data:repair", "make the database of a damaged ledger anew"),
    "data hash": Command(
        "redaes.commands.data_hash:hash_", "list images by their hashes, to keep them out of a dataset"
    ),
    "data export": Command("redaes.commands.data_export:export", "a dataset in a form that others open, with a card"),
    "data report": Command(
        "redaes.commands.data_report:report", "a dataset as a page to look at: what came through, why, for how much"
    ),
    "score": Command("redaes.commands.score:score", "a number and a reason for every image"),
    "rank": Command("redaes.commands.rank:rank", "the images of a folder, best first"),
    "serve": Command("redaes.commands.serve:serve", "scores, comparisons and rankings over HTTP"),
    "advise": Command("redaes.commands.advise:advise", "which edit would help a photograph, and by how much; make it"),
    "app": Command("redaes.commands.app:app", "a web page on this computer: score, compare, advise, browse"),
    "compare": Command("redaes.commands.compare:compare", "which of two images is better, by how much and why"),
    "evaluate": Command(
        "redaes.commands.evaluate:evaluate", "agreement with people on benchmarks, or with the judges, with intervals"
    ),
    "table": Command("redaes.commands.table:table", "a table of the paper with ours beside it: redaes table 1"),
    "report": Command("redaes.commands.report:report", "the results of a run as a page, a table and JSON"),
    "export": Command("redaes.commands.export:export", "a plain Hugging Face directory from a checkpoint"),
    "plugins list": Command("redaes.commands.plugins:list_", "what is installed, without importing it"),
    "plugins check": Command("redaes.commands.plugins:check", "load every plug-in and say which are broken"),
    "plugins new": Command("redaes.commands.plugins:new", "write a ready plug-in package"),
    "doctor": Command("redaes.commands.doctor:doctor", "what is installed, devices, keys present"),
}
LIGHTNING = ("fit", "validate", "test", "predict")
ANSWERS = ("score", "rank", "compare")
INTERRUPTED = 130


def process() -> int:
    """What `redaes` and `python -m redaes` run: one command, and the end of the process it had to itself."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    codes: list[int] = []
    if words and words[0] in ANSWERS:
        atexit.register(_end, codes)  # the first to be registered is called last, when all others have cleaned up
        if not any(word.startswith("--scorer") for word in words):  # another package's may shard
            when_imported("transformers.utils.import_utils", _is_alone)
    codes.append(main())
    return codes[0]


def _end(codes: list[int]) -> None:
    """End the process at once if the command has ended: to take its million objects apart lasts up to a second."""
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


def _is_alone(import_utils: Any) -> None:
    """Let transformers know that this process shards nothing: it then leaves out what takes a tenth of the wait."""
    import_utils.is_torch_distributed_available = lambda: False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; None takes the process's.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        code = _dispatch([word for word in words if word != "--debug"]) or 0
        sys.stdout.flush()  # a reader that has gone is noticed here, not at exit
        return code
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`redaes score ... | head`); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(words: list[str]) -> int | None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"redaes {__version__}")
        return 0
    name, rest = _resolve(words)
    if name is None:
        print(overview(words[0]))
        return 0
    module, _, attribute = COMMANDS[name].target.partition(":")
    function: Callable[..., int | None] = getattr(import_module(module), attribute)
    if name in LIGHTNING:
        return function(rest)
    from redaes.arguments import call

    if name == "run":  # `from` is a word of Python's and cannot name a parameter
        rest = [re.sub(r"^--from(?==|$)", "--start", word) for word in rest]
    if name == "sweep":  # W&B passes `run`, its parameter's name
        rest = [re.sub(r"^--only(?==|$)", "--run", word) for word in rest]
    return call(function, rest, prog=f"redaes {name}")


def _resolve(words: list[str]) -> tuple[str | None, list[str]]:
    """The command's name and the words after it; None for a family's own help (`redaes data --help`)."""
    first, *rest = words
    if rest and f"{first} {rest[0]}" in COMMANDS:
        return f"{first} {rest[0]}", rest[1:]
    if first in COMMANDS:
        return first, rest
    family = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{first} ")]
    if family:
        if not rest or rest[0] in ("-h", "--help"):
            return None, []
        if rest[0] in family:
            return f"{first} {rest[0]}", rest[1:]
        raise UserError(f"unknown command '{first} {rest[0]}' ({nearest(rest[0], family)})")
    if first.startswith("-"):
        raise UserError(f"{first} comes before a command; write redaes COMMAND {first}")
    raise UserError(f"unknown command {first!r} ({nearest(first, {name.partition(' ')[0] for name in COMMANDS})})")


def overview(family: str = "") -> str:
    """The table of commands, or of one family's.

    Example:
        >>> print(overview("data").splitlines()[0])
        usage: redaes data COMMAND [arguments]
    """
    names = [name for name in COMMANDS if not family or name.startswith(f"{family} ")]
    width = max(map(len, names)) + 2
    head = f"{family} " if family else ""
    lines = [f"usage: redaes {head}COMMAND [arguments]", ""]
    if not family:
        lines += ["redaes: image aesthetics learned by comparison.", ""]
    lines += [f"  {name:<{width}}{COMMANDS[name].summary}" for name in names]
    lines += ["", "redaes COMMAND --help explains one; --debug shows where an error comes from; --version."]
    return "\n".join(lines)
