"""How soon the first score is there, how many photographs a second follow, and what fast opening does to the scores.

    python benchmarks/scoring_speed.py --json

`first_score_s`: `redaes score PHOTO` with nano on the CPU and a photograph of 12 megapixels, from the start of the
process to its end; the median of several, each after the libraries' files were given back by the page cache, as far as
the kernel lets go of them (pages that another process has mapped stay). All Python files are compiled, as pip does when
it installs them. `first_score_warm_s`: the same, files in memory. `library`: both for a process that imports redaes,
opens nano, scores the photograph and prints the number; `printed` until the number is there, `whole` until the process,
which takes its million objects apart, has ended.

`images_per_s`: nano scores JPEGs of 12 megapixels by their paths, decoding included, in a process that has scored a
batch before; the best of several passes, with the files in the page cache.

`opening`: what it changes that a photograph is decoded at a fraction of its size and made smaller on the way. Each is
scored by its path, and fully decoded and resized to the model's square in one step; `changed` is the share with another
score, `mean_points` and `most_points` by how much, `repeated_points` how much the mean is if the JPEG is only saved
once more at quality 90: what such a difference is worth.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _machine import machine
from _workload import Shape

WIDTH, HEIGHT = 4000, 3000
COMMAND = [sys.executable, "-m", "redaes", "score", "--device=cpu"]
LIBRARY = [
    sys.executable,
    "-c",
    "import sys, redaes; print(redaes.Scorer('nano', device='cpu').score(sys.argv[1:])[0].value, flush=True)",
]
LIBRARIES = ("redaes", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "PIL", "accelerate")


def photographs(folder: Path, count: int) -> list[Path]:
    """JPEGs of 12 megapixels and some 3 MB: parts of scikit-image's photographs, enlarged, with a sensor's noise."""
    import numpy as np
    from PIL import Image
    from skimage import data

    sources = [Image.fromarray(getattr(data, name)()) for name in ("coffee", "astronaut", "chelsea", "rocket")]
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        source = sources[number % len(sources)].convert("RGB")
        width = int(source.width * rng.uniform(0.4, 0.9))
        height = min(source.height, width * HEIGHT // WIDTH)
        left, top = rng.integers(0, source.width - width + 1), rng.integers(0, source.height - height + 1)
        part = source.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        noise = rng.integers(-12, 13, (HEIGHT, WIDTH, 3), dtype=np.int16)
        pixels = (np.asarray(part, dtype=np.int16) + noise).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number:03}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def first_score(command: Sequence[str], photograph: Path, repeats: int, cold: bool) -> dict[str, list[float]]:
    """Seconds until whole processes that score one photograph have printed its score, and until they have ended."""
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds: dict[str, list[float]] = {"printed": [], "whole": []}
    for repeat in range(repeats + 1):
        if cold:
            forget_files()
        start = time.perf_counter()
        with subprocess.Popen(
            [*command, str(photograph)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=compiled
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            printed = time.perf_counter() - start
            process.stdout.read()
        whole = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
        if repeat:  # the first one compiles
            seconds["printed"].append(printed)
            seconds["whole"].append(whole)
    return seconds


def median(seconds: Sequence[float]) -> float:
    """Of several runs, to hundredths."""
    return round(statistics.median(seconds), 2)


def forget_files() -> None:
    """Ask the kernel to drop the libraries' files from its page cache."""
    for name in LIBRARIES:
        spec = find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in Path(folder).rglob("*"):
                if path.is_file():
                    file = os.open(path, os.O_RDONLY)
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(file)


def throughput(paths: Sequence[Path], repeats: int) -> list[float]:
    """Images a second of passes over all photographs."""
    from redaes import Scorer

    scorer = Scorer("nano", device="cpu")
    scorer.score(paths[: scorer.batch_size])
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        scorer.score(paths)
        rates.append(len(paths) / (time.perf_counter() - start))
    return rates


def opening(paths: Sequence[Path]) -> dict[str, float]:
    """What opening photographs at a fraction of their size changes in their scores."""
    from PIL import Image

    from redaes import Scorer
    from redaes.data.images import open_image

    scorer = Scorer("nano", device="cpu")
    by_path = [score.value or 0.0 for score in scorer.score(paths)]
    whole, again = [], []
    for path in paths:
        image = open_image(path)
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=90)
        whole += scorer.processor.squares([image])
        again += scorer.processor.squares([Image.open(buffer).convert("RGB")])
    fully, repeated = ([score.value or 0.0 for score in scorer.score(squares)] for squares in (whole, again))
    changes = [abs(a - b) for a, b in zip(by_path, fully, strict=True)]
    return {
        "photographs": len(paths),
        "changed": round(sum(change > 0 for change in changes) / len(changes), 3),
        "mean_points": round(statistics.fmean(changes), 4),
        "most_points": round(max(changes), 2),
        "repeated_points": round(statistics.fmean(abs(a - b) for a, b in zip(fully, repeated, strict=True)), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=96, help="how many are scored in a pass")
    parser.add_argument("--repeats", type=int, default=3, help="of everything")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), options.photographs)
        os.sync()  # else their writing is in the way of the reading
        first = {
            (kind, state): first_score(command, paths[0], options.repeats, state == "cold")
            for kind, command in (("command", COMMAND), ("library", LIBRARY))
            for state in ("cold", "warm")
        }
        rates = throughput(paths, options.repeats)
        found: dict[str, Any] = {
            "first_score_s": median(first["command", "cold"]["whole"]),
            "first_score_warm_s": median(first["command", "warm"]["whole"]),
            "library": {
                state: {end: median(seconds) for end, seconds in first["library", state].items()}
                for state in ("cold", "warm")
            },
            "images_per_s": round(max(rates), 1),
            "opening": opening(paths),
            "runs": {
                "first_score_s": [round(s, 2) for s in first["command", "cold"]["whole"]],
                "first_score_warm_s": [round(s, 2) for s in first["command", "warm"]["whole"]],
                "images_per_s": [round(rate, 1) for rate in rates],
            },
            "megabytes": round(statistics.fmean(path.stat().st_size for path in paths) / 1e6, 2),
            "machine": machine(Shape(threads=os.cpu_count() or 1)),
        }
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
