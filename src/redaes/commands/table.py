"""`redaes table`: a table of the paper with ours beside it."""

import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redaes.errors import UserError
from redaes.evaluation.correlations import FailureTreatment
from redaes.evaluation.table_formats import TableFormat

if TYPE_CHECKING:
    from redaes.evaluation.tables import Table

RESULTS = "runs/evaluation"
WIDTH_WITHOUT_TERMINAL = 160
HOW = {
    "benchmarks": "Nothing of ours in {}. A row fills up benchmark by benchmark: redaes evaluate --benchmark ava "
    "--root DIR --scorer benchmarks/scorers/NAME.yaml",
    "sweep": "Ours: redaes sweep sweeps/table{0}.yaml --output DIR, then redaes table {0} --sweep DIR",
    "data": "Ours: redaes data build DIR --mode eager, then redaes table {0} --data DIR",
}


def table(
    number: int,
    results: str = RESULTS,
    sweep: str = "",
    data: str = "",
    failures: FailureTreatment = "parsed_only",
    format: TableFormat = "table",
    output: str = "",
) -> None:
    """Show a table of the paper with ours beside it, and the difference; without any of ours the paper's alone.

    Args:
        number: of the paper's table: 1 benchmarks, 2 to 6 ablations, 7 fusion, 8 editors, 9 judges.
        results: folder of `redaes evaluate --benchmark`; for tables 1 to 6.
        sweep: folder of `redaes sweep`, for tables 2 to 6.
        data: folder of a dataset, for tables 8 and 9.
        failures: what is done with answers that hold no score: parsed_only leaves them out, failures_as_mean counts
            them as the mean prediction.
        format: table for a terminal, markdown, latex (booktabs), csv (a line for each cell) or json.
        output: a file to write instead of the standard output (-o).

    Raises:
        UserError: no such table, no results where they are said to be, or a file that cannot be written.
    """
    from rich.console import Console

    from redaes.data.manifest import write_atomically
    from redaes.evaluation.table_formats import print_terminal

    made = _table(number, results, sweep, data, failures)
    if output:
        try:
            write_atomically(Path(output), _text(made, format))
        except OSError as error:
            raise UserError(f"cannot write {output}: {error.strerror or error}") from error
    elif format == "table":
        print_terminal(made, Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL))
    else:
        print(_text(made, format), end="")


def _text(made: "Table", format: TableFormat) -> str:
    from rich.console import Console

    from redaes.evaluation.table_formats import FORMATS, print_terminal

    if format != "table":
        return FORMATS[format](made)
    text = StringIO()
    print_terminal(made, Console(file=text, width=WIDTH_WITHOUT_TERMINAL))
    return text.getvalue()


def _table(number: int, results: str, sweep: str, data: str, failures: FailureTreatment) -> "Table":
    from redaes.evaluation.results import read_results
    from redaes.evaluation.tables import benchmark_table, editors_table, fusion_table, judges_table

    if number not in range(1, 10):
        raise UserError(f"there is no table {number}; the paper has tables 1 to 9")
    if results != RESULTS and not Path(results).is_dir():
        raise UserError(f"no folder {results}; results are written by `redaes evaluate --benchmark ... --predictions`")
    if number == 1:
        return benchmark_table(read_results(results), failures, HOW["benchmarks"].format(results))
    if number == 7:
        return fusion_table()
    how = HOW["sweep" if number < 7 else "data"].format(number)
    if number < 7:
        return _ablation(number, read_results(results), sweep, failures, how)
    statistics = _statistics(data) if data else None
    return editors_table(statistics, how) if number == 8 else judges_table(statistics, how)


def _ablation(number: int, results: list[dict[str, Any]], sweep: str, failures: FailureTreatment, how: str) -> "Table":
    from redaes.evaluation.tables import beside
    from redaes.sweeps.results import read
    from redaes.sweeps.tables import ablation_table

    if not sweep:
        return beside(number, {}, how=how)
    return ablation_table(number, Path(sweep), read(Path(sweep)), results, failures)


def _statistics(data: str) -> Mapping[str, Any]:
    from redaes.data.manifest import Manifest

    found: Mapping[str, Any] = Manifest(data).info.get("statistics", {})
    if missing := [key for key in ("biased", "verification", "judge_agreement", "categories") if key not in found]:
        raise UserError(f"the manifest of {data} records no {missing[0]}; `redaes data build` writes it")
    return found
