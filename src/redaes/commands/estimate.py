"""`redaes data estimate`: calls, tokens and cost of a build before anything is spent."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from redaes.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from redaes.engine.database import Total
    from redaes.engine.estimate import Estimate, Spending
    from redaes.registry import PluginSpec
    from redaes.sources import Photograph


def estimate(
    config: str = "nano/data.yaml",
    set: list[str] | None = None,
    output: str = "",
    ledger: str = "",
    photographs: int | None = None,
    rates: str = "",
    edit_success: float | None = None,
    agreement: float | None = None,
    settled: float | None = None,
    prompt_tokens: int = 700,
    reply_tokens: int = 300,
    format: Literal["table", "json"] = "table",
) -> None:
    """Estimate calls, tokens and cost of a build, per stage and in all, eager beside lazy. Nothing is asked.

    Args:
        config: YAML file, as for `redaes data build`.
        set: override any key of the config, as for `redaes data build`.
        output: the dataset to be built: what its ledger holds already is taken off.
        ledger: folder of the answers that the build goes on with, if it is not beside the dataset.
        photographs: as many are planned with, instead of those the config's source holds; they need not be there yet.
        rates: a dataset, finished or not, whose rates and sizes of calls are to be expected instead of assumed ones.
        edit_success: share of edits that pass verification; default the paper's 0.637 (Tab. 8).
        agreement: share of edits on whose direction two judges agree; default the paper's 0.678 (Tab. 9).
        settled: share of edits that the first verifier alone fails, so that a lazy build asks no other; default 0.
        prompt_tokens: assumed of a question, its images apart.
        reply_tokens: assumed of an answer, hidden reasoning included.
        format: table for people, json for programs.
    """
    from redaes.engine.config import load_config
    from redaes.engine.estimate import Talk
    from redaes.engine.estimate import estimate as estimate_build
    from redaes.engine.expectation import Rates, better_from
    from redaes.engine.plan import plan_jobs
    from redaes.presets import resolve_config

    loaded = load_config(resolve_config(config), set or [])
    seen = _seen(rates) if rates else []
    measured = _measured_rates(Path(rates), seen) if rates else {}
    better = None if agreement is None else better_from(agreement)
    given = {"edit_success": edit_success, "better": better, "settled": settled}
    chosen = Rates(**{**measured, **{name: value for name, value in given.items() if value is not None}})
    jobs = plan_jobs(_photographs(loaded.source, photographs), loaded)
    held = _totals(Path(ledger), output) if ledger else _seen(output) if output else []
    result = estimate_build(loaded, jobs, chosen, Talk(prompt_tokens, reply_tokens), seen, held)
    if format == "json":
        print(json.dumps(dataclasses.asdict(result)))
        return
    _show(result, loaded.mode)


def _photographs(source: "PluginSpec", count: int | None) -> "Sequence[Photograph]":
    """The photographs there are, or as many that nobody has seen yet.

    Raises:
        UserError: fewer than one.
    """
    from redaes.registry import create
    from redaes.sources import Photograph

    if count is None:
        photographs: Sequence[Photograph] = create("sources", source).photographs()
        return photographs
    if count < 1:
        raise UserError(f"--photographs is {count}; give 1 or more")
    return [Photograph(str(number), "") for number in range(count)]


def _seen(dataset: str) -> "list[Total]":
    """What the ledger beside a dataset has seen; nothing where there is none."""
    path = Path(os.path.abspath(dataset))
    folder = path.with_name(f"{path.name}.ledger")
    return _totals(folder, dataset) if folder.is_dir() else []


def _totals(folder: Path, dataset: str) -> "list[Total]":
    """What a ledger has seen."""
    from redaes.engine.build import read_ledger

    with read_ledger(folder, dataset) as ledger:
        return ledger.totals()


def _measured_rates(dataset: Path, seen: "list[Total]") -> dict[str, float]:
    """The rates that a dataset met, as far as it says, lazy or eager.

    Each is a ratio of sums over all sources, which early stops leave unbiased where sources are many.

    Raises:
        UserError: neither a dataset nor a ledger there.
    """
    from redaes.data.manifest import Manifest

    found: dict[str, float] = {}
    verifies = [t.calls for t in seen if t.role == "verify" and t.status == "ok"]
    if len(verifies) > 1 and max(verifies):
        found["settled"] = 1 - min(verifies) / max(verifies)
    if (dataset / "manifest.json").is_file():
        info = Manifest(dataset).info
        funnel, judges = info["statistics"]["funnel"], len(info["config"]["judges"])
        if funnel["pair_edits"]:
            found["edit_success"] = funnel["pair_edits_verified"] / funnel["pair_edits"]
        if funnel["pair_edits_judged"]:
            # Of judges as independent as the estimate assumes, so many would be unanimous.
            found["better"] = (funnel["pair_edits_unanimously_better"] / funnel["pair_edits_judged"]) ** (1 / judges)
    elif not seen:
        raise UserError(f"{dataset} is no dataset and has no ledger; nothing can be measured there")
    return found


def _show(result: "Estimate", mode: str) -> None:
    from rich.console import Console

    from redaes.engine.prices import how_to_add

    # Wide enough for the table where nobody's terminal sets the width.
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    rates = result.rates
    console.print(f"{result.sources:,} sources, {result.pairs:,} for a pair, {result.groups:,} for a group")
    console.print(
        f"{rates.edit_success:.1%} of edits pass, two judges agree on {rates.agreement:.1%}; the config is {mode}"
    )
    console.print(_table(result))
    if result.eager.calls:
        saved = 1 - result.lazy.calls / result.eager.calls
        console.print(f"lazy asks {saved:.1%} less than eager for the same dataset")
    for model in result.unpriced:
        console.print(f"no price is known of {model!r}: {how_to_add(model)}")
    console.print("list prices, to be checked; answers that have to be asked for again come on top")


def _table(result: "Estimate") -> "Table":
    from rich.table import Table

    table = Table(title=f"Estimate, cost in {result.currency}", title_justify="left")
    table.add_column("stage", no_wrap=True)
    table.add_column("plug-in", overflow="fold")
    for column in ("eager\ncalls", "\ncost", "lazy\ncalls", "\ncost", "\nat most", "\ntokens in", "\nout"):
        table.add_column(column, justify="right")
    for row in result.rows:
        table.add_row(row.role, row.plugin, *_cells(row.eager, row.lazy))
    table.add_section()
    table.add_row("all", "", *_cells(result.eager, result.lazy))
    return table


def _cells(eager: "Spending", lazy: "Spending") -> list[str]:
    asked = f"{lazy.calls:,.0f}" + (f" ({lazy.held:,.0f} held)" if lazy.held else "")
    tokens = [_many(lazy.input_tokens), _many(lazy.output_tokens)]
    return [f"{eager.calls:,.0f}", _money(eager.cost), asked, _money(lazy.cost), _money(lazy.cost_at_most), *tokens]


def _many(count: float) -> str:
    return f"{count:,.0f}" if count < 1e6 else f"{count / 1e6:,.0f} M"


def _money(value: float | None) -> str:
    return "?" if value is None else f"{value:,.2f}"
