"""Folders laid out as the benchmarks are officially distributed, with small photographs of noise: made on the spot.

Each function writes one set under `root` and returns the mean opinion scores of its test split, by id, as they must
come out of the loader (native range). Names, delimiters, line ends and stray blanks are those of the downloads.
"""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def write_image(path: Path, seed: int, side: int = 32) -> None:
    """A photograph of coloured noise whose brightness and contrast follow `seed`."""
    rng = np.random.default_rng(seed)
    level, spread = rng.uniform(60, 200), rng.uniform(5, 60)
    pixels = rng.normal(level, spread, (side, side, 3)).clip(0, 255).astype("uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _names(n: int, first: int = 0) -> list[str]:
    return [f"farm{i % 9 + 1}_{i % 7 + 200}_{7000000 + i}_{i:08x}_b.jpg" for i in range(first, first + n)]


def write_ava(
    root: Path, n: int = 12, images: str = "image", listed_only: Sequence[str] = (), train: int = 3
) -> dict[str, float]:
    """AVA: `AVA.txt`, `aesthetics_image_lists/*.jpgl`, `<images>/<id>.jpg`.

    Args:
        root: where.
        n: photographs of the test list.
        images: name of the folder of images.
        listed_only: ids that stand in the test list and nowhere else.
        train: photographs of the training list.
    """
    rng = random.Random(0)
    truth, rows = {}, []
    for index in range(n + train):
        id = str(900000 + 7 * index)
        votes = [rng.randint(0, 60) for _ in range(10)]
        votes[index % 10] += 81
        rows.append([index + 1, id, *votes, rng.randint(0, 66), 0, rng.randint(1, 1400)])
        truth[id] = sum(k * v for k, v in enumerate(votes, 1)) / sum(votes)
        write_image(root / images / f"{id}.jpg", index)
    ids = list(truth)
    _write(root / "AVA.txt", "".join(" ".join(map(str, row)) + "\n" for row in rows))
    lists = root / "aesthetics_image_lists"
    _write(lists / "generic_test.jpgl", "".join(f"{id}\n" for id in [*ids[:n], *listed_only]))
    _write(lists / "generic_ls_train.jpgl", "".join(f"{id}\n" for id in ids[n:]))
    return {id: truth[id] for id in ids[:n]}


def write_tad66k(root: Path, n: int = 12, images: str = "TAD66K", train: int = 3) -> dict[str, float]:
    """TAD66K: `labels/merge/{train,test}.csv` with CRLF, `labels/unmerge/{train,test}/<theme>.csv`, `<images>/`."""
    rng = random.Random(1)
    names = [f"{7000 + i}@N0{i % 7}_{i}.jpg" for i in range(n + train)]
    scores = {name: round(rng.uniform(1.4, 9.2), 2) for name in names}
    parts = {"test": names[:n], "train": names[n:]}
    for part, members in parts.items():
        body = "".join(f"{name},{scores[name]}\r\n" for name in members)
        _write(root / f"labels/merge/{part}.csv", "image,score\r\n" + body)
        for theme in ("tree", "flower"):
            chosen = [name for i, name in enumerate(members) if (i % 2 == 0) == (theme == "tree")]
            body = "".join(f"{name},{scores[name]}\r\n" for name in chosen)
            _write(root / f"labels/unmerge/{part}/{theme}.csv", "image,score\r\n" + body)
    for index, name in enumerate(names):
        write_image(root / images / name, 100 + index)
    return {name: scores[name] for name in names[:n]}


def write_flickr_aes(root: Path, n: int = 12, images: str = "40K") -> dict[str, float]:
    """FLICKR-AES: `FLICKR-AES_image_score.txt` with leading blanks, the ratings of the workers, `<images>/`."""
    rng = random.Random(2)
    names = _names(n)
    ratings = {name: [rng.randint(1, 5) for _ in range(5)] for name in names}
    scores = {name: round(sum(r) / len(r) / 5, 4) for name, r in ratings.items()}
    _write(root / "FLICKR-AES_image_score.txt", "".join(f" {name} {score}\n" for name, score in scores.items()))
    body = "".join(f"A{w}, {name}, {r}\r\n" for name, each in ratings.items() for w, r in enumerate(each))
    _write(root / "FLICKR-AES_image_labeled_by_each_worker.csv", " worker, imagePair, score\r\n" + body)
    for index, name in enumerate(names):
        write_image(root / images / name, 200 + index)
    return scores


PARA_LEVELS = [f"{1 + 0.5 * k:.1f}" for k in range(9)]


def write_para(root: Path, n: int = 12, nested: bool = True, train: int = 3) -> dict[str, float]:
    """PARA: `annotation/PARA-Giaa{Train,Test}.csv` with a byte order mark, `imgs/session<k>/iaa_pub<n>_.jpg`."""
    rng = random.Random(3)
    base = root / "PARA" if nested else root
    truth = {}
    for part, numbers in {"Test": range(n), "Train": range(n, n + train)}.items():
        path = base / f"annotation/PARA-Giaa{part}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            counts = [f"aestheticScore_{level}" for level in PARA_LEVELS]
            writer.writerow(
                ["sessionId", "imageName", "semantic", *counts, "aestheticScore_mean", "aestheticScore_std"]
            )
            for number in numbers:
                session, name = f"session{number // 5 + 1}", f"iaa_pub{number + 1}_.jpg"
                votes = [rng.randint(0, 5) for _ in PARA_LEVELS]
                votes[number % 9] += 5
                mean = sum(v * float(s) for v, s in zip(votes, PARA_LEVELS, strict=True)) / sum(votes)
                writer.writerow([session, name, rng.choice(["animal", "plant"]), *votes, repr(mean), "0.5"])
                write_image(base / "imgs" / session / name, 300 + number)
                if part == "Test":
                    truth[f"{session}/{name}"] = mean
    return truth


def write_aadb(
    root: Path, n: int = 12, lists: str = "txt", images: str = "AADB_newtest_originalSize", prefixed: bool = False
) -> dict[str, float]:
    """AADB: `imgListFiles_label/imgListTestNewRegression_*.txt` or `AADBinfo.mat`, and the images.

    Args:
        root: where.
        n: photographs of the test list.
        lists: `txt` or `mat`.
        images: name of the folder of test images.
        prefixed: name the files with their scores, as the folder `AADB_newtest` does.
    """
    rng = random.Random(4)
    names = _names(n, 500)
    truth = {name: rng.choice([0.05, 0.25, 0.5, 0.65, 0.9, 1.0]) for name in names}
    if lists == "mat":
        cells = {"testNameList": names, "trainNameList": _names(3, 900)}
        arrays = {key: np.array([*values], dtype=object).reshape(1, -1) for key, values in cells.items()}
        scores = {"testScore": np.array([list(truth.values())]), "trainScore": np.array([[0.1, 0.2, 0.3]])}
        root.mkdir(parents=True, exist_ok=True)
        savemat(root / "AADBinfo.mat", arrays | scores)
    else:
        folder = root / "imgListFiles_label"
        _write(
            folder / "imgListTestNewRegression_score.txt",
            "".join(f"{name} {score}\n" for name, score in truth.items()),
        )
        _write(folder / "imgListTrainRegression_score.txt", "".join(f"{name} 0.5\n" for name in _names(3, 900)))
        _write(
            folder / "imgListTestNewRegression_ColorHarmony.txt",
            "".join(f"{name} {rng.uniform(-1, 1):.2f}\n" for name in names),
        )
    for index, (name, score) in enumerate(truth.items()):
        write_image(root / images / (f"{score:.3f}_{name}" if prefixed else name), 500 + index)
    return truth
