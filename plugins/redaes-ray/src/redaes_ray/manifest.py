"""A log's manifest: the one file that says what was compacted. Whoever replaces it commits a compaction.

    generations   each the work of one compaction: its files, their rows, the sums over them
    compacted     by writer, the clock up to which its commits are in the generations: parts up to there count no more
    clock         of the latest commit in them

It is one line of JSON that carries its checksum, as the lines of the core's segments do.
"""

from dataclasses import dataclass, field
from typing import Any

from redaes.engine.database import Total
from redaes.engine.segments import seal, unseal
from redaes.errors import UserError
from redaes_ray.storage import Missing, Storage

VERSION = 1

WRITERS = 10_000
"""Writers whose clock is remembered; those of builds long ago have no parts left that could be taken for new ones."""


@dataclass(frozen=True)
class Generation:
    """What one compaction wrote.

    Attributes:
        number: counts up; it is in the names of the files.
        files: their names, below the storage's root.
        size: bytes of their rows in memory.
        totals: sums over them.
    """

    number: int
    files: list[str]
    size: int
    totals: list[Total]


@dataclass(frozen=True)
class Manifest:
    """See above. The generations are in the order of their numbers."""

    generations: list[Generation] = field(default_factory=list)
    compacted: dict[str, int] = field(default_factory=dict)
    clock: int = 0

    def names(self) -> list[str]:
        """The files that count."""
        return [name for generation in self.generations for name in generation.files]

    def totals(self) -> list[Total]:
        """The sums of all generations."""
        return [total for generation in self.generations for total in generation.totals]

    def latest_writers(self) -> dict[str, int]:
        """`compacted`, without the oldest of very many."""
        latest = sorted(self.compacted.items(), key=lambda one: one[1])[-WRITERS:]
        return dict(sorted(latest))

    @classmethod
    def read(cls, storage: Storage, prefix: str) -> "Manifest":
        """The manifest of a log; an empty one where nothing was compacted yet.

        Raises:
            UserError: it is damaged, of another version, or cannot be read.
        """
        name = f"{prefix}/_manifest.json"
        try:
            data = storage.read(name)
        except Missing:
            return cls()
        try:
            said = unseal(data) or {}
            if said.get("version", VERSION) == VERSION:
                return cls._parse(said)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{storage.where(name)} is damaged; restore it from a copy of the ledger, or move "
                f"{storage.where(prefix)} away: what it holds is asked again"
            ) from error
        raise UserError(f"{storage.where(name)} has version {said['version']}, this redaes knows {VERSION}")

    @classmethod
    def _parse(cls, said: dict[str, Any]) -> "Manifest":
        generations = [
            Generation(g["number"], g["files"], g["size"], [Total(*values) for values in g["totals"]])
            for g in said["generations"]
        ]
        return cls(generations, said["compacted"], said["clock"])

    def write(self, storage: Storage, prefix: str) -> None:
        """Commit.

        Raises:
            UserError: it cannot be written.
        """
        generations = [{**vars(g), "totals": [list(total) for total in g.totals]} for g in self.generations]
        said = {
            "version": VERSION,
            "generations": generations,
            "compacted": self.latest_writers(),
            "clock": self.clock,
        }
        storage.write(f"{prefix}/_manifest.json", seal(said)[0])
