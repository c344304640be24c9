"""How a table is shown: in a terminal, as markdown, LaTeX (booktabs), CSV and JSON.

In: a `Table`. Out: text. CSV and JSON hold every cell at full precision. The others give a row of the paper's one line,
and where ours are there one line each for the paper's numbers, ours, the difference, the interval and what it rests on.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from redaes.evaluation.tables import Cell, Column, Kind, Row, Table
from redaes.inference.listing import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

TableFormat = Literal["table", "markdown", "latex", "csv", "json"]
NOTHING = "–"
_LONGEST_NAME = 30  # characters of a terminal's line
_FIELDS = ("paper", "ours", "low", "high", "n", "difference", "comparable", "paper_remark", "remark")
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def as_json(table: Table) -> dict[str, Any]:
    """The table for programs: every cell with the paper's number, ours, its interval, n and the difference."""
    facts = {"table": table.number, "title": table.title, "section": table.section}
    rows = [
        {"name": row.name, "family": row.family, "cells": [_record(*pair) for pair in _cells(table, row)]}
        for row in table.rows
    ]
    return {**facts, "notes": list(table.notes), "how": table.how, "rows": rows}


def as_csv(table: Table) -> str:
    """One line for each cell, with a header."""
    head = ("table", "row", "family")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*head, "column", "over", "title", *_FIELDS, "same"))
    for row in table.rows:
        for column, cell in _cells(table, row):
            writer.writerow((table.number, row.name, row.family, *_record(column, cell).values()))
    return text.getvalue()


def _cells(table: Table, row: Row) -> Iterator[tuple[Column, Cell]]:
    """The cells of a row that hold something, in the order of the columns."""
    for column in table.columns:
        cell = row.cells.get(column.key)
        if cell is not None and (cell.paper is not None or cell.measured):
            yield column, cell


def _record(column: Column, cell: Cell) -> dict[str, Any]:
    said = {name: getattr(cell, name) for name in _FIELDS}
    return {"column": column.key, "over": column.over, "title": column.title, **said, "same": cell.same}


# --- What a row says, line by line ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a row: what it is, and a text for each column with the number of its footnote, 0 without one."""

    label: str
    texts: tuple[tuple[str, int], ...]


class Footnotes:
    """Footnotes of a table, numbered from 1 as they come; the same words have one number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Of a footnote; 0 for an empty one."""
        return self._numbers.setdefault(text, len(self._numbers) + 1) if text else 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter((number, text) for text, number in self._numbers.items())


def lines(table: Table, row: Row, footnotes: Footnotes) -> list[Line]:
    """The lines of a row: the paper's alone where nothing of it is measured."""
    cells = [(column, row.cells.get(column.key, Cell())) for column in table.columns]
    paper = Line("paper", tuple((_number(c.paper, k.kind), footnotes.number(c.paper_remark)) for k, c in cells))
    if not any(cell.measured for _, cell in cells):
        return [paper]
    said: dict[str, Iterable[tuple[str, int]]] = {
        "ours": ((_number(c.ours, k.kind), footnotes.number(c.remark)) for k, c in cells),
        "difference": ((_difference(c, k.kind), 0) for k, c in cells),
        "95 % from": ((_number(c.low, k.kind), 0) for k, c in cells),
        "to": ((_number(c.high, k.kind), 0) for k, c in cells),
        "n": ((NOTHING if c.n is None else f"{c.n:,}", 0) for k, c in cells),
    }
    return [line for line in (paper, *(Line(k, tuple(v)) for k, v in said.items())) if _says_something(line)]


def _says_something(line: Line) -> bool:
    return line.label == "ours" or any(text != NOTHING for text, _ in line.texts)


def _number(value: float | str | None, kind: Kind) -> str:
    if value is None or isinstance(value, str):
        return value or NOTHING
    return f"{100 * value:.1f} %" if kind == "share" else f"{value:.{2 if kind == 'score' else 4}f}".replace("-", "−")


def _difference(cell: Cell, kind: Kind) -> str:
    if cell.same is not None:
        return "the same" if cell.same else "another"
    if cell.difference is None:
        return NOTHING
    text = f"{100 * cell.difference:+.1f}" if kind == "share" else f"{cell.difference:+.{2 if kind == 'score' else 4}f}"
    return (text if text.strip("+-0.") else text[1:]).replace("-", "−")


def _title(table: Table) -> str:
    return f"Tab. {table.number}: {table.title} (Sec. {table.section})".replace("Sec. App.", "App.")


# --- Terminal -------------------------------------------------------------------------------------------------------


def print_terminal(table: Table, console: "Console") -> None:
    """Print a table; columns that do not fit beside each other come below, whole headings at a time.

    Args:
        table: to be shown.
        console: whose width decides.
    """
    from rich.measure import Measurement
    from rich.text import Text

    footnotes = Footnotes()
    said = [(row, lines(table, row, footnotes)) for row in table.rows]
    console.print(Text(_title(table), "bold"))
    wide = console.options.update(max_width=10_000)
    blocks: list[list[int]] = []
    for group in _column_groups(table):
        longer = [*blocks[-1], *group] if blocks else group
        if blocks and Measurement.get(console, wide, _rich(table, said, longer)).maximum <= console.width:
            blocks[-1] = longer
        else:
            blocks.append(group)
    for block in blocks:
        console.print()
        console.print(_rich(table, said, block))
    console.print()
    for number, text in footnotes:
        console.print(Text(f"{number} {printable(text)}", "dim"))
    for text in (*table.notes, table.how):
        if text:
            console.print(Text(printable(text)))


def _column_groups(table: Table) -> list[list[int]]:
    """Places of neighbouring columns under one heading."""
    grouped = groupby(range(len(table.columns)), key=lambda place: table.columns[place].over or str(place))
    return [list(places) for _, places in grouped]


def _rich(table: Table, said: list[tuple[Row, list[Line]]], block: list[int]) -> "RichTable":
    from rich.table import Table as RichTable
    from rich.text import Text

    styles = {"paper": "", "ours": "bold", "difference": ""}
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    shown.add_column("", overflow="fold", max_width=_LONGEST_NAME)
    if table.measured:
        shown.add_column("", style="dim", no_wrap=True)
    for place in block:
        column = table.columns[place]
        heading = Text("\n".join(printable(text) for text in (column.over, column.title) if text))
        shown.add_column(heading, justify="left" if column.kind == "words" else "right", no_wrap=True)
    for family, rows in groupby(said, key=lambda pair: pair[0].family):
        if family:
            shown.add_row(Text(printable(family), "italic"))
        for row, its in rows:
            for index, line in enumerate(its):
                name = Text(printable(row.name) if not index else "")
                cells = [
                    Text(text + str(mark or "").translate(_SUPERSCRIPT), styles.get(line.label, "dim"))
                    for text, mark in (line.texts[place] for place in block)
                ]
                shown.add_row(name, *([line.label] if table.measured else []), *cells)
    return shown


# --- Markdown -------------------------------------------------------------------------------------------------------

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&^$])")


def markdown_text(text: str) -> str:
    """Text as it will be read in a cell of a markdown table: one line, nothing of it markup.

    Example:
        >>> markdown_text("a_b | c")
        'a\\\\_b \\\\| c'
    """
    return _MARKDOWN.sub(r"\\\1", printable(text))


def as_markdown(table: Table) -> str:
    """A pipe table with a heading, and its footnotes and notes as paragraphs."""
    footnotes = Footnotes()
    label = [""] if table.measured else []
    heads = [markdown_text(f"{column.over} {column.title}") for column in table.columns]
    aligned = [":---" if column.kind == "words" else "---:" for column in table.columns]
    out = [f"### {markdown_text(_title(table))}", "", _pipes(["", *label, *heads])]
    out.append(_pipes([":---", *(":---" for _ in label), *aligned]))
    for family, rows in groupby(table.rows, key=lambda row: row.family):
        if family:
            out.append(_pipes([f"*{markdown_text(family)}*", *label, *("" for _ in heads)]))
        for row in rows:
            for index, line in enumerate(lines(table, row, footnotes)):
                cells = [_marked(markdown_text(t), n, "<sup>{}</sup>") for t, n in line.texts]
                if line.label == "ours":
                    cells = [f"**{text}**" for text in cells]
                out.append(_pipes(["" if index else markdown_text(row.name), *([line.label] if label else []), *cells]))
    paragraphs = [f"<sup>{number}</sup> {markdown_text(text)}" for number, text in footnotes]
    paragraphs += [markdown_text(text) for text in (*table.notes, table.how) if text]
    return "\n".join([*out, "", "\n\n".join(paragraphs)]).rstrip() + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _marked(text: str, number: int, form: str) -> str:
    return text + form.format(number) if number else text


# --- LaTeX ----------------------------------------------------------------------------------------------------------

_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "[": "{[}",  # a row that began with it would be an argument of the line break before, and so with the asterisk
    "*": "{*}",
    "-": "-{}",  # where another follows: two would become a dash
    "−": "$-$",
    "–": "{--}",
}
_LATEX_SPECIAL = re.compile(r"-(?=-)|[&%$#_{}\\~^<>|`\"\[*−–]")


def latex_text(text: str) -> str:
    """Text as it will be typeset, whatever characters of LaTeX's it holds.

    Example:
        >>> latex_text("58.3 % of R&D_1")
        '58.3 \\\\% of R\\\\&D\\\\_1'
    """
    return _LATEX_SPECIAL.sub(lambda found: _LATEX[found[0]], printable(text))


def as_latex(table: Table) -> str:
    """A floating table of booktabs, no wider than the page: headings, families in italics, footnotes below."""
    footnotes = Footnotes()
    label = [""] if table.measured else []
    columns = "l" * (1 + len(label)) + "".join("l" if column.kind == "words" else "r" for column in table.columns)
    body = []
    for family, rows in groupby(table.rows, key=lambda row: row.family):
        if family:
            body += [r"\midrule", rf"\multicolumn{{{len(columns)}}}{{l}}{{\textit{{{latex_text(family)}}}}} \\"]
        for row in rows:
            for index, line in enumerate(lines(table, row, footnotes)):
                cells = [_marked(latex_text(t), n, r"\textsuperscript{{{}}}") for t, n in line.texts]
                if line.label == "ours":
                    cells = [rf"\textbf{{{text}}}" for text in cells]
                name = "" if index else latex_text(row.name)
                body.append(" & ".join([name, *([latex_text(line.label)] if label else []), *cells]) + r" \\")
    below = [rf"\textsuperscript{{{number}}}{latex_text(text)}" for number, text in footnotes]
    below += [latex_text(text) for text in (*table.notes, table.how) if text]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
            r"\begin{table*}[t]",
            r"\centering",
            rf"\caption{{{latex_text(_title(table))}}}",
            rf"\label{{tab:redaes-{table.number}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *_latex_headings(table, 1 + len(label)),
            *(body if body[0] == r"\midrule" else [r"\midrule", *body]),
            r"\bottomrule",
            r"\end{tabular}}",
            *(rf"\par\smallskip{{\footnotesize {text}}}" for text in below),
            r"\end{table*}",
            "",
        ]
    )


def _latex_headings(table: Table, before: int) -> list[str]:
    """Headings over several columns with their rules, if any, and the titles of the columns."""
    titles = " & ".join([*[""] * before, *(latex_text(column.title) for column in table.columns)]) + r" \\"
    if not any(column.over for column in table.columns):
        return [titles]
    over, rules = [""] * before, []
    for group in _column_groups(table):
        if not table.columns[group[0]].over:
            over.append("")
            continue
        over.append(rf"\multicolumn{{{len(group)}}}{{c}}{{{latex_text(table.columns[group[0]].over)}}}")
        rules.append(rf"\cmidrule(lr){{{before + group[0] + 1}-{before + group[-1] + 1}}}")
    return [" & ".join(over) + r" \\", "".join(rules), titles]


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": lambda table: json.dumps(as_json(table), ensure_ascii=False, allow_nan=False) + "\n",
}
"""Those that are text; the terminal's needs a width."""
