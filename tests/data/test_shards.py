"""Exports are trained on as they are: the samples, images and batches of the dataset that they were made of."""

import json
import shutil
import tarfile

import pytest
import torch

from redaes.data.export import export
from redaes.data.images import ImageError
from redaes.data.loading import EncodeSamples, Samples
from redaes.data.manifest import Manifest
from redaes.data.modules import CalibrationData, ComparativeData, GroupData, RehearsalData
from redaes.data.samples import build_samples
from redaes.data.shards import ShardedManifest, open_dataset
from redaes.errors import UserError
from redaes.models.vlm import open_processor

FORMATS = ["webdataset", "parquet", "hf"]
SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet", "hf": ".parquet"}


@pytest.fixture(scope="module")
def exports(dataset, tmp_path_factory):
    """The dataset in every form, in shards of a few rows each: their last ones are shorter than the others."""
    place = tmp_path_factory.mktemp("exports")
    for format in FORMATS:
        written = export(Manifest(dataset), place / format, format, shard_bytes=150_000)
        assert written["tables"]["pairs"]["train"]["shards"] > 2
        assert written["tables"]["groups"]["train"]["shards"] > 1
    return place


@pytest.fixture
def copy(exports, tmp_path, request):
    return shutil.copytree(exports / request.param, tmp_path / request.param)


def shard(root, table="pairs", number=1):
    return root / table / f"train-{number:05d}{SUFFIXES[root.name]}"


def pixels(image):
    return image.size, image.tobytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_records_are_those_of_the_dataset(dataset, exports, format, split):
    folder, shards = Manifest(dataset), open_dataset(exports / format)
    for one, other in zip(folder.pairs(split), shards.pairs(split), strict=True):
        assert pixels(folder.open(one.source.image)) == pixels(shards.open(other.source.image))
        assert pixels(folder.open(one.edit.image)) == pixels(shards.open(other.edit.image))
        assert one.edit.fused.outliers == other.edit.fused.outliers
        images = {"image": one.source.image}
        edit = {"image": one.edit.image, "id": one.edit.id, "fused": one.edit.fused}
        assert one == other.model_copy(
            update={"source": other.source.model_copy(update=images), "edit": other.edit.model_copy(update=edit)}
        )
    tables = [(folder.sources(split), shards.sources(split))]
    if split == "train":
        tables.append((folder.calibration(), shards.calibration()))
    for ours, theirs in tables:
        for one, other in zip(ours, theirs, strict=True):
            assert pixels(folder.open(one.source.image)) == pixels(shards.open(other.source.image))
            assert one == other.model_copy(
                update={"source": other.source.model_copy(update={"image": one.source.image})}
            )
    for one, other in zip(folder.groups(split), shards.groups(split), strict=True):
        assert (one.id, one.score, one.source.photograph) == (other.id, other.score, other.source.photograph)
        for a, b in zip(one.members, other.members, strict=True):
            assert a.g == b.g
            assert pixels(folder.open(a.image)) == pixels(shards.open(b.image))
            assert (a.edit is None) == (b.edit is None)
            assert a.edit is None or (a.edit.id, a.edit.instruction) == (b.edit.id, b.edit.instruction)
    assert folder.groups("train")
    assert folder.pairs("train")


@pytest.mark.parametrize("format", FORMATS)
def test_data_modules_make_the_batches_of_the_dataset(dataset, exports, checkpoint, format):
    """Samples of every objective in the same order, with the same swapped ones, and encoded to the same numbers."""
    processor = open_processor(str(checkpoint), None)
    objectives = ["compare", "predict_edit", "absolute"]
    made = []
    for root in (dataset, exports / format):
        data = ComparativeData(str(root), objectives, swap_prob=0.5, orientations=["quality"])
        data.setup("fit")
        samples = data.samples("train")
        rows = Samples(data.manifest, samples)
        made.append(([(s.objective, s.question, s.answer) for s in samples], samples, rows))
    assert made[0][0] == made[1][0]
    assert {name for name, _, _ in made[0][0]} == set(objectives)
    ours, theirs = (EncodeSamples(processor)([rows[i] for i in range(0, len(rows), 7)]) for _, _, rows in made)
    assert torch.equal(ours.pixel_values, theirs.pixel_values)
    assert torch.equal(ours.labels, theirs.labels)
    groups = []
    for root in (dataset, exports / format):
        data = GroupData(str(root), group_size=4)
        data.setup("fit")
        groups.append([[(m.group, m.g, m.truth) for m in group] for group in data.training_groups()])
    assert groups[0] == groups[1]


@pytest.mark.parametrize("copy", FORMATS, indirect=True)
def test_only_the_tables_that_are_needed_need_be_there(copy):
    for table in ("pairs", "groups", "edits"):
        shutil.rmtree(copy / table)
    data = CalibrationData(str(copy))
    data.setup("fit")
    assert len(data.samples("train")) == 16
    with pytest.raises(UserError, match=rf"groups/train-00000{SUFFIXES[copy.name]} is missing, and \d of \d"):
        data.manifest.groups("train")


@pytest.mark.parametrize("copy", FORMATS, indirect=True)
def test_a_shard_that_is_missing_or_damaged_is_named_in_one_line(copy):
    whole = shard(copy).read_bytes()

    def problem():
        with pytest.raises(UserError) as caught:
            ShardedManifest(copy).pairs("train")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for damaged in (whole[: len(whole) // 2], whole[: len(whole) // 2 // 512 * 512], whole[:-10240], b"", b"x" * 9999):
        shard(copy).write_bytes(damaged)
        assert f"{shard(copy)} is damaged" in problem()
    shard(copy).unlink()
    assert f"{shard(copy)} is missing" in problem()
    # Another shard in its place: rows that come twice, and others that are lost.
    shutil.copy(shard(copy, number=0), shard(copy))
    assert f"{shard(copy)} is damaged" in problem() or "ends after row" in problem()


@pytest.mark.parametrize("copy", ["webdataset"], indirect=True)
def test_rows_of_a_tar_that_do_not_fit_are_refused(copy):
    path = shard(copy)
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]

    def problem(change):
        with tarfile.open(path, "w") as tar:
            for name, data in change(members):
                (path.parent / "member").write_bytes(data)
                tar.add(path.parent / "member", name)
        with pytest.raises(UserError, match=f"{path} is damaged at row") as caught:
            ShardedManifest(copy).pairs("train")
        return str(caught.value)

    def without(name, row):
        return [(n, json.dumps({k: v for k, v in json.loads(d).items() if k != name}).encode()) if n == row else (n, d)
                for n, d in members]  # fmt: skip

    row = members[2][0]
    assert row.endswith(".json")
    assert "'delta'" in problem(lambda members: without("delta", row))
    assert "delta" in problem(
        lambda m: [(n, d.replace(b'"delta": ', b'"delta": 9')) if n == row else (n, d) for n, d in m]
    )
    assert "it has 1 images for the columns source_image, edited_image" in problem(lambda members: members[1:])
    assert "is not of row" in problem(lambda members: members[3:])
    assert "is not of row" in problem(lambda members: [("../../etc/passwd", b"x"), *members])
    assert "it has no end" in problem(lambda members: members[:-1])


@pytest.mark.parametrize("copy", FORMATS, indirect=True)
def test_an_image_that_is_damaged_in_its_shard_is_grey_and_named(copy, checkpoint):
    manifest = ShardedManifest(copy)
    samples = build_samples(manifest, "train", ["compare"])
    whole = shard(copy).read_bytes()
    # What a failing disk gives back while training runs.
    shard(copy).write_bytes(b"\0" * len(whole))
    lost = [s for s in samples if any(f"/{shard(copy).name}/" in image for image in s.images)]
    kept = [s for s in samples if s not in lost]
    assert lost
    assert kept
    with pytest.raises(ImageError, match=str(shard(copy))):
        manifest.open(lost[0].images[0])
    with pytest.warns(UserWarning, match=f"unreadable image, nothing is learnt from it: {shard(copy)}"):
        items = [Samples(manifest, [lost[0], kept[0]])[i] for i in (0, 1)]
    batch = EncodeSamples(open_processor(str(checkpoint), None))(items)
    assert (batch.labels != -100).any(dim=1).tolist() == [False, True]


def test_other_exports_and_what_needs_files_are_refused(dataset, tmp_path, exports):
    export(Manifest(dataset), tmp_path / "jsonl", "jsonl")
    with pytest.raises(UserError, match="is an export as 'jsonl'; training reads webdataset, parquet, hf"):
        open_dataset(tmp_path / "jsonl")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "export.json").write_text("[]")
    with pytest.raises(UserError, match=r"was not written by `redaes data export`"):
        open_dataset(tmp_path / "other")
    with pytest.raises(UserError, match="rehearsal needs the dataset folder"):
        RehearsalData(str(exports / "hf"), "answers.jsonl").setup("fit")
