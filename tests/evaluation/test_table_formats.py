"""One table, five forms: each is read back by what reads such files, whatever characters names hold."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from tests.evaluation.results_of_benchmarks import made_result

from redaes.evaluation.table_formats import (
    FORMATS,
    as_csv,
    as_json,
    as_latex,
    as_markdown,
    latex_text,
    markdown_text,
    print_terminal,
)
from redaes.evaluation.tables import Cell, Column, Row, Table, benchmark_table, beside, fusion_table
from redaes.inference.listing import printable

SMALL = Table(
    8,
    "Editors & more",
    "App. C",
    (
        Column("viescore", "VIEScore", kind="score"),
        Column("ava.srcc", "SRCC", "AVA"),
        Column("rate", "rate", kind="share"),
    ),
    (
        Row(
            "Nano_Banana", "Paid", {"viescore": Cell(paper=7.89, paper_remark="As printed."), "rate": Cell(paper=0.715)}
        ),
        Row(
            "FLUX | 2",
            "Open",
            {
                "ava.srcc": Cell(paper=0.5, ours=0.4321, low=0.4, high=0.46, n=1234, remark="A part."),
                "rate": Cell(paper=0.642, ours=0.5, n=12, comparable=False),
            },
        ),
    ),
    ("100 % ours.",),
)
SAID = [
    {"row": "Nano_Banana", "column": "viescore", "paper": 7.89, "ours": None, "difference": None, "n": None},
    {"row": "Nano_Banana", "column": "rate", "paper": 0.715, "ours": None, "difference": None, "n": None},
    {"row": "FLUX | 2", "column": "ava.srcc", "paper": 0.5, "ours": 0.4321, "difference": 0.4321 - 0.5, "n": 1234},
    {"row": "FLUX | 2", "column": "rate", "paper": 0.642, "ours": 0.5, "difference": None, "n": 12},
]  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=30)
MARKUP = st.text(st.sampled_from(list("|\\`*_{}[]<>()#+!~&^$%\"'-–−:= a1.@/;")), max_size=30)


def test_markdown_is_as_it_should_be() -> None:
    assert as_markdown(SMALL) == (
        "### Tab. 8: Editors \\& more (App. C)\n"
        "\n"
        "|  |  | VIEScore | AVA SRCC | rate |\n"
        "| :--- | :--- | ---: | ---: | ---: |\n"
        "| *Paid* |  |  |  |  |\n"
        "| Nano\\_Banana | paper | 7.89<sup>1</sup> | – | 71.5 % |\n"
        "| *Open* |  |  |  |  |\n"
        "| FLUX \\| 2 | paper | – | 0.5000 | 64.2 % |\n"
        "|  | ours | **–** | **0.4321<sup>2</sup>** | **50.0 %** |\n"
        "|  | difference | – | −0.0679 | – |\n"
        "|  | 95 % from | – | 0.4000 | – |\n"
        "|  | to | – | 0.4600 | – |\n"
        "|  | n | – | 1,234 | 12 |\n"
        "\n"
        "<sup>1</sup> As printed.\n"
        "\n"
        "<sup>2</sup> A part.\n"
        "\n"
        "100 % ours.\n"
    )


def test_latex_is_as_it_should_be() -> None:
    body = as_latex(SMALL).split("\\toprule\n")[1].split("\\bottomrule")[0]
    assert body == (
        " &  &  & \\multicolumn{1}{c}{AVA} &  \\\\\n"
        "\\cmidrule(lr){4-4}\n"
        " &  & VIEScore & SRCC & rate \\\\\n"
        "\\midrule\n"
        "\\multicolumn{5}{l}{\\textit{Paid}} \\\\\n"
        "Nano\\_Banana & paper & 7.89\\textsuperscript{1} & {--} & 71.5 \\% \\\\\n"
        "\\midrule\n"
        "\\multicolumn{5}{l}{\\textit{Open}} \\\\\n"
        "FLUX \\textbar{} 2 & paper & {--} & 0.5000 & 64.2 \\% \\\\\n"
        " & ours & \\textbf{{--}} & \\textbf{0.4321\\textsuperscript{2}} & \\textbf{50.0 \\%} \\\\\n"
        " & difference & {--} & $-$0.0679 & {--} \\\\\n"
        " & 95 \\% from & {--} & 0.4000 & {--} \\\\\n"
        " & to & {--} & 0.4600 & {--} \\\\\n"
        " & n & {--} & 1,234 & 12 \\\\\n"
    )


def test_json_and_csv_hold_every_cell_at_full_precision() -> None:
    document = json.loads(FORMATS["json"](SMALL))
    cells = [{"row": row["name"], **cell} for row in document["rows"] for cell in row["cells"]]
    assert [{key: cell[key] for key in SAID[0]} for cell in cells] == SAID
    lines = list(csv.DictReader(io.StringIO(as_csv(SMALL))))
    assert [
        {key: value if key in ("row", "column") else float(value) if value else None for key, value in line.items()
         if key in SAID[0]}
        for line in lines
    ] == [{**said} for said in SAID]  # fmt: skip
    assert lines[2]["remark"] == "A part."
    assert lines[0]["table"] == "8"


def test_csv_has_as_many_cells_in_every_line_as_in_its_header() -> None:
    for table in (SMALL, fusion_table(), benchmark_table([made_result("ava", "gpt-5")])):
        assert len({len(line) for line in csv.reader(io.StringIO(as_csv(table)))}) == 1


def shown(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_terminal(table, console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_a_terminal_of_any_width_shows_every_number_whole(width: int) -> None:
    table = benchmark_table([made_result(name, scorer) for name in ("ava", "para") for scorer in ("gpt-5", "ж" * 99)])
    text = shown(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("ж") in range(99, 9999, 99)
    for row in table.rows:
        for cell in row.cells.values():
            assert cell.paper is None or f"{cell.paper:.4f}" in text
            assert cell.ours is None or f"{cell.ours:.4f}" in text


def test_a_name_cannot_paint_the_terminal() -> None:
    table = replace(SMALL, rows=(Row("a\x1b[31m[red]b", "x\x1b]8;;", {"ava.srcc": Cell(ours=0.5)}),))
    text = shown(table, 120)
    assert "\x1b" not in text
    assert "[red]b" in text


def test_without_any_of_ours_no_column_speaks_of_them() -> None:
    table = beside(9, {}, how="run this")
    assert "| Qwen3-VL \\| Qwen2.5-VL | 68.4 % |" in as_markdown(table)
    assert "paper" not in shown(table, 100).splitlines()[3]
    for text in (as_markdown(table), as_latex(table), shown(table, 100), json.dumps(as_json(table))):
        assert "run this" in text


@given(st.one_of(TEXTS, MARKUP))
def test_a_cell_of_markdown_reads_as_the_text_it_was_made_of(text: str) -> None:
    source = f"| a | b |\n| --- | --- |\n| {markdown_text(text)} | end |"
    inline = [token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(source) if token.type == "inline"]
    assert [token.content for token in inline[-1:]] == ["end"]
    assert len(inline) == 4
    kinds = {child.type for child in inline[2].children or ()}
    assert kinds <= {"text", "text_special"}
    assert "".join(child.content for child in inline[2].children or ()) == printable(text)


BACK = {
    **{f"\\{c}": c for c in "&%$#_{}"},
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textasciigrave{}": "`",
    "''": '"',
    "{[}": "[",
    "{*}": "*",
    "-{}": "-",
    "$-$": "−",
    "{--}": "–",
}


@given(st.one_of(TEXTS, MARKUP).filter(lambda text: "'" not in text))
def test_latex_reads_as_the_text_it_was_made_of_and_no_character_commands(text: str) -> None:
    pattern = re.compile("|".join(re.escape(code) for code in sorted(BACK, key=len, reverse=True)))
    made = latex_text(text)
    assert pattern.sub(lambda found: BACK[found[0]], made) == printable(text)
    assert not re.search(r"[&%$#_{}\\~^<>|\"`*[]", pattern.sub("", made))


@pytest.mark.parametrize("number", [1, 2, 7, 8, 9])
def test_every_row_of_latex_has_its_columns_and_every_brace_its_partner(number: int) -> None:
    table = fusion_table() if number == 7 else beside(number, {"Mine_&": {"average.plcc": Cell(ours=0.1)}})
    text = as_latex(table)
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    body = text.split("\\toprule")[1].split("\\bottomrule")[0]
    for line in body.splitlines():
        spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
        if line.endswith("\\\\"):
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == len(columns), line
    plain = re.sub(r"\\[{}]", "", text)
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX is installed")
def test_latex_compiles_whatever_names_hold(tmp_path: Path) -> None:
    names = ["".join(BACK.values()), "[1] in brackets", "* starred", "--- – −", "plain"]
    tables = [
        benchmark_table([made_result("ava", name, unparsed=2) for name in names]),
        fusion_table(),
        beside(9, {name: {"agreement": Cell(ours=0.5, n=3)} for name in names}),
    ]
    packages = "\\usepackage{booktabs}\\usepackage{graphicx}"
    body = "\n".join(as_latex(table) for table in tables)
    text = f"\\documentclass{{article}}{packages}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "tables.tex").write_text(text)
    words = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
