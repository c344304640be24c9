"""Keep the best images of a WebDataset: tar shards in, tar shards out, the score in each sample's json.

    python examples/filter_webdataset.py SHARDS OUT --top 0.3         # the best 30 % of all
    python examples/filter_webdataset.py SHARDS OUT --at-least 6.5    # or by a threshold
    python examples/filter_webdataset.py                              # on two shards that are made on the spot

The shards are read twice. First every image is scored, which takes the time: the scores go to OUT/scores, one parquet
file for each shard, and are what `redaes score SHARDS --output OUT/scores` writes. Stop it whenever you like; the same
command goes on where it was. Then samples are copied, byte for byte, one at a time: memory does not grow with the
dataset. Another --top or --at-least needs the second pass only. On several machines: score the shards there, with
`redaes score`, into one OUT/scores, and run this at the end.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import webdataset
from PIL import ImageFilter

from redaes.inference.listing import Row, fingerprint, load_scorer, read_rows
from redaes.inference.shards import list_shards, row_files, score_shard
from redaes.inference.terminal import with_progress
from redaes.sources.skimage_photos import SkimagePhotos


def score_all(files: dict[Path, Path], model: str) -> dict[Path, dict[str, Row]]:
    """The rows of each shard by the samples' keys; only images without a score are looked at."""
    load = cache(partial(load_scorer, model))  # opened when the first image needs it
    rows = {}
    for shard, file in files.items():
        for _ in with_progress(score_shard(shard, file, load, fingerprint(model)), None):
            pass
        found = read_rows(file, "parquet")
        rows[shard] = {row.path.removeprefix(f"{shard.name}/"): row for row in found if row.score is not None}
    return rows


def kept_samples(shard: Path, rows: dict[str, Row], at_least: float) -> Iterator[dict[str, bytes | str]]:
    """The samples of a shard that score high enough, undecoded, as they follow each other there."""
    for sample in webdataset.WebDataset(str(shard.resolve()), shardshuffle=False, empty_check=False):
        row = rows.get(sample["__key__"])
        if row is None or row.score is None or row.score < at_least:
            continue
        said = {"score": row.score, "reasoning": row.reasoning, "model": row.model}
        try:
            sample["json"] = json.dumps({**json.loads(sample.get("json", b"{}")), "redaes": said}).encode()
        except (ValueError, TypeError):  # its json is no object: it stays as it is, and the score goes beside it
            sample["redaes.json"] = json.dumps(said).encode()
        yield sample


def write_shard(shard: Path, samples: Iterator[dict[str, bytes | str]]) -> int:
    """Write samples; the file has its name only once it is whole, so that what has one need not be written again."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    draft, count = shard.with_name(f".{shard.name}.part"), 0
    with draft.open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
    draft.replace(shard)
    return count


def show(scores: np.ndarray, at_least: float) -> None:
    """How many images there are of every half point, and where the cut is."""
    counts, edges = np.histogram(scores, bins=20, range=(0, 10))
    for count, low in zip(counts, edges, strict=False):
        if count:
            share = np.mean(scores[(scores >= low) & (scores <= low + 0.5)] >= at_least)
            bar = round(40 * count / counts.max())
            print(f"{low:5.1f} {'█' * round(bar * share)}{'░' * (bar - round(bar * share))} {count}")


def make_shards(folder: Path) -> Path:
    """Two shards of crops of scikit-image's photographs, half of them out of focus."""
    folder.mkdir(parents=True, exist_ok=True)
    photographs, rng = SkimagePhotos(["astronaut", "chelsea", "coffee", "rocket"]), np.random.default_rng(0)
    for number in range(2):
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            for index in range(16):
                photograph = photographs.open(photographs.names[index % 4])
                side = round(0.7 * min(photograph.size))
                left, top = (int(rng.integers(0, length - side)) for length in photograph.size)
                image = photograph.crop((left, top, left + side, top + side)).resize((256, 256))
                blurred = index % 8 >= 4
                image = image.filter(ImageFilter.GaussianBlur(6)) if blurred else image
                picture, about = io.BytesIO(), {"caption": photographs.names[index % 4], "blurred": blurred}
                image.save(picture, "JPEG", quality=90)
                for ending, data in (("jpg", picture.getvalue()), ("json", json.dumps(about).encode())):
                    info = tarfile.TarInfo(f"{number:05}{index:04}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


def main() -> None:
    """Score, choose, copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="?", help="a folder or a pattern of tar files")
    parser.add_argument("out", nargs="?", type=Path, default=Path("filtered"), help="folder for the new shards")
    parser.add_argument("--model", default="nano", help="a checkpoint folder, or nano")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--top", type=float, default=0.5, help="share of all images to keep")
    cut.add_argument("--at-least", type=float, help="score of the images to keep, from 0 to 10")
    options = parser.parse_args()

    shards = list_shards([options.shards or str(make_shards(options.out / "made-on-the-spot"))])
    if not shards or any(shard.suffix != ".tar" for shard in shards):
        raise SystemExit(f"{options.shards}: name a folder or a pattern of tar files")
    files = row_files(shards, options.out / "scores")
    targets = {s: options.out / f.relative_to(options.out / "scores").with_name(s.name) for s, f in files.items()}
    if any(target.resolve() == shard.resolve() for shard, target in targets.items()):
        raise SystemExit(f"{options.out}: name a folder that the shards are not in")
    rows = score_all(files, options.model)
    scores = np.array([row.score for of_shard in rows.values() for row in of_shard.values()])
    if not len(scores):
        raise SystemExit(f"no image of {len(shards)} shards has a score")
    # a score that occurs: images that score the same are kept or left out together
    at_least = options.at_least
    if at_least is None:
        at_least = float(np.quantile(scores, max(0.0, 1 - options.top), method="higher"))
    show(scores, at_least)

    # What was written with another cut or model is written anew; what was written with this one is left.
    chosen, note = json.dumps({"model": fingerprint(options.model), "at_least": at_least}), options.out / "filter.json"
    if not note.is_file() or note.read_text() != chosen:
        for target in targets.values():
            target.unlink(missing_ok=True)
        note.write_text(chosen)
    for shard, target in targets.items():
        if target.exists():
            print(f"{target}: there already")
        else:
            count = write_shard(target, kept_samples(shard, rows[shard], at_least))
            print(f"{target}: {count} of {len(rows[shard])} images")
    print(f"kept {int((scores >= at_least).sum())} of {len(scores)} images, those of {at_least:.2f} and more")


if __name__ == "__main__":
    main()
