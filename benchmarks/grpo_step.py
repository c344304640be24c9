"""What one training step costs, against the peer that does the same step: seconds and peak memory.

    python benchmarks/grpo_step.py --vs trl --json              a GRPO step against TRL's GRPOTrainer.train()
    python benchmarks/grpo_step.py --what sft --json            an SFT step against a plain transformers loop
    python benchmarks/grpo_step.py --what score --json          scoring against `generate`, image by image
    python benchmarks/grpo_step.py --model 3b --device cuda --dtype bfloat16 --trl-vllm --json

Both sides start from the same weights, see the same images and prompts and make exactly `--new-tokens` tokens of every
completion (see `_workload.py`). The runs alternate, ours, peer, ours, peer, ..., each in a process of its own, which
takes one warm-up step and then measures `--steps` more, each from the end of one to the end of the next. Seconds are
the median of a run's steps; the ratio is the peer's seconds over ours, of every two runs that follow each other; its
median is `step_ratio`. Memory is the peak resident memory of the whole process, imports, weights and warm-up included
(on a GPU the peak of allocated memory); `memory_ratio` is ours over the peer's.

`ours_cpu_s` and the peer's are seconds of the processor, of all threads: other work on the machine inflates them less
than it does seconds on the wall.

TRL's settings are its best on this workload: the whole step in one batch, its fused head (its default), no gradient
checkpointing (as ours), no logging, no saving. JSON is one line on stdout; all else goes to stderr.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

from _floor import Sizes, decode_bytes, operations
from _machine import child, machine, matrix_rates
from _workload import Shape, add_shape_arguments, shape_of, write_checkpoint, write_dataset

PEER = {"grpo": "trl", "sft": "transformers", "score": "transformers"}


def measure(what: str, shape: Shape, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run both sides `repeats` times, in turn."""
    write_checkpoint(shape, folder / "model", endless=what != "sft")
    write_dataset(shape, folder / "data", groups=1 + options.steps)
    runs: list[tuple[str, dict[str, Any]]] = []
    for repeat in range(options.repeats):
        for side in ("ours", PEER[what]):
            settings = {"steps": options.steps, "beta": options.beta}
            if side == "trl" and options.trl_vllm:
                settings["vllm"] = True
            runs.append((side, child("_sides.py", f"{what}/{side}", shape, folder, **settings)))
            print(f"run {repeat + 1} of {options.repeats}, {side}: {describe(runs[-1][1])}", file=sys.stderr)
    check_sameness(what, runs)
    return summary(what, shape, runs) | cost(what, shape, runs, options, folder) | {"machine": machine(shape)}


def describe(run: dict[str, Any]) -> str:
    return f"{seconds(run):.2f} s a step, peak {run['peak_gb']:.2f} GB"


def seconds(run: dict[str, Any]) -> float:
    return statistics.median(run["steps_s"])


def check_sameness(what: str, runs: list[tuple[str, dict[str, Any]]]) -> None:
    """Both sides of an SFT step must have had the same loss.

    Raises:
        SystemExit: they had not.
    """
    if what != "sft":
        return
    losses = [run["loss"] for _, run in runs]
    if max(losses) - min(losses) > 1e-3 * max(losses):
        raise SystemExit(f"the two sides did not do the same step: their losses are {losses}")


def summary(what: str, shape: Shape, runs: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians and spreads of the two sides and of their ratios."""
    peer = PEER[what]
    found: dict[str, Any] = {}
    times = [(side, seconds(run)) for side, run in runs]
    ratios = [
        (later / sooner) if side == "ours" else (sooner / later) for (side, sooner), (_, later) in pairwise(times)
    ]
    peaks = {side: [run["peak_gb"] for name, run in runs if name == side] for side in ("ours", peer)}
    found["step_ratio"] = statistics.median(ratios)
    found["memory_ratio"] = statistics.median(peaks["ours"]) / statistics.median(peaks[peer])
    for side in ("ours", peer):
        found[f"{side}_s"] = statistics.median(t for name, t in times if name == side)
        found[f"{side}_cpu_s"] = statistics.median(run["cpu_s"] for name, run in runs if name == side)
        found[f"{side}_gb"] = statistics.median(peaks[side])
    found["step_ratio_min_max"] = [min(ratios), max(ratios)]
    found["runs_s"] = {side: [t for name, t in times if name == side] for side in ("ours", peer)}
    found["runs_gb"] = peaks
    found["phases_s"] = {side: median_phases([run for name, run in runs if name == side]) for side in ("ours", peer)}
    if what == "score":
        texts = {side: next(run["texts"] for name, run in runs if name == side) for side in ("ours", peer)}
        same = [a == b for a, b in zip(texts["ours"], texts[peer], strict=True)]
        found["same_answers"] = sum(same) / len(same)
        found["images_s"] = {side: shape.images / found[f"{side}_s"] for side in ("ours", peer)}
    return {"what": what, "vs": peer, **found, "shape": vars(shape)}


def median_phases(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Median seconds of each phase over the runs of one side, and of what is in none of them."""
    phases = {name: statistics.median(run["phases_s"][name] for run in runs) for name in runs[0]["phases_s"]}
    rest = statistics.median(map(seconds, runs)) - sum(phases.values())
    return phases | {"rest": rest}


def cost(
    what: str, shape: Shape, runs: list[tuple[str, dict[str, Any]]], options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """How far our step is from the least it can be: its products of matrices at the best rate measured here.

    `rollout_tokens_s` and `update_tokens_s` are completion tokens by the seconds of the rollout and of all the rest.
    """
    rates = matrix_rates(shape)
    if what != "grpo":
        return {"matrix_gflops": rates}
    from transformers import AutoConfig

    sizes = Sizes.of(AutoConfig.from_pretrained(folder / "model"), shape.image_size)
    ours = [run for side, run in runs if side == "ours"]
    step, rollout = statistics.median(map(seconds, ours)), median_phases(ours)["rollout"]
    tokens = shape.completions * shape.new_tokens
    count = {form: operations(sizes, shape, shared=form == "shared", reference=options.beta > 0) for form in FORMS}
    floor = count["shared"]["all"] / max(rates.values()) / 1e9
    return {
        "rollout_tokens_s": tokens / rollout,
        "update_tokens_s": tokens / (step - rollout),
        "matrix_gflops": rates,
        "gflop": {form: {k: round(v / 1e9, 1) for k, v in parts.items()} for form, parts in count.items()},
        "decode_gb": {
            form: decode_bytes(sizes, shape, shared=form == "shared", size=4 if shape.dtype == "float32" else 2) / 1e9
            for form in FORMS
        },
        "floor_s": floor,
        "floor_share": floor / step,
    }


FORMS = ("shared", "repeated")


def rounded(value: Any) -> Any:
    """The same with every float at four digits."""
    match value:
        case float():
            return float(f"{value:.4g}")
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
    return value


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=list(PEER), default="grpo")
    parser.add_argument("--vs", choices=sorted(set(PEER.values())), help="the peer; each comparison has one")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--steps", type=int, default=1, help="measured steps of a run, after one to warm up")
    parser.add_argument("--beta", type=float, default=0.04, help="KL coefficient; 0 is without a reference model")
    parser.add_argument("--trl-vllm", action="store_true", help="TRL samples with vLLM in its own process (GPU)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--work", type=Path, help="keep checkpoint and dataset in this folder")
    add_shape_arguments(parser)
    options = parser.parse_args()
    if options.vs not in (None, PEER[options.what]):
        parser.error(f"--what {options.what} is compared with {PEER[options.what]}, not with {options.vs}")
    # Some libraries log to stdout when they are imported; it is for the result alone.
    with tempfile.TemporaryDirectory() as temporary, redirect_stdout(sys.stderr):
        found = rounded(measure(options.what, shape_of(options), options, options.work or Path(temporary)))
    if options.json:
        print(json.dumps(found))
        return
    peer = found["vs"]
    low, high = found["step_ratio_min_max"]
    print(f"a step: ours {found['ours_s']} s and {found['ours_gb']} GB, {peer} {found[peer + '_s']} s and ", end="")
    print(f"{found[peer + '_gb']} GB; {found['step_ratio']} times faster ({low} to {high}), ", end="")
    print(f"{found['memory_ratio']} of the memory")


if __name__ == "__main__":
    main()
