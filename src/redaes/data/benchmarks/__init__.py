"""Benchmarks of image aesthetics as they are officially distributed: photographs with the scores people gave them.

One module per set; each is a plug-in of the kind `benchmarks`. Scores stay in the set's native range, and know it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from redaes.registry import find, load_plugin


@dataclass(frozen=True, slots=True)
class Item:
    """One photograph of a benchmark.

    Attributes:
        id: as the set names it; unique in a split.
        path: of the image file.
        mos: mean opinion score, in the set's native range.
        votes: how often each score was given, from the lowest; empty where the set does not say.
        group: of related images; empty where there are none.
        extra: what else the set says, such as the theme or single attributes.
    """

    id: str
    path: Path
    mos: float
    votes: tuple[int, ...] = ()
    group: str = ""
    extra: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A split of a set, joined with the image files that are there.

    Attributes:
        name: of the set.
        split: which part, in the set's own words.
        native_range: lowest and highest possible mean opinion score.
        items: whose image file is there, in the order of the set's list.
        n_listed: rows of the split's list, before anything was left out.
        left_out: what is not in `items`, by reason: listed ids, and images that no list mentions.
        notes: what somebody must know who quotes a number on it.
    """

    name: str
    split: str
    native_range: tuple[float, float]
    items: Sequence[Item]
    n_listed: int
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def normalised(self, mos: float) -> float:
        """A score of the native range on [0, 1].

        Example:
            >>> Benchmark("ava", "test", (1, 10), [], 0).normalised(5.5)
            0.5
        """
        low, high = self.native_range
        return (mos - low) / (high - low)


@dataclass(frozen=True)
class About:
    """Where a set comes from.

    Attributes:
        title: what it is called.
        images: in the split that is reported.
        source: where it is obtained.
        licence: under what terms, in one line.
        layout: the files and folders that are expected under the root.
    """

    title: str
    images: int | None
    source: str
    licence: str
    layout: str


@runtime_checkable
class BenchmarkProtocol(Protocol):
    """The contract of the entry-point group `redaes.benchmarks`. Made with `root` and settings of its own."""

    about: About

    def load(self) -> Benchmark:
        """Read the lists and find the images.

        Raises:
            UserError: this is not the official download; the message says what was found and what is expected.
        """
        ...


def about() -> dict[str, About]:
    """Where every installed benchmark comes from, by name; no root is needed, no file read."""
    return {name: load_plugin("benchmarks", name).about for name in find("benchmarks")}
