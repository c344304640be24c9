"""Shards in, rows out: every image of every shard once, however often the work is interrupted."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from redaes.cli import main
from redaes.errors import UserError
from redaes.inference import Score
from redaes.inference.listing import Row, read_rows, to_line
from redaes.inference.shards import list_shards, row_files, score_shard


class BrightnessScorer:
    """Mean brightness; breaks off after so many images."""

    def __init__(self, until: int = 1000) -> None:
        self.seen = 0
        self.until = until

    def score(self, images: Sequence[Image.Image | str | Path]) -> list[Score]:
        if self.seen >= self.until:
            raise KeyboardInterrupt
        self.seen += len(images)
        return [Score(float(np.asarray(image).mean()) / 25.5, "", "") for image in images]


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def tar_shard(path: Path, levels: Sequence[int | None]) -> Path:
    """Samples in WebDataset form; None is an image that is damaged."""
    with tarfile.open(path, "w") as tar:
        for number, level in enumerate(levels):
            for name, data in (
                (f"{number:04}.json", b"{}"),
                (f"{number:04}.png", b"bad" if level is None else png(level)),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def parquet_shard(path: Path, levels: Sequence[int], column: str = "image") -> Path:
    images = [{"bytes": png(level), "path": None} for level in levels]
    parquet.write_table(pa.table({column: images, "label": list(levels)}), path)
    return path


def score(shard: Path, rows: Path, scorer: BrightnessScorer, **options: object) -> list[Row]:
    batches = score_shard(shard, rows, lambda: scorer, "m@1", batch_size=2, **options)  # type: ignore[arg-type]
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_every_image_of_a_shard_has_its_row(tmp_path: Path, kind: str) -> None:
    levels = [51, 102, 153]
    shard = tar_shard(tmp_path / "0.tar", levels) if kind == "tar" else parquet_shard(tmp_path / "0.parquet", levels)
    rows = tmp_path / "out" / "0.scores.parquet"
    assert score(shard, rows, BrightnessScorer()) == read_rows(rows, "parquet")
    written = read_rows(rows, "parquet")
    assert [row.score for row in written] == [2.0, 4.0, 6.0]
    first = "0.tar/0000" if kind == "tar" else "0.parquet/0"
    assert (written[0].path, written[0].model) == (first, "m@1")


def test_an_interrupted_shard_is_continued_and_a_finished_one_needs_no_scorer(tmp_path: Path) -> None:
    shard, rows = tar_shard(tmp_path / "0.tar", range(10, 80, 10)), tmp_path / "0.scores.parquet"
    with pytest.raises(KeyboardInterrupt):
        score(shard, rows, BrightnessScorer(until=4))
    second = BrightnessScorer()
    score(shard, rows, second)
    assert second.seen == 3
    assert [row.path for row in read_rows(rows, "parquet")] == [f"0.tar/{n:04}" for n in range(7)]

    def never() -> BrightnessScorer:
        raise AssertionError

    assert list(score_shard(shard, rows, never, "m@1")) == []


def test_a_shard_whose_rows_were_all_scored_but_never_made_a_file_is_finished_without_a_scorer(tmp_path: Path) -> None:
    shard, rows = tar_shard(tmp_path / "0.tar", [51, 102]), tmp_path / "0.scores.parquet"
    made = score(shard, rows, BrightnessScorer())
    rows.unlink()
    journal = tmp_path / ".0.scores.parquet.jsonl"  # as `kill -9` leaves it
    journal.write_text("".join(to_line(row, "jsonl") for row in made))
    assert score(shard, rows, BrightnessScorer(until=0)) == []
    assert read_rows(rows, "parquet") == made
    assert not journal.exists()


def test_a_shard_that_cannot_be_read_does_not_keep_the_others_from_their_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar_shard(tmp_path / "0.tar", [])
    (tmp_path / "1.tar").write_bytes(b"no tar file")
    tar_shard(tmp_path / "2.tar", [51])
    assert main(["score", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2.scores.parquet"]
    said = capsys.readouterr().err
    assert "no photograph in the tar files of" in said
    assert "is no plain tar file" in said
    assert "scored 1 images" in said
    assert main(["score", str(tmp_path / "1.tar"), "--output", str(tmp_path / "out")]) == 2


def test_a_damaged_image_is_a_row_with_an_error_and_is_tried_again(tmp_path: Path) -> None:
    shard, rows = tar_shard(tmp_path / "0.tar", [51, None, 102]), tmp_path / "0.scores.parquet"
    assert [row.score for row in score(shard, rows, BrightnessScorer())] == [2.0, None, 4.0]
    (again,) = score(shard, rows, BrightnessScorer())
    assert again.path == "0.tar/0001"
    assert "image" in again.error
    assert len(read_rows(rows, "parquet")) == 3


def test_rows_of_another_model_are_not_mixed_with_these(tmp_path: Path) -> None:
    shard, rows = tar_shard(tmp_path / "0.tar", [51]), tmp_path / "0.scores.parquet"
    score(shard, rows, BrightnessScorer())
    with pytest.raises(UserError, match=r"another model \(m@1, not m@2\)"):
        list(score_shard(shard, rows, BrightnessScorer, "m@2"))


def test_another_column_may_hold_the_images_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    shard = parquet_shard(tmp_path / "0.parquet", [51], column="jpg")
    assert len(score(shard, tmp_path / "0.scores.parquet", BrightnessScorer(), image="jpg")) == 1
    with pytest.raises(UserError, match="no column 'image'"):
        score(shard, tmp_path / "1.scores.parquet", BrightnessScorer())


def test_shards_are_found_by_name_folder_and_pattern_but_not_their_rows(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    one, two = tar_shard(tmp_path / "0.tar", [1]), parquet_shard(tmp_path / "deep" / "1.parquet", [1])
    (tmp_path / "0.scores.parquet").write_bytes(b"")
    assert list_shards([str(tmp_path)]) == [one, two]
    assert list_shards([str(one), str(tmp_path / "deep" / "*.parquet"), str(one)]) == [one, two]
    assert row_files([one, two], Path("out")) == {
        one: Path("out/0.scores.parquet"),
        two: Path("out/deep/1.scores.parquet"),
    }


def test_image_files_are_no_shards_and_cannot_be_mixed_with_them(tmp_path: Path) -> None:
    shard = tar_shard(tmp_path / "0.tar", [1])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(9))
    (tmp_path / "photos" / "metadata.parquet").write_bytes(b"")
    assert list_shards([str(tmp_path / "photos")]) == []
    assert list_shards([str(tmp_path / "photos" / "a.png"), str(tmp_path / "nothing")]) == []
    with pytest.raises(UserError, match="photos holds no"):
        list_shards([str(shard), str(tmp_path / "photos")])


def test_shards_whose_rows_would_share_a_file_are_refused(tmp_path: Path) -> None:
    shards = [tar_shard(tmp_path / "0.tar", [1]), parquet_shard(tmp_path / "0.parquet", [1])]
    with pytest.raises(UserError, match="would both go to"):
        row_files(shards, tmp_path)
