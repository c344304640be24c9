"""Live figures of the calls, for a view of the progress."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace


@dataclass(slots=True)
class Figures:
    """What became of the questions of one role."""

    asked: int = 0
    from_ledger: int = 0
    shared: int = 0
    answered: int = 0
    retried: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """How things stand, for a view of the progress.

    Attributes:
        seconds: since the beginning.
        roles: what became of the questions since then.
        in_flight: calls.
        waiting: calls that wait for their turn.
        spent: of the budget, what the ledger held before included, in `currency`.
        endpoints: `closed`, `open` (paused) or `half-open` (one call tries).
    """

    seconds: float
    roles: dict[str, Figures]
    in_flight: int
    waiting: int
    spent: float
    currency: str
    endpoints: dict[str, str]


def merged(*parts: Mapping[str, Figures]) -> dict[str, Figures]:
    """The figures of several processes together, by role."""
    total = Tally()
    for part in parts:
        for role, figures in part.items():
            total.add(role, **asdict(figures))
    return total.figures()


class Tally:
    """Figures by role, kept by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: dict[str, Figures] = {}

    def add(self, role: str, **counts: float) -> None:
        """Add to the figures of a role, by their names."""
        with self._lock:
            figures = self._figures.setdefault(role, Figures())
            for name, count in counts.items():
                if count:
                    setattr(figures, name, getattr(figures, name) + count)

    def figures(self) -> dict[str, Figures]:
        """As they are now."""
        with self._lock:
            return {role: replace(figures) for role, figures in self._figures.items()}
