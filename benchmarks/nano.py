"""The method at nano scale, over several seeds: what each stage and each ablation arm reaches on held-out photographs.

    python benchmarks/nano.py --seeds 3 --json        one JSON object: means and standard deviations
    python benchmarks/nano.py --seeds 3 --write       also the table in benchmarks/results/nano.md

Every arm is a row of a sweep (`redaes sweep`), so that arms share the steps they have in common, done steps are not
repeated, and what was cut off goes on:

    calibrated, grpo    the method after stage 2 and after stage 3
    shuffled            stage 3 with images of different groups mixed in a batch (Tab. 2)
    plain_sft           stage 1 on absolute scores alone (Tab. 5, "SFT only"), as many steps, evaluated as it is
    mixed_sft           absolute scores with PT-O1 and PT-O2 (Tab. 5, "+ PT-O1 & PT-O2"), as many epochs
    calibrated_plain_sft    plain SFT, then stage 2, so that it ends with the same calibration as the main arm
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from redaes.pipeline import Run
from redaes.presets import read_mapping, resolve_config
from redaes.sweeps.plan import TRAINED, Sweep, as_pipeline, load_sweep, plan, quick_words
from redaes.sweeps.results import read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ARMS = {
    "calibrated": ("table5", "cold_start"),
    "grpo": ("table5", "cold_start_rl"),
    "shuffled": ("table2", "shuffled"),
    "plain_sft": ("table5", "sft"),
    "mixed_sft": ("table5", "sft_o1_o2"),
}


def arms() -> dict[str, Any]:
    """The rows of the paper's ablations that are arms here, and one that the paper has not."""
    known = read_mapping(resolve_config("sweeps/rows.yaml"))
    rows = {arm: known[table]["rows"][run] for arm, (table, run) in ARMS.items()}
    return {**rows, "calibrated_plain_sft": {**rows["plain_sft"], "last": "calibration"}}


def carry_out(folder: Path, seeds: int, quick: bool) -> Sweep:
    """Train and evaluate every arm with every seed; what the sweep was."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = {"run": {"values": list(arms())}, "seed": {"values": list(range(seeds))}}
    ready = {"preset": {"value": "nano"}, "rows": {"value": str(folder / "rows.yaml")}}
    (folder / "rows.yaml").write_text(yaml.safe_dump({"nano": {"reference": "grpo", "rows": arms()}}))
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"name": "nano", "parameters": {**grid, **ready}}))
    words = ["sweep", str(folder / "sweep.yaml"), "--output", str(folder), *(["--quick"] if quick else [])]
    subprocess.run([sys.executable, "-m", "redaes", *words], check=True, stdout=sys.stderr)
    return load_sweep(folder / "sweep.yaml")


def measures(sweep: Sweep, folder: Path, quick: bool) -> list[dict[str, float]]:
    """The headline numbers of each seed; NaN where a measure is not defined."""
    found = {(r["run"], r["seed"]): r for r in read(folder) if (r["table"], r["quick"]) == (sweep.table, quick)}
    cells = plan(sweep, folder, ["grpo"], sweep.seeds, (), quick_words("nano") if quick else None)
    states = Run(as_pipeline(cells, folder)).states
    rows = []
    for cell in cells:
        of = {arm: found[arm, cell.seed] for arm in sweep.rows}
        row = {f"{name}_{arm}": of[arm][name] for arm in of for name in ("srcc_within", "srcc")}
        row = {name: math.nan if value is None else value for name, value in row.items()}
        row["gain"] = row["srcc_within_grpo"] - row["srcc_within_calibrated"]
        row["parse_failure_rate_grpo"] = of["grpo"]["parse_failure_rate"]
        trained = [step.name for step in cell.steps if step.name.partition("-")[0] in TRAINED]
        row["seconds_training"] = sum(states[name].seconds or 0.0 for name in trained)
        row["seconds_total"] = of["grpo"]["seconds"]
        rows.append(row)
    return rows


def summarise(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of every measure over the seeds."""
    keys = [k for k in rows[0] if all(k in row and math.isfinite(row[k]) for row in rows)]
    summary: dict[str, Any] = {k: statistics.fmean(row[k] for row in rows) for k in keys}
    summary |= {f"{k}_std": statistics.stdev(row[k] for row in rows) if len(rows) > 1 else 0.0 for k in keys}
    return summary


ROWS = {
    "srcc_within_calibrated": "after calibration, within group",
    "srcc_within_grpo": "after GRPO, within group",
    "gain": "GRPO above calibration, within group",
    "srcc_calibrated": "after calibration, over all images",
    "srcc_grpo": "after GRPO, over all images",
    "srcc_within_shuffled": "GRPO on shuffled batches, within group (Tab. 2)",
    "srcc_shuffled": "GRPO on shuffled batches, over all images (Tab. 2)",
    "srcc_within_plain_sft": "plain SFT on absolute scores, within group (Tab. 5)",
    "srcc_plain_sft": "plain SFT on absolute scores, over all images (Tab. 5)",
    "srcc_within_mixed_sft": "absolute scores with PT-O1 and PT-O2, within group (Tab. 5)",
    "srcc_mixed_sft": "absolute scores with PT-O1 and PT-O2, over all images (Tab. 5)",
    "srcc_within_calibrated_plain_sft": "plain SFT then calibration, within group",
    "srcc_calibrated_plain_sft": "plain SFT then calibration, over all images",
    "parse_failure_rate_grpo": "unreadable answers after GRPO",
    "seconds_training": "seconds of training",
    "seconds_total": "seconds in all",
}


QUESTIONS = (
    ("GRPO ranks better than calibration", "srcc_within_grpo", "srcc_within_calibrated"),
    ("Consistent batches rank better than shuffled ones (Tab. 2)", "srcc_within_grpo", "srcc_within_shuffled"),
    (
        "SFT with PT-O1 and PT-O2 ranks better than plain SFT (Tab. 5)",
        "srcc_within_mixed_sft",
        "srcc_within_plain_sft",
    ),
    (
        "Calibration ranks better after PT-O1 and PT-O2 than after plain SFT",
        "srcc_within_calibrated",
        "srcc_within_calibrated_plain_sft",
    ),
)


def answers(rows: list[dict[str, float]]) -> list[str]:
    """What the seeds say to the paper's claims, within group, one line each: yes only if every seed says so."""
    lines = []
    for claim, better, worse in QUESTIONS:
        gains = [row[better] - row[worse] for row in rows if better in row and worse in row]
        if gains:
            wins = sum(gain > 0 for gain in gains)
            verdict = {len(gains): "yes", 0: "no, not at this scale"}.get(wins, "undecided at this scale")
            lines.append(f"- {claim}: **{verdict}** ({statistics.fmean(gains):+.3f}; {wins} of {len(gains)} seeds).")
    return lines


def table(summary: dict[str, Any], rows: list[dict[str, float]], command: str) -> str:
    """The committed table, with the command that made it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = [
        "# The method at nano scale",
        "",
        f"Made by `{command}` on {time.strftime('%Y-%m-%d')}, {platform.machine()}, 2 cores, no GPU, commit "
        f"{commit.strip()}. Spearman correlations on photographs that training never saw (coffee, motorcycle), failed",
        "parses counted as the mean prediction.",
        "The truth is the consensus of three judges that measure pixels: a stand-in, not human taste.",
        "",
        "| measure | mean | std | " + " | ".join(f"seed {k}" for k in range(len(rows))) + " |",
        "|---|---:|---:|" + "---:|" * len(rows),
    ]
    for key, label in ROWS.items():
        if key in summary:
            digits = 0 if key.startswith("seconds") else 3
            cells = [f"{row[key]:.{digits}f}" for row in rows]
            mean, std = f"{summary[key]:.{digits}f}", f"{summary[key + '_std']:.{digits}f}"
            lines.append(f"| {label} | {mean} | {std} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *answers(rows)]) + "\n"


def main() -> None:
    """Run every arm for every seed and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=3, help="seeds 0 .. N-1: of the data, the weights and the sampling"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "nano-seeds", help="where the runs are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/nano.md")
    parser.add_argument("--quick", action="store_true", help="shortened steps, to see that it runs")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("--write is for full runs")
    rows = measures(carry_out(options.output, options.seeds, options.quick), options.output, options.quick)
    summary = summarise(rows)
    text = table(summary, rows, f"python benchmarks/nano.py --seeds {options.seeds}")
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "nano.md").write_text(text, encoding="utf-8")
    print(json.dumps({"seeds": options.seeds, "report": str(options.output), **summary}) if options.json else text)


if __name__ == "__main__":
    main()
