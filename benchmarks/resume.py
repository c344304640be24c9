"""Kill a training many times and see whether it ends with the same bits as one that ran through.

    python benchmarks/resume.py --stage sft --kills 20 --json      one JSON line; also grpo, calibration
    python benchmarks/resume.py --stage grpo --kills 3             the same for people

A tiny dataset and model are made on the spot. The shipped nano configuration of the stage is run once as it is, and
once killed with SIGKILL again and again: after random numbers of batches, at random moments within them, every other
time while a checkpoint is being written; each time the same command is given again. In the end the exported weights,
metrics.csv and completions.jsonl of both runs are compared byte for byte.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DATASET = {
    "source": {"class_path": "skimage", "init_args": {"names": ["astronaut", "chelsea", "coffee", "rocket"]}},
    "split": {"test": ["coffee"], "validation": ["rocket"]},
    "sources": {"train": 30, "validation": 3, "test": 3, "faults": {"share": 0.6}},
    "editors": ["procedural/tone", "procedural/colour", "procedural/detail"],
    "verifiers": ["pixel/success"],
    "judges": ["pixel/detail", "pixel/tone", "pixel/colour"],
    "groups": {"train": 6, "instructions": 8, "min_variants": 2},
    "calibration": 16,
}
BY_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None, "limit_val_batches": 1}
# What differs from the shipped configurations: sizes, accumulation, and a checkpoint after every step.
STAGES: dict[str, dict[str, Any]] = {
    "sft": {
        "trainer": {**BY_STEPS, "max_steps": 48, "accumulate_grad_batches": 2, "val_check_interval": 15},
        "data": {"batch_size": 8},
    },
    "calibration": {"trainer": {"max_epochs": 15, "check_val_every_n_epoch": 5}, "data": {"batch_size": 4}},
    "grpo": {"trainer": {**BY_STEPS, "max_steps": 180, "val_check_interval": 15}, "data": {"group_size": 4}},
}
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"reward": "benchmarks.resume.Brevity", "inner_epochs": 3, "k": 4, "max_new_tokens": 24}
}


class Brevity:
    """Pays for few characters: a model this small writes no score, and equal rewards would leave nothing to learn."""

    def __call__(self, inputs: Any) -> Any:
        """(N, K) rewards."""
        import torch

        return torch.tensor([[-float(len(text)) for text in row] for row in inputs.texts])


def prepare(place: Path, stage: str) -> list[str]:
    """Dataset, model and configuration; returns the command of the training, without its folder."""
    write_dataset(place / "data")
    write_model(place / "initial")
    return command(place, stage, "initial")


def write_dataset(folder: Path) -> Path:
    """A dataset by the engine, in seconds; the tests of the training take it too."""
    from redaes.engine.build import build
    from redaes.engine.config import EngineConfig
    from redaes.engine.runners import SerialRunner

    build(EngineConfig.model_validate(json.loads(json.dumps(DATASET))), folder, SerialRunner())
    return folder


def write_model(folder: Path) -> Path:
    """An untrained model of 400,000 weights."""
    from redaes.models.nano import build_nano
    from redaes.models.vlm import export

    return export(*build_nano(["Detail is crisper."], hidden=64, layers=2, vision=64), folder)


def command(place: Path, stage: str, model: str) -> list[str]:
    settings = json.loads(json.dumps(STAGES[stage]))
    table = "CompletionTable" if stage == "grpo" else "AnswerTable"
    settings["trainer"]["log_every_n_steps"] = 1
    settings["trainer"]["callbacks"] = [
        {"class_path": "redaes.training.checkpoints.Checkpoints", "init_args": {"every_n_steps": 1}},
        {"class_path": f"redaes.training.callbacks.{table}"},
        {"class_path": "redaes.training.callbacks.ExportCheckpoint"},
    ]
    settings["model"] = {"init_args": MODEL_OPTIONS.get(stage, {})}
    settings["data"] = {"init_args": settings["data"]}
    path = place / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return [
        *(sys.executable, "-m", "redaes", "fit", f"--config=nano/{stage}.yaml", f"--config={path}"),
        *(f"--model.backbone.path={place / model}", f"--data.root={place / 'data'}"),
    ]


def start(words: list[str], root: Path) -> "subprocess.Popen[bytes]":
    root.mkdir(parents=True, exist_ok=True)
    with (root / "output.log").open("ab") as log:
        return subprocess.Popen(
            [*words, f"--trainer.default_root_dir={root}"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )


def train(words: list[str], root: Path) -> None:
    """Train to the end."""
    if start(words, root).wait() != 0:
        raise SystemExit(f"training failed:\n{(root / 'output.log').read_text(encoding='utf-8')[-3000:]}")


def batches(root: Path) -> int:
    """Batches that the newest checkpoint has seen; 0 without one."""
    found = [re.fullmatch(r"step=\d+-batch=(\d+)\.ckpt", path.name) for path in (root / "checkpoints").glob("*.ckpt")]
    return max((int(match[1]) for match in found if match), default=0)


def is_writing(root: Path) -> bool:
    return any((root / "checkpoints").glob(".*.part"))


def kill_after(process: "subprocess.Popen[bytes]", root: Path, target: int, rng: random.Random, in_write: bool) -> bool:
    """Kill once a batch beyond the start and at least `target` is done; False if training ended before."""
    begun = batches(root)
    while batches(root) < max(target, begun + 1):
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    if in_write:
        while not is_writing(root) and process.poll() is None:
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.01))
    else:
        time.sleep(rng.uniform(0, 0.3))
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digest(root: Path) -> dict[str, str]:
    files = [*sorted((root / "model").glob("*.safetensors")), root / "metrics.csv", root / "completions.jsonl"]
    return {str(file.relative_to(root)): sha256(file) for file in files}


def measure(place: Path, stage: str, kills: int, seed: int) -> dict[str, Any]:
    began = time.monotonic()
    words = prepare(place, stage)
    whole, broken = place / "whole", place / "broken"
    train(words, whole)
    total, rng = batches(whole), random.Random(seed)
    if kills > total // 2:
        raise SystemExit(f"the run has {total} batches, too few for {kills} kills")
    killed = half_written = 0
    # A kill may cost the batch it hits and always gains one, so targets two batches apart are all reached.
    slots = rng.sample(range(1, total // 2), kills) if kills < total // 2 else list(range(1, total // 2))
    for number, target in enumerate(sorted(2 * slot for slot in slots)):
        killed += kill_after(start(words, broken), broken, target, rng, in_write=number % 2 == 1)
        half_written += is_writing(broken)
    train(words, broken)
    expected, found = digest(whole), digest(broken)
    weights = [name for name in expected if name.startswith("model/")]
    return {
        "stage": stage,
        "identical": bool(weights) and all(expected[name] == found.get(name) for name in weights),
        "logs_identical": expected == found,
        "learnt": all(sha256(place / "initial" / Path(name).name) != expected[name] for name in weights),
        "kills": killed,
        "kills_in_a_checkpoint": half_written,
        "batches": total,
        "seconds": round(time.monotonic() - began),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=sorted(STAGES), default="sft")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    options = parser.parse_args()
    place = options.keep or Path(tempfile.mkdtemp())
    try:
        with redirect_stdout(sys.stderr):
            result = measure(place.resolve(), options.stage, options.kills, options.seed)
    finally:
        if options.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    return 0 if result["identical"] and result["logs_identical"] and result["kills"] == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
