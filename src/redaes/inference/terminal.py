"""How scores look in a terminal: a table with coloured bars on stdout, progress on stderr.

Foreign text (paths, the model's words) is cleared of control characters before it is shown.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from redaes.inference.listing import Row, fingerprint, opened, printable, score_files
from redaes.inference.pools import RemoteImage
from redaes.registry import PluginSpec

if TYPE_CHECKING:
    from rich.text import Text

B = TypeVar("B", bound=Sequence[object])
_SECONDS_BETWEEN_LINES = 10.0
_BAR_CELLS = 10
_WIDTH_WITHOUT_TERMINAL = 160


def score_with_progress(
    files: Sequence[Path | RemoteImage],
    model: str,
    *,
    scorer: str,
    batch_size: int | None,
    device: str | None,
    runner: PluginSpec | None = None,
) -> Iterator[list[Row]]:
    """Load a model and score files with it, batch by batch; no files, no model.

    Args:
        files: image files, readable or not.
        model: a checkpoint folder, or the name of a shipped model.
        scorer: which scorer plug-in serves it.
        batch_size: files per batch, and images per forward pass; None: as many as the scorer likes.
        device: where the model runs; None chooses.
        runner: whose processes score; None: this one.
    """
    if files:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them comes back as an ImageError
        with opened(model, scorer=scorer, batch_size=batch_size, device=device, runner=runner) as loaded:
            batches = score_files(files, loaded, fingerprint(model, scorer), batch_size=batch_size)
            yield from with_progress(batches, len(files))


def print_table(
    rows: Sequence[Row], *, numbered: bool = False, columns: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Print rows as a table; images without a score say why.

    Args:
        rows: in the order to show them.
        numbered: count the rows from 1, for a ranking.
        columns: more to say of each row, by the columns' names.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
    table = Table(box=None, pad_edge=False, header_style="bold")
    if numbered:
        table.add_column("#", justify="right", style="dim")
    table.add_column("image", overflow="ellipsis", no_wrap=True, max_width=48)
    table.add_column("score", justify="right")
    table.add_column("", no_wrap=True, width=_BAR_CELLS)
    for heading in columns or ():
        table.add_column(heading, no_wrap=True)
    table.add_column("reasoning", overflow="fold", ratio=1)
    more = zip(*columns.values(), strict=True) if columns else [()] * len(rows)
    for place, (name, row, said) in enumerate(zip(_short_names(rows), rows, more, strict=True), 1):
        number = [str(place) if row.score is not None else ""] if numbered else []
        score, bar, reasoning = _cells(row)
        table.add_row(*number, name, score, bar, *said, reasoning)
    console.print(table)


def report_errors(rows: Iterable[Row]) -> bool:
    """Write one line on stderr for every row without a score; tells whether there was one."""
    failed = [row for row in rows if row.score is None]
    for row in failed:
        print(f"{printable(row.path)}: {printable(row.error)}", file=sys.stderr)
    return bool(failed)


def with_progress(batches: Iterable[B], total: int | None, verb: str = "scored") -> Iterator[B]:
    """Pass batches on, showing on stderr how many items went by, how fast, and how long the rest will take.

    A bar if stderr is a terminal; else a plain line every ten seconds and one at the end.

    Args:
        batches: sequences of items.
        total: number of items in all batches together; None where that is not known.
        verb: what was done to an item.
    """
    return _bar(batches, total, verb) if sys.stderr.isatty() else _lines(batches, total, verb)


def _bar(batches: Iterable[B], total: int | None, verb: str) -> Iterator[B]:
    from rich import progress as parts
    from rich.console import Console
    from rich.text import Text

    class Rate(parts.ProgressColumn):
        def render(self, task: parts.Task) -> Text:
            return Text(f"{task.speed:.3g} a second" if task.speed else "")

    columns = (
        parts.TextColumn(verb),
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        Rate(),
        parts.TimeRemainingColumn(),
    )
    with parts.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(verb, total=total)
        for batch in batches:
            progress.advance(task, len(batch))
            yield batch


def _lines(batches: Iterable[B], total: int | None, verb: str) -> Iterator[B]:
    start = last = time.monotonic()
    done = told = 0

    def tell(now: float) -> None:
        rate = done / max(now - start, 1e-9)
        of = "" if total is None else f"/{total}"
        left = "" if total is None or done >= total else f", {(total - done) / rate:.0f} s left"
        print(f"{verb} {done}{of} images, {rate:.3g} a second{left}", file=sys.stderr, flush=True)

    for batch in batches:
        done += len(batch)
        now = time.monotonic()
        if done == total or now - last >= _SECONDS_BETWEEN_LINES:
            last, told = now, done
            tell(now)
        yield batch
    if done > told:
        tell(time.monotonic())


def _cells(row: Row) -> "tuple[Text | str, Text | str, Text | str]":
    from rich.text import Text

    if row.score is None:
        return Text("-", "dim"), "", Text(printable(row.error), "red")
    colour = "green" if row.score >= 6 else "yellow" if row.score >= 4 else "red"
    full = round(row.score / 10 * _BAR_CELLS)
    bar = Text("█" * full, colour).append("░" * (_BAR_CELLS - full), "dim")
    return Text(f"{row.score:.1f}", f"bold {colour}"), bar, Text(printable(row.reasoning))


def _short_names(rows: Sequence[Row]) -> "list[Text]":
    """Paths without the folder that all of them share."""
    from rich.text import Text

    shared = os.path.commonpath([os.path.dirname(row.path) for row in rows]) if _have_one_root(rows) else ""
    return [Text(printable(os.path.relpath(row.path, shared) if shared else row.path)) for row in rows]


def _have_one_root(rows: Sequence[Row]) -> bool:
    return bool(rows) and len({os.path.isabs(row.path) for row in rows}) == 1
