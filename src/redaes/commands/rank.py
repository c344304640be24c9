"""`redaes rank`: the images of a folder, best first, in the terminal or as a page to look at."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from redaes.data.images import list_images
from redaes.errors import UserError
from redaes.inference.listing import Row, header, to_line
from redaes.inference.terminal import print_table, report_errors, score_with_progress


def rank(
    folder: str,
    model: str = "nano",
    top: int | None = None,
    html: str | None = None,
    format: Literal["table", "jsonl", "csv"] = "table",
    batch_size: int = 16,
    device: str | None = None,
    scorer: str = "redaes",
) -> int:
    """Score the images of a folder and list them best first; equal scores are ordered by path.

    Args:
        folder: a folder (searched recursively) or a pattern such as 'photos/2024-*.jpg'.
        model: a trained checkpoint folder, or 'nano', the small model that comes with the package.
        top: show only this many of the best.
        html: also write a page with the pictures, in one file that needs no network.
        format: how to list them on the terminal: table, jsonl or csv.
        batch_size: images scored at once.
        device: where the model runs, for example 'cuda:0' or 'cpu'. Default: a GPU if there is one.
        scorer: the plug-in that serves the model; packages may add others (`redaes plugins list`).

    Returns:
        The exit code: 0 if every image has a score, 1 if one has none.

    Raises:
        UserError: no images, an output that cannot be written, a model that cannot be loaded.
    """
    for name, value in (("top", top), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    files = list_images([folder])
    if html is not None:
        from redaes.evaluation.html import refuse_unwritable

        refuse_unwritable(Path(html))
    batches = score_with_progress(files, model, scorer=scorer, batch_size=batch_size, device=device)
    rows = [row for batch in batches for row in batch]
    failed = report_errors(rows)
    best = ranked(rows)[:top]
    _print(best, format)
    if html is not None:
        _write_page(Path(html), folder, best, rows, dict(zip((r.path for r in rows), files, strict=True)))
    return int(failed)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows that hold a score, best first, equal scores by path."""
    scored = [(-row.score, row.path, row) for row in rows if row.score is not None]
    return [row for *_, row in sorted(scored, key=lambda item: item[:2])]


def _print(rows: Sequence[Row], form: Literal["table", "jsonl", "csv"]) -> None:
    if form == "table":
        print_table(rows, numbered=True)
    else:
        sys.stdout.write(header(form) + "".join(to_line(row, form) for row in rows))


def _write_page(page: Path, folder: str, best: Sequence[Row], rows: Sequence[Row], files: dict[str, Path]) -> None:
    from redaes.data.manifest import write_atomically
    from redaes.evaluation.html import render, thumbnail

    write_atomically(
        page,
        render(
            "contact_sheet.html",
            folder=folder,
            model=rows[0].model,
            ranked=[(row, thumbnail(files[row.path])) for row in best],
            scored=sum(row.score is not None for row in rows),
            failed=[row for row in rows if row.score is None],
        ),
    )
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)
