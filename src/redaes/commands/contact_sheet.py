"""Scored images as a page to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from redaes.inference.listing import Row, display_path

SMALL_SIDE = 96


def write_contact_sheet(
    page: Path,
    paths: Sequence[str],
    shown: Sequence[Row],
    rows: Sequence[Row],
    files: Sequence[Path],
    *,
    ranked: bool,
    others: Mapping[str, Sequence[Row]] | None = None,
) -> None:
    """Write the page.

    Args:
        page: the file.
        paths: that were named.
        shown: rows to show, in order; those without a score are left out.
        rows: all of them; the ones without a score are listed at the end.
        files: that the rows are of, in any order.
        ranked: best first; otherwise as they came.
        others: of bursts, the rows that each shown one stands for, by its path.

    Raises:
        UserError: it cannot be written.
    """
    from redaes.evaluation.html import render, thumbnail, write_page

    by_name = {display_path(path): path for path in files}
    beside = {
        name: [(row, thumbnail(by_name[row.path], SMALL_SIDE)) for row in rest] for name, rest in (others or {}).items()
    }
    text = render(
        "contact_sheet.html",
        named=paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more",
        model=rows[0].model,
        shown=[(row, thumbnail(by_name[row.path]), beside.get(row.path, [])) for row in shown if row.score is not None],
        ranked=ranked,
        scored=sum(row.score is not None for row in rows),
        failed=[row for row in rows if row.score is None],
    )
    write_page(page, text)
