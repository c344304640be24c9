"""How the cost of a GRPO step grows: seconds and peak memory as N, K, P, C and the image size grow, one at a time.

    python benchmarks/scaling.py --json                     table on stderr, one line of JSON on stdout
    python benchmarks/scaling.py --figure scaling.svg       also the chart of seconds over K
    python benchmarks/scaling.py --only k                   one of the variables

Every point is a whole step, rollout to optimiser, of the real LightningModule in a process of its own (`_sides.py`).

The claim about K is about the passes that training makes over completions: a step is linear in K, and one more output
per image costs at most C / (P + C) of what it costs when the prompt is repeated for it. Both passes are measured,
forward and backward of the loss, on the same model: `branch_logprobs` in its two layouts (shared: packed rows, and a
cache) and `answer_logprobs` (repeated). A last one, `repeated, one tower pass`, is given the image features, so that it
differs in the language part alone; there the head and the completions' own attention, which both forms pay, keep the
ratio above C / (P + C). The exit code is 1 if the slope is steeper than claimed. Lines are least squares;
`unexplained` is the share of the variance they leave.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from _machine import Clock, child, machine, serve
from _workload import Shape, add_shape_arguments, photograph, shape_of, write_checkpoint, write_dataset
from grpo_step import rounded

VARIED: dict[str, tuple[int, ...]] = {
    "images": (2, 4, 8),
    "k": (2, 4, 6, 8),
    "prompt_tokens": (426, 640, 852),
    "new_tokens": (32, 64, 128, 192),
    "image_size": (252, 504, 756),
}
FORMS = ("shared", "shared, cache", "repeated", "repeated, one tower pass")


def pass_over_completions(shape: Shape, folder: Path, form: str, repeats: int) -> dict[str, Any]:
    """Forward and backward of the loss of N * K random completions, the measured part of `passes`."""
    import torch

    from redaes.models.features import image_features, join_features, split_features
    from redaes.models.forward import answer_logprobs, branch_logprobs
    from redaes.models.vlm import Backbone, open_model
    from redaes.prompts import render

    model, processor = open_model(Backbone(path=str(folder / "model"), image_size=shape.image_size, dtype=shape.dtype))
    model = model.to(shape.device).train()
    images = [[photograph(seed, shape.image_size)] for seed in range(shape.images)]
    prompts = processor.batch(images, [render("score")] * shape.images).to(shape.device)
    tokens = torch.randint(300, 600, (shape.completions, shape.new_tokens)).to(shape.device)
    rows = torch.arange(shape.images, device=shape.device).repeat_interleave(shape.k)
    mask = torch.ones_like(tokens)

    def shared(layout: Any = "packed") -> Any:
        return branch_logprobs(model, prompts, tokens, mask, layout=layout)[0]

    def repeated(features: Any = None) -> Any:
        whole = prompts.rows(rows)
        unlabelled = torch.full_like(whole.input_ids, -100)
        batch = replace(
            whole,
            input_ids=torch.cat([whole.input_ids, tokens], dim=1),
            attention_mask=torch.cat([whole.attention_mask, mask], dim=1),
            mm_token_type_ids=torch.cat([whole.mm_token_type_ids, torch.zeros_like(tokens)], dim=1),
            labels=torch.cat([unlabelled, tokens], dim=1),
            # Known by their keys, equal images would go through the tower once.
            image_keys=None,
        )
        return answer_logprobs(model, batch, features=features)[0]

    def repeated_with_features() -> Any:
        parts = split_features(image_features(model, prompts))
        return repeated(join_features([parts[row] for row in rows.tolist()]))

    run: Callable[[], Any] = dict(
        zip(FORMS, (shared, lambda: shared("cache"), repeated, repeated_with_features), strict=True)
    )[form]
    clock = Clock(shape.device)
    for _repeat in range(1 + repeats):
        run().mean().backward()
        model.zero_grad()
        clock.end_step()
    return point(clock.report())


def point(report: dict[str, Any]) -> dict[str, float]:
    """Seconds on the wall and of the processor, and peak memory."""
    return {
        "seconds": statistics.median(report["steps_s"]),
        "cpu_s": report["cpu_s"],
        "peak_gb": report["peak_gb"],
    }


def line(x: list[float], y: list[float]) -> dict[str, float]:
    """Least squares y = intercept + slope x, and the share of y's variance that it leaves out."""
    slope, intercept = statistics.linear_regression(x, y)
    residual = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    spread = sum((b - statistics.fmean(y)) ** 2 for b in y)
    return {"slope": slope, "intercept": intercept, "unexplained": residual / spread if spread else 0.0}


class Folders:
    """One checkpoint and dataset for each prompt length and image size."""

    def __init__(self, root: Path, groups: int) -> None:
        self.root = root
        self.groups = groups

    def of(self, shape: Shape) -> Path:
        """The folder of a shape, written if it is not there."""
        folder = self.root / "-".join(str(v) for v in (shape.prompt_tokens, shape.image_size, shape.images))
        if not (folder / "data").is_dir():
            write_checkpoint(shape, folder / "model")
            write_dataset(shape, folder / "data", self.groups)
        return folder


def step_points(base: Shape, variable: str, folders: Folders, steps: int) -> list[dict[str, Any]]:
    """Seconds and peak memory of a whole step at every value of one variable."""
    points = []
    for value in VARIED[variable]:
        shape = replace(base, **{variable: value})
        if variable == "image_size":
            # The text of the prompt stays as long as it is.
            change = image_tokens(shape) - image_tokens(base)
            shape = replace(shape, prompt_tokens=base.prompt_tokens + change)
        found = child("_sides.py", "grpo/ours", shape, folders.of(shape), steps=steps, beta=0.04)
        points.append({"value": value, **point(found)})
        print(f"{variable:24} {value:4}  {described(points[-1])}", file=sys.stderr)
    return points


def described(found: dict[str, float]) -> str:
    return f"{found['seconds']:7.2f} s  {found['cpu_s']:7.2f} s of the processor  {found['peak_gb']:5.2f} GB"


def image_tokens(shape: Shape) -> int:
    """Tokens of one image."""
    return (shape.image_size // (28 if shape.family == "qwen2_5_vl" else 32)) ** 2


def passes(base: Shape, folders: Folders, repeats: int) -> dict[str, Any]:
    """The pass over completions in its three forms as K grows, and the slopes beside the claim."""
    forms: dict[str, Any] = {}
    for form in FORMS:
        points = []
        for k in VARIED["k"]:
            found = child("scaling.py", "pass", replace(base, k=k), folders.of(base), form=form, repeats=repeats)
            points.append({"value": k, **found})
            print(f"{form:24} {k:4}  {described(found)}", file=sys.stderr)
        forms[form] = {"points": points, **fits(points)}
    claim = base.new_tokens / (base.prompt_tokens + base.new_tokens)
    ratios = {
        form: {m: forms["shared"][m]["slope"] / forms[form][m]["slope"] for m in ("seconds", "cpu_s", "peak_gb")}
        for form in FORMS[1:]
    }
    return {"claim": claim, "slope_ratio": ratios["repeated"]["seconds"], "slope_ratios": ratios, "forms": forms}


def fits(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Lines through what was measured."""
    x = [float(point["value"]) for point in points]
    return {measure: line(x, [point[measure] for point in points]) for measure in ("seconds", "cpu_s", "peak_gb")}


STYLE = (
    "<style>:root{--curve:#3367d6}.gridline,.zero{stroke:#8884}.raw{fill:none;stroke-width:2}.curve{display:none}"
    "text{font:11px sans-serif;fill:#888}</style>"
)


def write_figure(path: Path, points: list[dict[str, Any]]) -> None:
    """Seconds of a step over K, as a picture that stands alone."""
    from redaes.evaluation.charts import line_chart

    x, y = [point["value"] for point in points], [point["seconds"] for point in points]
    chart = str(line_chart("seconds of a step", x, y, x_label="outputs of each image, K", colour="curve"))
    opening, content = chart.split(">", 1)
    path.write_text(f'{opening} xmlns="http://www.w3.org/2000/svg">{STYLE}{content}', encoding="utf-8")


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=[*VARIED, "passes"], help="one variable, or the passes over completions alone"
    )
    parser.add_argument("--steps", type=int, default=1, help="measured steps of a point, after one to warm up")
    parser.add_argument("--repeats", type=int, default=3, help="measured passes of a point, after one to warm up")
    parser.add_argument("--figure", type=Path, help="write the chart of seconds over K here")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    add_shape_arguments(parser)
    parser.set_defaults(images=4)
    options = parser.parse_args()
    base = shape_of(options)
    # Some libraries log to stdout when they are imported; it is for the result alone.
    with tempfile.TemporaryDirectory() as temporary, redirect_stdout(sys.stderr):
        folders = Folders(Path(temporary), 1 + options.steps)
        found: dict[str, Any] = {"shape": vars(base), "machine": machine(base), "steps": {}}
        for variable in VARIED:
            if options.only in (None, variable):
                points = step_points(base, variable, folders, options.steps)
                found["steps"][variable] = {"points": points, **fits(points)}
        if options.only in (None, "passes"):
            found |= passes(base, folders, options.repeats)
    if options.figure and "k" in found["steps"]:
        write_figure(options.figure, found["steps"]["k"]["points"])
    if options.json:
        print(json.dumps(rounded(found)))
    if "claim" not in found:
        return 0
    passed = found["slope_ratio"] <= found["claim"]
    print(
        f"slope in K {found['slope_ratio']:.3f} of the repeated form's; claimed {found['claim']:.3f}", file=sys.stderr
    )
    return 0 if passed else 1


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        serve({"pass": pass_over_completions})
    else:
        sys.exit(main())
