"""Photographs of any source, less what must not be trained on: wrong licences, small ones, duplicates, test images.

    source:
      class_path: filtered
      init_args:
        source: {class_path: parquet, init_args: {root: shards, license_column: license}}
        min_size: 512
        licenses: ["CC0*", "https://creativecommons.org/licenses/by/*"]
        exclude: benchmarks.csv        # made by `redaes data hash`
        duplicates: near

The licence is looked at first, then the size, then `exclude`, then duplicates, each among what the one before has left.
What is left depends on the photographs and the settings alone, not on what was examined before or on the number of
threads. The search for near duplicates misses nothing within the distance (`redaes.sources.hamming`). The paper is
silent on duplicates, sizes and licences: all of it is ours.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from redaes.data.manifest import canonical_json
from redaes.errors import UserError
from redaes.registry import PluginSpec, create, optional
from redaes.sources import Photograph, PhotoSource
from redaes.sources.duplicates import Hashed, first_of_duplicates, on_list
from redaes.sources.facts import Facts, FactsFile, read_list
from redaes.sources.hamming import MAX_DISTANCE
from redaes.sources.listing import LeftOut, Photographs

if TYPE_CHECKING:
    from PIL.Image import Image


class FilteredPhotos:
    """Some photographs of another source.

    Args:
        source: the other source, as a configuration writes a plug-in.
        min_size: the shorter side must have this many pixels.
        licenses: patterns, of which one must match the licence, whatever its case; None: any licence.
        exclude: lists made by `redaes data hash`. A photograph is left out if its file is the same as one of these,
            or its perceptual hash is within `distance`.
        duplicates: of photographs with the same file (exact) or within `distance` of each other (near), the first one
            is kept; keep: all are.
        distance: bits of 64 in which two perceptual hashes may differ, in [0, 16].
        facts: where sizes and hashes are kept, so that they are found once, or again where the file of a photograph has
            changed (a source without `stamp` cannot tell); empty: in the user's cache.
        report: a CSV file that names what was left out and why; empty: beside the facts.
        workers: threads that examine photographs; None: one per core.

    Raises:
        UserError: a setting out of range, or imagehash is needed and not installed.
    """

    def __init__(
        self,
        source: PluginSpec,
        min_size: int = 0,
        licenses: str | list[str] | None = None,
        exclude: str | list[str] = "",
        duplicates: str = "near",
        distance: int = 6,
        facts: str = "",
        report: str = "",
        workers: int | None = None,
    ) -> None:
        if duplicates not in ("keep", "exact", "near"):
            raise ValueError(f"duplicates is {duplicates!r}; it must be keep, exact or near")
        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"distance is {distance}; it must be from 0 to {MAX_DISTANCE} bits")
        self.source: PhotoSource = create("sources", source)
        self.min_size = min_size
        self.licenses = None if licenses is None else [pattern.casefold() for pattern in _several(licenses)]
        self.exclude = [Path(path) for path in _several(exclude) if path]
        self.duplicates = duplicates
        self.distance = distance
        self.facts = Path(facts) if facts else _cache(source)
        self.report = Path(report) if report else self.facts.with_suffix(".left-out.csv")
        self.workers = workers
        self.left_out: Mapping[str, int] = {}
        """After `photographs`: how many were left out, by reason."""
        if self._examines:
            optional("imagehash")

    @property
    def _examines(self) -> bool:
        return bool(self.min_size or self.exclude or self.duplicates != "keep")

    def open(self, name: str) -> "Image":
        """As the other source opens it."""
        return self.source.open(name)

    def photographs(self) -> Sequence[Photograph]:
        """Those that are left, in the other source's order.

        Raises:
            UserError: a list that cannot be read, or nothing is left.
        """
        with LeftOut("photographs", self.report) as left_out:
            allowed = Photographs(self._allowed(left_out))
            kept = self._examined(allowed, left_out) if self._examines else allowed
        self.left_out = left_out.counts
        if not kept:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.counts.items()))
            raise UserError(f"no photograph is left: {reasons}; see {self.report}")
        return kept

    def _allowed(self, left_out: LeftOut) -> Iterator[Photograph]:
        """Photographs with an allowed licence."""

        @lru_cache(maxsize=1024)
        def allows(license: str) -> bool:
            return self.licenses is None or any(fnmatchcase(license.casefold(), p) for p in self.licenses)

        for photograph in self.source.photographs():
            if allows(photograph.license):
                yield photograph
            else:
                left_out.add(photograph.name, "licence not allowed", photograph.license)

    def _examined(self, photographs: Photographs, left_out: LeftOut) -> Photographs:
        """Photographs that are readable, large enough, and neither excluded nor duplicates."""
        import numpy as np

        with FactsFile(self.facts) as file:
            facts = file.examine(self.source, (photograph.name for photograph in photographs), self.workers)
            hashed = Hashed.of(self._usable(zip(photographs, facts, strict=True), left_out))
        dropped = self._excluded(hashed, left_out)
        kept = Photographs(p for position, p in enumerate(hashed.photographs) if position not in dropped)
        if self.duplicates == "keep":
            return kept
        mask = np.ones(len(hashed.photographs), bool)
        mask[list(dropped)] = False
        rest = Hashed(kept, hashed.shas[mask], hashed.phashes[mask])
        firsts = first_of_duplicates(rest, self.distance if self.duplicates == "near" else None).tolist()
        for position, first in enumerate(firsts):
            if first != position:
                left_out.add(kept[position].name, "duplicate", f"of {kept[first].name}")
        return Photographs(p for p, (position, first) in zip(kept, enumerate(firsts), strict=True) if position == first)

    def _usable(
        self, examined: Iterable[tuple[Photograph, Facts]], left_out: LeftOut
    ) -> Iterator[tuple[Photograph, Facts]]:
        """Those that can be read and are large enough."""
        for photograph, facts in examined:
            if facts.error:
                left_out.add(facts.name, "unreadable", facts.error)
            elif min(facts.width, facts.height) < self.min_size:
                left_out.add(facts.name, "too small", f"{facts.width} x {facts.height}")
            else:
                yield photograph, facts

    def _excluded(self, hashed: Hashed, left_out: LeftOut) -> set[int]:
        """Positions of what is on one of the lists."""
        excluded: set[int] = set()
        for path in self.exclude:
            listed = Hashed.of((Photograph(facts.name, ""), facts) for facts in read_list(path))
            for position, place in on_list(hashed, listed, self.distance).items():
                if position not in excluded:
                    same = listed.photographs[place].name
                    left_out.add(hashed.photographs[position].name, "image to exclude", f"{same} of {path.name}")
                    excluded.add(position)
        return excluded


def _several(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _cache(source: PluginSpec) -> Path:
    """Where the facts of a source are kept, unless the user says where."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    mark = hashlib.blake2b(canonical_json([os.getcwd(), source]).encode(), digest_size=8).hexdigest()
    return cache / "redaes" / "photographs" / f"{mark}.sqlite"
