"""`redaes data report`: a dataset as a page for people, or as numbers for programs."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from redaes.errors import UserError

if TYPE_CHECKING:
    from redaes.engine.database import Total


def report(
    dataset: str,
    output: str = "",
    pairs: int = 60,
    groups: int = 20,
    rejected: int = 40,
    seed: int = 0,
    ledger: str = "",
    format: Literal["html", "json"] = "html",
) -> None:
    """Audit a dataset: what came through, how editors and judges did, what it cost, and a sample to look at.

    The page is one file that needs no network, of 40 MB at most; pictures that would not fit are left out and counted.

    Args:
        dataset: folder of a dataset.
        output: the page to write (-o); default: beside the dataset, with its name and .html.
        pairs: pairs to show, drawn uniformly at random; 300 at most.
        groups: groups to show; 300 at most.
        rejected: rejected edits to show, each with the reason; 300 at most.
        seed: of the draw.
        ledger: folder of the ledger whose calls and cost are shown; default: the one beside the dataset, if any.
        format: html for people, json for programs (to the standard output, or into --output).

    Raises:
        UserError: no dataset, a damaged record, or a page that cannot be written.
    """
    from redaes.data.manifest import write_atomically
    from redaes.evaluation.dataset_report import audit, numbers_of, page_of

    for name, value in (("pairs", pairs), ("groups", groups), ("rejected", rejected)):
        if not 0 <= value <= 300:
            raise UserError(f"--{name} is {value}; it must be from 0 to 300")
    found = audit(dataset, _totals(dataset, ledger), pairs, groups, rejected, seed)
    if format == "json" and not output:
        print(json.dumps(numbers_of(found), allow_nan=False))
        return
    root = Path(os.path.abspath(dataset))
    page = Path(output) if output else root.with_name(f"{root.name}.html")
    text = json.dumps(numbers_of(found), indent=1, allow_nan=False) + "\n" if format == "json" else page_of(found)
    try:
        write_atomically(page, text)
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror or error}") from error
    print(f"wrote {page} ({len(text.encode()) / 1e6:.1f} MB)", file=sys.stderr)


def _totals(dataset: str, ledger: str) -> "list[Total] | None":
    """Sums over the calls of a ledger; None where none was named and none is beside the dataset."""
    from redaes.engine.build import read_ledger

    root = Path(os.path.abspath(dataset))
    beside = root.with_name(f"{root.name}.ledger")
    if not ledger and not beside.exists():
        return None
    with read_ledger(ledger or beside, dataset) as opened:
        return opened.totals()
