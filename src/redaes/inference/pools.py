"""Scorers that work elsewhere, several at a time: the contract between a runner that can score and those who ask.

A runner (entry-point group `redaes.runners`) may offer `scorers`, which opens a scorer in each of several processes,
on other machines if it likes, and gives a `ScorerPool`. Images are opened there too, and what comes of them travels
back as plain values: whoever asks writes them down, as of a scorer in this process.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from redaes.errors import UserError
from redaes.inference.asking import LoadedScorer, Read, Said
from redaes.presets import read_mapping, resolve_config
from redaes.registry import PluginSpec, create, find, load_plugin, split_spec

T = TypeVar("T")

KILLED = "killed the scorer's process"
"""The error of an image that no scorer's process survives."""


@dataclass(frozen=True)
class RemoteImage:
    """An image that a runner can read and this machine need not: an object of a bucket.

    Attributes:
        url: what it is called.
        fetch: gives the bytes at a URL, or raises a `UserError`; picklable.
    """

    url: str
    fetch: Callable[[str], bytes]


@runtime_checkable
class ScorerPool(Protocol):
    """Several scorers of one kind that are asked together.

    Attributes:
        fingerprint: of the scorer.
        batch_size: images that each works on at once.
    """

    fingerprint: str
    batch_size: int

    def ask(self, items: Sequence[T], read: Callable[[T, int], Read]) -> Generator[list[Said], None, None]:
        """What the scorers say of images.

        Args:
            items: one for each image; picklable.
            read: opens an item where it is scored, its longer side at most so many pixels; picklable.

        Yields:
            What came of the next items, one for each, in their order; at least what one call brings.

        Raises:
            ScorerGivenUp: as of a scorer in this process; the outcomes before were handed on.
        """
        ...


@runtime_checkable
class ScoringRunner(Protocol):
    """What a runner offers beyond `redaes.engine.runners.Runner` if it can score."""

    def scorers(self, make: Callable[[], LoadedScorer]) -> AbstractContextManager[ScorerPool]:
        """Open a scorer in each of several processes; they end with the context.

        Args:
            make: opens the scorer, in the process that calls it; picklable.

        Raises:
            UserError: it cannot be opened there.
        """
        ...

    def images(self, urls: Sequence[str]) -> list[RemoteImage]:
        """Every image at or under URLs, each once, in the order of the URLs and then of names.

        Raises:
            UserError: a place that cannot be listed, or without an image.
        """
        ...


def is_url(path: str) -> bool:
    """Whether a path is an address, such as `s3://bucket/photos`, that a runner may know how to read."""
    return "://" in path


def runner_named(name: str) -> PluginSpec:
    """A runner as somebody names it: a plug-in, or a YAML file with a plug-in's class_path and init_args.

    Raises:
        UserError: a file that cannot be read.
    """
    return read_mapping(resolve_config(name)) if name.endswith((".yaml", ".yml")) else name


def scoring_runner(spec: PluginSpec) -> ScoringRunner:
    """Make a runner that can score.

    Raises:
        UserError: no such runner, a setting that it refuses, or one that cannot score; the message names those that
            can.
    """
    made = create("runners", spec)
    if not isinstance(made, ScoringRunner):
        able = ", ".join(_able()) or "none that is installed; pip install plugins/redaes-ray"
        raise UserError(f"the runner {split_spec(spec)[0]!r} cannot score images; runners that can: {able}")
    return made


def _able() -> list[str]:
    """Installed runners that can score. One that does not load is not among them."""
    able = []
    for name in find("runners"):
        try:
            loaded = load_plugin("runners", name)
        except UserError:  # `redaes plugins check` says why; here it is another one that somebody asked for
            continue
        if callable(getattr(loaded, "scorers", None)):
            able.append(name)
    return able
