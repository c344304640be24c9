"""The method at nano scale, over several seeds: what each stage and each ablation arm reaches on held-out photographs.

    python benchmarks/nano.py --seeds 3 --json        one JSON object: means and standard deviations
    python benchmarks/nano.py --seeds 3 --write       also the table in benchmarks/results/nano.md

Every arm is the public command line, run as a user would run it. The main arm is `redaes run nano`; the others branch
off its folders:

    plain_sft     stage 1 on absolute scores alone (Tab. 5, "SFT only"), as many steps, evaluated as it is
    mixed_sft     absolute scores with PT-O1 and PT-O2 (Tab. 5, "+ PT-O1 & PT-O2"); a pair then gives four samples, not
                  two, so twice the steps are as many epochs
    calibrated_plain_sft    plain SFT, then stage 2, so that it ends with the same calibration as the main arm
    shuffled      stage 3 with images of different groups mixed in a batch (Tab. 2)

Finished arms are not repeated: the folder under --output is reused.
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

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def redaes(*words: str) -> None:
    """Run one command, its output on stderr."""
    subprocess.run([sys.executable, "-m", "redaes", *words], check=True, stdout=sys.stderr)


def main_arm(folder: Path, seed: int) -> None:
    redaes("run", "nano", "--output", str(folder), "--set", f"seed={seed}")


def stage(folder: Path, name: str, config: str, model: str, seed: int, *options: str) -> None:
    """Train one more arm of a stage, unless it is there."""
    if (folder / name / "model").is_dir():
        return
    redaes(
        "fit",
        f"--config={config}",
        f"--seed_everything={seed}",
        f"--model.backbone.path={folder / model}",
        f"--data.root={folder / 'data'}",
        f"--trainer.default_root_dir={folder / name}",
        *options,
    )


def evaluate(folder: Path, name: str) -> None:
    output = folder / "evaluation" / f"{name}.json"
    if not output.is_file():
        redaes(
            "evaluate", "--data", str(folder / "data"), "--model", str(folder / name / "model"), "--output", str(output)
        )


def other_arms(folder: Path, seed: int) -> None:
    absolute = "--data.objectives=[absolute]"
    stage(folder, "plain_sft", "nano/sft.yaml", "initial", seed, absolute, "--data.swap_prob=0")
    evaluate(folder, "plain_sft")
    mixed = ("--data.objectives=[absolute,compare,predict_edit]", "--data.swap_prob=0", "--trainer.max_steps=500")
    stage(folder, "mixed_sft", "nano/sft.yaml", "initial", seed, *mixed)
    evaluate(folder, "mixed_sft")
    stage(folder, "calibrated_plain_sft", "nano/calibration.yaml", "plain_sft/model", seed)
    evaluate(folder, "calibrated_plain_sft")
    stage(folder, "shuffled", "nano/grpo.yaml", "calibration/model", seed, "--data.batching=shuffled")
    evaluate(folder, "shuffled")


def measures(folder: Path) -> dict[str, float]:
    """The headline numbers of one seed."""
    summary = json.loads((folder / "results.json").read_text(encoding="utf-8"))["summary"]
    values = {k: float(v) for k, v in summary.items() if isinstance(v, int | float)}
    for arm in ("plain_sft", "mixed_sft", "calibrated_plain_sft", "shuffled"):
        document = json.loads((folder / "evaluation" / f"{arm}.json").read_text(encoding="utf-8"))
        values |= arm_measures(arm, document)
    return values


def arm_measures(arm: str, document: dict[str, Any]) -> dict[str, float]:
    found = document["metrics"]
    return {f"srcc_within_{arm}": headline(found, "srcc_within"), f"srcc_{arm}": headline(found, "srcc")}


def headline(metrics: dict[str, Any], name: str) -> float:
    """A measure with failed parses counted as the mean prediction; NaN where it is not defined."""
    value = metrics["failures_as_mean"][name]["value"]
    return math.nan if value is None else float(value)


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
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        folder = options.output / f"seed-{seed}"
        main_arm(folder, seed)
        other_arms(folder, seed)
        rows.append(measures(folder))
        rows[-1]["gain"] = rows[-1]["srcc_within_grpo"] - rows[-1]["srcc_within_calibrated"]
    summary = summarise(rows)
    text = table(summary, rows, f"python benchmarks/nano.py --seeds {options.seeds}")
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "nano.md").write_text(text, encoding="utf-8")
    print(json.dumps({"seeds": options.seeds, "report": str(options.output), **summary}) if options.json else text)


if __name__ == "__main__":
    main()
