"""From shards of photographs to an export, by the command line: no test image is trained on, every licence arrives."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from redaes.sources.parquet import ParquetPhotos
from redaes.sources.skimage_photos import SkimagePhotos

YAML = """
source:
  class_path: redaes.sources.filtered.FilteredPhotos
  init_args:
    source: {class_path: webdataset, init_args: {root: shards}}
    licenses: ["CC*"]
    min_size: 300
    exclude: benchmark.csv
    report: left-out.csv
split: {test_fraction: 0.4, validation_fraction: 0}
sources: {train: 6, validation: 0, test: 2, size: 48}
editors: [procedural/tone, procedural/colour]
verifiers: [pixel/success]
judges: [pixel/tone, pixel/colour]
groups: {train: 2, min_variants: 1}
"""
LICENSES = {
    "astronaut": "CC0",
    "chelsea": "CC BY 4.0",
    "rocket": "CC0",
    "coffee": "CC0",
    "brick": "all rights reserved",
}


def redaes(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
    command = [sys.executable, "-m", "redaes", *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_a_dataset_from_shards_is_free_of_benchmark_images_and_keeps_every_licence(tmp_path: Path) -> None:
    photos = SkimagePhotos()
    (tmp_path / "shards").mkdir()
    (tmp_path / "benchmark" / "images").mkdir(parents=True)
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        for name, license in LICENSES.items():
            buffer = io.BytesIO()
            photos.open(name).save(buffer, "PNG")
            for member, data in (
                (f"{name}.png", buffer.getvalue()),
                (f"{name}.json", json.dumps({"license": license})),
            ):
                info = tarfile.TarInfo(member)
                content = data if isinstance(data, bytes) else data.encode()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    smaller = photos.open("coffee").resize((300, 200))
    smaller.save(tmp_path / "benchmark" / "images" / "c.jpg", quality=70)
    (tmp_path / "data.yaml").write_text(YAML)

    hashed = redaes(tmp_path, "data", "hash", "benchmark", "--output", "benchmark.csv")
    assert (hashed.returncode, hashed.stdout) == (0, "benchmark.csv: 1 images hashed, 0 could not be read\n")
    built = redaes(tmp_path, "data", "build", "out", "--config", "data.yaml", "--workers", "1")
    assert built.returncode == 0, built.stderr
    assert "1 left out, image to exclude: 0.tar/coffee (benchmark/images/c.jpg of benchmark.csv)" in built.stderr
    assert "1 left out, licence not allowed: 0.tar/brick (all rights reserved)" in built.stderr
    assert "named in left-out.csv" in built.stderr
    records = [json.loads(line)["source"] for line in (tmp_path / "out" / "sources.jsonl").read_text().splitlines()]
    assert {(r["photograph"], r["license"]) for r in records} == {
        (f"0.tar/{name}", LICENSES[name]) for name in ("astronaut", "chelsea", "rocket")
    }

    exported = redaes(tmp_path, "data", "export", "out", "shared", "--format", "parquet")
    assert exported.returncode == 0, exported.stderr
    again = ParquetPhotos(str(tmp_path / "shared" / "sources"), id="id", license_column="license")
    assert [(p.name, p.license) for p in again.photographs()] == sorted(
        ((r["id"], r["license"]) for r in records), key=lambda item: item[0]
    )
    assert "| CC0 |" in (tmp_path / "shared" / "README.md").read_text()
