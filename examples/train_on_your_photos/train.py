"""Train a small model on a folder of your photographs, and rank them before and after the last stage.

    python examples/train_on_your_photos/train.py ~/Pictures/best-of    # every image of the folder and its subfolders
    python examples/train_on_your_photos/train.py                       # on scikit-image's photographs

What happens is in pipeline.yaml beside this file: nine commands of redaes, carried out by `redaes run`. Stop them
whenever you like; the same command goes on where it was. What comes out is a checkpoint that every command takes:
`redaes rank FOLDER --model runs/yours/grpo/model`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from redaes.sources.skimage_photos import SkimagePhotos

PIPELINE = Path(__file__).with_name("pipeline.yaml")


def some_photographs(folder: Path) -> Path:
    """Eight photographs that come with scikit-image."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["astronaut", "camera", "chelsea", "coffee", "coins", "motorcycle", "retina", "rocket"]
    for name in names:
        SkimagePhotos([name]).open(name).save(folder / f"{name}.jpg", quality=92)
    return folder


def scores(file: Path) -> dict[str, float]:
    """What `redaes score` wrote: the score of each photograph that has one."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {row["path"]: row["score"] for row in rows if row["score"] is not None}


def show_ranks(before: dict[str, float], after: dict[str, float]) -> None:
    """Every photograph with its place and score, after and before GRPO."""
    places = {path: place for place, path in enumerate(sorted(before, key=before.__getitem__, reverse=True), 1)}
    print("\nplace  score   before GRPO    photograph")
    for place, path in enumerate(sorted(after, key=after.__getitem__, reverse=True), 1):
        then = f"{places[path]:3} {before[path]:7.1f}" if path in places else "no readable"
        print(f"{place:5} {after[path]:6.1f}   {then:14} {path}")


def show_order(output: Path) -> None:
    """How well the model puts versions of held-out photographs in the judges' order, before and after GRPO."""
    print("\norder within groups of versions of photographs held out: rank correlation with the judges, 95 % interval")
    for name in ("before", "after"):
        metrics = json.loads((output / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
        order = metrics["failures_as_mean"]["srcc_within"]
        print(f"  {name:6} {order['value']:5.2f} [{order['low']:.2f}, {order['high']:.2f}]  {metrics['groups']} groups")


def main() -> None:
    """Run the pipeline and show what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?", type=Path, help="folder of photographs")
    parser.add_argument("--output", type=Path, default=Path("runs/yours"), help="folder of the run")
    options = parser.parse_args()
    photos = options.photos or some_photographs(options.output.with_name("photographs"))
    command = ["run", str(PIPELINE), "--output", str(options.output), "--set", f"photos={photos}"]
    if code := subprocess.run([sys.executable, "-m", "redaes", *command], check=False).returncode:
        raise SystemExit(code)
    show_order(options.output)
    show_ranks(scores(options.output / "before.jsonl"), scores(options.output / "after.jsonl"))
    print(f"\nYour model is {options.output / 'grpo' / 'model'}")


if __name__ == "__main__":
    main()
