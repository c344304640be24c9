"""Shards go in, and out come their best images with the scores that chose them; nothing is done twice."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image
from tests.examples.running import example

from redaes.inference.listing import read_rows


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((96, 96), 60).convert("RGB").save(buffer, "JPEG")
    Image.blend(Image.open(buffer), Image.new("RGB", (96, 96), colour), 0.5).save(whole := io.BytesIO(), "JPEG")
    return whole.getvalue()


def shard_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_better_half_of_shards_made_on_the_spot(tmp_path: Path) -> None:
    first = example("filter_webdataset.py", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "filtered"
    rows = [row for file in sorted(out.glob("scores/*.parquet")) for row in read_rows(file, "parquet")]
    assert len(rows) == 32
    at_least = json.loads((out / "filter.json").read_text())["at_least"]
    best = {row.path: row.score for row in rows if row.score is not None and row.score >= at_least}
    assert len(best) >= 16 > sum(score > at_least for score in best.values())
    assert f"kept {len(best)} of 32 images" in first.stdout
    found = {}
    for shard in ("00000.tar", "00001.tar"):
        before, after = members(out / "made-on-the-spot" / shard), members(out / shard)
        assert list(after) == [name for name in before if name in after], "samples keep their order and files"
        for name, data in after.items():
            if name.endswith(".jpg"):
                assert data == before[name]
            else:
                about = json.loads(data)
                found[f"{shard}/{name.removesuffix('.json')}"] = about.pop("redaes")["score"]
                assert about == json.loads(before[name])
    assert found == best

    written = (out / "00000.tar").stat().st_mtime_ns
    again = example("filter_webdataset.py", cwd=tmp_path)
    assert "00000.tar: there already" in again.stdout
    assert (out / "00000.tar").stat().st_mtime_ns == written
    assert "scored" not in again.stderr, "no image is looked at twice"

    stricter = example("filter_webdataset.py", "--at-least", 9, cwd=tmp_path)
    assert "scored" not in stricter.stderr
    kept = sum(name.endswith(".jpg") for shard in out.glob("*.tar") for name in members(shard))
    assert kept == sum(row.score >= 9 for row in rows if row.score is not None) < len(best)


def test_foreign_shards_with_damaged_images_and_odd_json(tmp_path: Path) -> None:
    files = {
        "a.jpg": jpeg("red"),
        "a.json": b"[1, 2]",
        "a.txt": "über".encode(),
        "b.jpg": b"no image",
        "c.jpg": jpeg("navy"),
    }
    shard_of(tmp_path / "in" / "x.tar", files)
    done = example("filter_webdataset.py", "in", "out", "--at-least", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kept 2 of 2 images" in done.stdout
    kept = members(tmp_path / "out" / "x.tar")
    assert {name: data for name, data in kept.items() if name in files} == {
        name: data for name, data in files.items() if name != "b.jpg"
    }
    assert json.loads(kept["a.redaes.json"])["score"] >= 0
    assert json.loads(kept["c.json"])["redaes"]["model"].startswith("nano@")


def test_shards_are_never_written_over(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "in" / "x.tar", {"a.jpg": jpeg("red")})
    before = shard.read_bytes()
    refused = example("filter_webdataset.py", "in", "in", cwd=tmp_path)
    assert (refused.returncode, shard.read_bytes()) == (1, before)
    assert refused.stderr.strip() == "in: name a folder that the shards are not in"
