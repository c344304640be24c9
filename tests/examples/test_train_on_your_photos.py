"""A folder of photographs becomes a model that ranks them, by the commands of a pipeline."""

import json
import re
from pathlib import Path

import pytest
from tests.examples.running import ROOT, example, run

from redaes.data.images import list_images
from redaes.inference.listing import read_rows


@pytest.mark.slow
def test_a_folder_of_photographs_becomes_a_model_that_ranks_them(tmp_path: Path) -> None:
    done = example("train_on_your_photos/train.py", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    output = tmp_path / "runs" / "yours"
    after = {row.path: row.score for row in read_rows(output / "after.jsonl", "jsonl") if row.score is not None}
    assert len(list_images([str(tmp_path / "runs" / "photographs")])) == 8
    listed = re.findall(r"^ +(\d) +([\d.]+) .* (\S+\.jpg)$", done.stdout, re.MULTILINE)
    assert [path for _, _, path in listed] == sorted(after, key=lambda path: -after[path])
    assert [float(score) for _, score, _ in listed] == sorted((round(s, 1) for s in after.values()), reverse=True)
    assert len(after) >= 7, "the model answers readably"
    for name in ("before", "after"):
        metrics = json.loads((output / f"{name}.json").read_text())["metrics"]
        order = metrics["failures_as_mean"]["srcc_within"]
        assert order["low"] > 0, "the order of held-out versions is better than chance"
        assert f"{name:6} {order['value']:5.2f} [{order['low']:.2f}, {order['high']:.2f}]" in done.stdout
    again = example("train_on_your_photos/train.py", cwd=tmp_path)
    assert "9 of 9 steps are done already" in again.stderr
    assert again.stdout == done.stdout
    ranked = run("-m", "redaes", "rank", "runs/photographs", "--model", "runs/yours/grpo/model", cwd=tmp_path)
    assert "astronaut.jpg" in ranked.stdout


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    refused = example("train_on_your_photos/train.py", "nowhere", cwd=tmp_path)
    assert refused.returncode == 2
    assert "nowhere" in refused.stderr.strip().splitlines()[-1]
    assert "Traceback" not in refused.stderr


def test_the_pipeline_of_the_example_is_one_that_redaes_can_run() -> None:
    from redaes.pipeline import Run, load_pipeline

    pipeline = load_pipeline(ROOT / "examples/train_on_your_photos/pipeline.yaml", [f"photos={ROOT / 'docs'}"])
    assert [step.name for step in Run(pipeline).left()][:5] == ["data", "initial", "sft", "calibration", "grpo"]
