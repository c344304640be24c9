"""How soon the first score is there, how many photographs a second follow, and what fast opening does to the scores.

    python benchmarks/scoring_speed.py --json

`first_score_s`: a new process imports redaes, opens nano on the CPU and scores one photograph of 12 megapixels; the
whole process, median of several, each after the libraries' files were given back by the page cache, as far as the
kernel lets go of them (pages that another process has mapped stay). `first_score_warm_s`: the same, files in memory.

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
FIRST = "import sys, redaes; print(redaes.Scorer('nano', device='cpu').score(sys.argv[1:])[0].value)"
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


def first_score(photograph: Path, repeats: int, cold: bool) -> list[float]:
    """Seconds of whole processes that score one photograph."""
    seconds = []
    for _ in range(repeats):
        if cold:
            forget_files()
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST, str(photograph)], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return seconds


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
        cold = first_score(paths[0], options.repeats, cold=True)
        warm = first_score(paths[0], options.repeats, cold=False)
        rates = throughput(paths, options.repeats)
        found: dict[str, Any] = {
            "first_score_s": round(statistics.median(cold), 2),
            "first_score_warm_s": round(statistics.median(warm), 2),
            "images_per_s": round(max(rates), 1),
            "opening": opening(paths),
            "runs": {
                "first_score_s": [round(s, 2) for s in cold],
                "first_score_warm_s": [round(s, 2) for s in warm],
                "images_per_s": [round(rate, 1) for rate in rates],
            },
            "megabytes": round(statistics.fmean(path.stat().st_size for path in paths) / 1e6, 2),
            "machine": machine(Shape(threads=os.cpu_count() or 1)),
        }
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
