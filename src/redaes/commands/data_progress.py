"""How a build of a dataset is shown while it runs: a live view on a terminal, plain lines elsewhere, both on stderr."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Column, Table

    from redaes.engine.build import Standing

SILENCE = 60.0
"""Seconds after which a plain line is written, however little has happened."""


class Stage(NamedTuple):
    """A line of the view: its name, and what of the funnel went in and came out."""

    name: str
    done: str
    kept: str


STAGES = (
    Stage("edits verified", "pair_edits", "pair_edits_verified"),
    Stage("edits judged", "pair_edits_judged", "pair_edits_unanimously_better"),
    Stage("pairs", "sources_with_enough_verified", "pairs"),
    Stage("variants judged", "group_edits", "group_edits_unanimous"),
)


class Progress:
    """Call it with a build's standing; a context, so that the terminal is left in order."""

    def __init__(self) -> None:
        self._standing: Standing | None = None
        self._began = time.monotonic()
        self._before = 0
        self._live: Live | None = None
        self._tenth = -1
        self._told = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            view = Live(get_renderable=self._view, console=Console(stderr=True), refresh_per_second=2)
            view.start()
            self._live = view
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, standing: "Standing") -> None:
        """Take note of how far the build is."""
        if self._standing is None:
            self._began, self._before = time.monotonic(), standing.done
        self._standing = standing
        if self._live is None and standing.total:
            tenth, now = 10 * standing.done // standing.total, time.monotonic()
            if tenth > self._tenth or now - self._told > SILENCE:
                self._tenth, self._told = tenth, now
                print(f"sources: {self.reached}{self._findings(standing)}", file=sys.stderr, flush=True)

    @property
    def reached(self) -> str:
        """Sources done of all."""
        return f"{self._standing.done}/{self._standing.total}" if self._standing else "0/0"

    @property
    def reasons(self) -> list[str]:
        """Why the first sources of this run were left out."""
        return self._standing.reasons if self._standing else []

    def _findings(self, standing: "Standing") -> str:
        """What was made, left out and spent."""
        said = [f"{standing.funnel['pairs']} pairs", f"{standing.funnel['groups']} groups"]
        if standing.incomplete:
            said.append(f"{standing.incomplete} left out")
        snapshot = standing.calls.snapshot()
        if snapshot.spent:
            said.append(f"{snapshot.spent:.2f} {snapshot.currency}")
        return ", " + ", ".join(said)

    def _view(self) -> "Group":
        """The whole view, as it stands now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar

        standing = self._standing
        if standing is None:
            return Group("planning ...")
        head = f"{self.reached} sources{self._findings(standing)}, {self._time_left(standing)}"
        bar = ProgressBar(total=max(standing.total, 1), completed=standing.done, width=60)
        calls = _calls_table(standing)
        return Group(head, bar, _stages_table(standing), *([calls] if calls.row_count else []), *_notices(standing))

    def _time_left(self, standing: "Standing") -> str:
        seconds, fresh = time.monotonic() - self._began, standing.done - self._before
        if fresh <= 0 or seconds <= 0:
            return "time left unknown"
        left = round((standing.total - standing.done) * seconds / fresh)
        days, clock = divmod(left, 86400)
        return (
            f"{fresh / seconds:.2f} a second, {f'{days} d ' if days else ''}"
            f"{clock // 3600}:{clock // 60 % 60:02d}:{clock % 60:02d} left"
        )


def _stages_table(standing: "Standing") -> "Table":
    """What went into each stage of the finished sources, and what came out."""
    from rich.table import Table

    table = Table("stage", *[_right(name) for name in ("done", "kept", "yield")])
    for stage in STAGES:
        done, kept = standing.funnel[stage.done], standing.funnel[stage.kept]
        table.add_row(stage.name, str(done), str(kept), f"{kept / done:.1%}" if done else "")
    table.add_row("groups", "", str(standing.funnel["groups"]), "")
    return table


def _calls_table(standing: "Standing") -> "Table":
    """What became of the questions since the beginning of this run."""
    from rich.table import Table

    snapshot = standing.calls.snapshot()
    table = Table(
        "calls", *[_right(n) for n in ("answered", "known", "again", "failed", "a second", snapshot.currency)]
    )
    for role, figures in snapshot.roles.items():
        if figures.asked:
            counts = (figures.answered, figures.from_ledger + figures.shared, figures.retried, figures.failed)
            rate = figures.answered / max(snapshot.seconds, 1e-9)
            table.add_row(role, *map(str, counts), f"{rate:.1f}", f"{figures.cost:.4f}")
    return table


def _notices(standing: "Standing") -> list[str]:
    """What a person should know: endpoints that are left alone for a while, and that everything is stopping."""
    snapshot = standing.calls.snapshot()
    said = [
        f"{name} fails; it is left alone for a while" for name, state in snapshot.endpoints.items() if state != "closed"
    ]
    if standing.calls.stopped:
        said.append("stopping: answers in flight are waited for; press Ctrl-C again to leave at once")
    return said


def _right(name: str) -> "Column":
    from rich.table import Column

    return Column(name, justify="right")
