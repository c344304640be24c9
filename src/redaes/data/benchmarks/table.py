"""Any set of photographs with scores in a delimited file: the benchmark `csv`."""

import math
from pathlib import Path

from redaes.data.benchmarks import About, Benchmark, Item
from redaes.data.benchmarks.lists import (
    NO_IMAGE,
    NO_ROW,
    Rows,
    counted,
    describe_list,
    images_without_row,
    read_lines,
    read_table,
)
from redaes.errors import UserError

DELIMITERS = ",;\t|"


class Table:
    """A table with a header; its delimiter is the one of `,`, `;`, tab and `|` that the header has most of.

    Args:
        root: the table, or the folder that holds it under `file`.
        file: name of the table in `root`.
        path: column of image paths, relative to the table's folder or absolute.
        score: column of scores.
        group: column of groups; empty: none.
        low: lowest possible score; None: the lowest there is.
        high: highest possible score; None: the highest there is.
    """

    about = About("a table of yours", None, "yours", "yours", "FILE.csv with the columns path and score")

    def __init__(
        self,
        root: str,
        file: str = "",
        path: str = "path",
        score: str = "score",
        group: str = "",
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        self.file = Path(root, file)
        self.path, self.score, self.group = path, score, group
        self.low, self.high = low, high

    def load(self) -> Benchmark:
        """See `BenchmarkProtocol.load`."""
        if not self.file.is_file():
            raise UserError(f"{self.file} is not a file; give the table as root, or its name in root as file")
        rows = self._rows()
        if not rows.rows:
            raise UserError(f"{self.file} has no usable row of {rows.n_listed}: {counted(rows.left_out)}")
        notes = [describe_list(self.file, rows.n_listed)]
        scores = [row.mos for row in rows.rows.values()]
        low = min(scores) if self.low is None else self.low
        high = max(scores) if self.high is None else self.high
        if self.low is None or self.high is None:
            notes.append(f"the range {low:g} to {high:g} was measured; low and high set it")
        if not low < high:
            raise UserError(f"{self.file}: scores range from {low:g} to {high:g}; two different ones are needed")
        items = []
        for row in rows.rows.values():
            image = self.file.parent / row.id
            if image.is_file():
                items.append(Item(row.id, image, row.mos, group=row.group))
            else:
                rows.left_out.setdefault(NO_IMAGE, []).append(row.id)
        if not items:
            raise UserError(f"none of the {len(scores)} images of {self.file} exists, first {next(iter(rows.rows))}")
        unlisted = images_without_row({i.path.parent for i in items}, (self.file.parent / id for id in rows.rows))
        if unlisted:
            rows.left_out[NO_ROW] = unlisted
        return Benchmark("csv", self.file.name, (low, high), items, rows.n_listed, rows.left_out, notes)

    def _rows(self) -> Rows:
        header = next((text for _, text in read_lines(self.file) if text is not None), "")
        rows = Rows(-math.inf if self.low is None else self.low, math.inf if self.high is None else self.high)
        needed = [self.path, self.score, *([self.group] if self.group else [])]
        for cells in read_table(self.file, needed, rows, max(DELIMITERS, key=header.count)):
            rows.add(cells[self.path], cells[self.score], group=cells[self.group] if self.group else "")
        return rows
