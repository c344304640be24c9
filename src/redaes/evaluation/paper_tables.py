"""The paper's tables as data: `paper_tables.yaml`, read and checked.

In: the file. Out: for every table its columns and rows, and each row's numbers by column (`ava.srcc`, `success_rate`).
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

MEASURES = ("plcc", "srcc")
Text = Annotated[str, StringConstraints(min_length=1)]


def _by_column(value: Any) -> Any:
    """`{ava: [0.1, 0.2]}` as `{ava.plcc: 0.1, ava.srcc: 0.2}`."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for key, cell in value.items():
        pair = isinstance(cell, list) and len(cell) == len(MEASURES)
        flat |= {f"{key}.{m}": number for m, number in zip(MEASURES, cell, strict=True)} if pair else {key: cell}
    return flat


class PaperRow(BaseModel):
    """One row as printed.

    Attributes:
        name: as the paper calls it.
        family: the heading it stands under.
        scorer: the ready configuration whose results are ours.
        run: the row of the sweep that makes ours.
        judges: the two judges, as a dataset of the paper's crew records them.
        paper: the numbers, or in Tab. 7 the names of methods, by column.
        remarks: footnotes by column, or by benchmark for both of its columns.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    family: str = ""
    scorer: str = ""
    run: str = ""
    judges: tuple[Text, Text] | None = None
    paper: Annotated[dict[str, float | str], BeforeValidator(_by_column)] = Field(min_length=1)
    remarks: dict[str, Text] = {}

    def remark(self, column: str) -> str:
        """The footnote of a cell; empty if there is none."""
        return self.remarks.get(column) or self.remarks.get(column.partition(".")[0], "")


class PaperTable(BaseModel):
    """One table as printed.

    Attributes:
        title: what it compares.
        section: where the paper speaks of it.
        benchmarks: in the paper's order; each has a PLCC and an SRCC, and so has their average.
        columns: of the tables that are not about benchmarks.
        notes: what a reader must know; ours.
        rows: in the paper's order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Text
    section: Text
    benchmarks: tuple[Text, ...] = ()
    columns: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()
    rows: tuple[PaperRow, ...] = Field(min_length=1)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every column's key, in order."""
        return self.columns or tuple(f"{b}.{m}" for b in (*self.benchmarks, "average") for m in MEASURES)

    @model_validator(mode="after")
    def _agrees(self) -> "PaperTable":
        if bool(self.benchmarks) == bool(self.columns):
            raise ValueError("a table has either benchmarks or columns")
        names = [row.name for row in self.rows]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"rows {sorted(repeated)} are there more than once")
        known = {*self.keys, *(key.partition(".")[0] for key in self.keys)}
        for row in self.rows:
            if strange := (row.paper.keys() - set(self.keys)) | (row.remarks.keys() - known):
                raise ValueError(f"{row.name}: {sorted(strange)} are no columns; they are {', '.join(self.keys)}")
            for key, number in row.paper.items():
                high = 10 if key == "viescore" else 1
                if isinstance(number, float) and not (-1 if self.benchmarks else 0) <= number <= high:
                    raise ValueError(f"{row.name}: {key} is {number}, outside its range")
        return self


@cache
def paper_tables() -> dict[int, PaperTable]:
    """All nine tables by number.

    Example:
        >>> paper_tables()[1].rows[0].paper["ava.srcc"]
        0.3684
    """
    text = files(__package__).joinpath("paper_tables.yaml").read_text(encoding="utf-8")
    return {number: PaperTable.model_validate(table) for number, table in yaml.safe_load(text).items()}
