"""Data modules in front of damaged datasets, and of checkpoints."""

import json
import shutil
import warnings
from collections import Counter

import pytest
import torch

from redaes.data.loading import EncodeMembers, EncodeSamples, Members, Samples
from redaes.data.manifest import Manifest
from redaes.data.modules import CalibrationData, ComparativeData, GroupData, RehearsalData
from redaes.errors import UserError
from redaes.models.vlm import open_processor
from redaes.prompts import DELTA_RANGE, parse_answer


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "data")


@pytest.fixture(scope="module")
def processor(checkpoint):
    return open_processor(str(checkpoint), None)


def opened(module):
    module.setup("fit")
    return module


def test_groups_with_a_missing_image_are_left_out_and_counted(copy):
    data = opened(GroupData(str(copy)))
    groups = data.groups("train")
    lost = groups[1][-1].image
    (copy / lost).unlink()
    with pytest.warns(UserWarning, match=rf"1 of {len(groups)} train groups have a missing image, first {lost}"):
        assert data.groups("train") == [groups[0], *groups[2:]]


def test_samples_with_a_missing_image_are_left_out(copy):
    data = opened(CalibrationData(str(copy)))
    samples = data.samples("train")
    (copy / samples[3].images[0]).unlink()
    with pytest.warns(UserWarning, match="samples have a missing image"):
        assert data.samples("train") == [s for s in samples if s.images != samples[3].images]


def test_a_dataset_without_its_images_is_refused(copy):
    shutil.rmtree(copy / "images")
    for data in (GroupData(str(copy)), ComparativeData(str(copy))):
        with pytest.raises(UserError, match=r"missing image, first .*; copy the dataset with its images"):
            opened(data).groups("train") if isinstance(data, GroupData) else opened(data).samples("train")


def test_a_group_member_that_cannot_be_decoded_is_grey_and_marked(copy, processor):
    data = opened(GroupData(str(copy)))
    groups = data.groups("train")
    (copy / groups[0][2].image).write_bytes(b"no picture")
    members = Members(data.manifest, groups)
    items = [(0, member, member) for member in range(len(groups[0]))]
    with pytest.warns(UserWarning, match=f"{groups[0][2].image}: is not an image"):
        batch = EncodeMembers(processor, "consistent")([members[item] for item in items])
    assert batch.unreadable.tolist() == [number == 2 for number in range(len(items))]
    pixels = batch.prompts.pixel_values.view(len(items), -1)
    assert pixels[2].unique().numel() == 1
    assert pixels[0].unique().numel() > 10
    assert batch.to("cpu").unreadable.sum() == 1


def test_a_sample_that_cannot_be_decoded_has_nothing_to_learn(copy, processor):
    data = opened(ComparativeData(str(copy)))
    samples = data.samples("train")
    bad = samples[0].images[0]
    (copy / bad).write_bytes((copy / bad).read_bytes()[:200])
    touched = [number for number, sample in enumerate(samples[:8]) if bad in sample.images]
    with pytest.warns(UserWarning, match="unreadable image"):
        batch = EncodeSamples(processor)([Samples(data.manifest, samples)[i] for i in range(8)])
    assert [number for number, row in enumerate(batch.labels) if (row == -100).all()] == touched
    assert 0 < len(touched) < 8


def test_an_unreadable_file_is_warned_about_once(copy):
    data = opened(GroupData(str(copy)))
    groups = data.groups("train")
    for member in groups[0][:2]:
        (copy / member.image).write_bytes(b"")
    members = Members(data.manifest, groups)
    loader = torch.utils.data.DataLoader(
        members, sampler=[(0, 0, 0), (0, 1, 1)] * 3, batch_size=None, collate_fn=lambda item: item[1], num_workers=0
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not any(loader)
    assert len([w for w in caught if "unreadable" in str(w.message)]) == 2


def _answers(path, data, images, score=4.26):
    rows = [{"path": str(data / image), "score": score, "reasoning": "Fair.", "error": ""} for image in images]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rehearsal_asks_all_three_questions_of_better_and_of_worse_edits(dataset, tmp_path):
    manifest = Manifest(dataset)
    train = [record.source.image for record in manifest.sources("train")]
    held_out = [record.source.image for record in manifest.sources("test")]
    assert held_out
    data = opened(RehearsalData(str(dataset), _answers(tmp_path / "a.jsonl", dataset, [*train[:5], *held_out])))
    samples = data.samples("train")
    edits = len(manifest.pairs("train")) + sum(len(group.members) - 1 for group in manifest.groups("train"))
    assert Counter(s.objective for s in samples) == {"compare": 2 * edits, "predict_edit": edits, "kept": 5}
    differences = [parse_answer(s.answer, DELTA_RANGE) for s in samples if s.objective == "predict_edit"]
    assert min(differences) < 0 < max(differences)
    kept = [s for s in samples if s.objective == "kept"]
    assert [s.images for s in kept] == [(image,) for image in train[:5]]
    assert {s.answer for s in kept} == {"<think>Fair.</think><answer>4.3</answer>"}
    assert "kept" not in {s.objective for s in data.samples("validation")}


def test_rehearsal_refuses_answers_of_something_else(dataset, tmp_path):
    held_out = [record.source.image for record in Manifest(dataset).sources("test")]
    text = tmp_path / "text.jsonl"
    text.write_text("no rows\n", encoding="utf-8")
    for answers, words in (
        (_answers(tmp_path / "a.jsonl", dataset, held_out), "has a score of no train image"),
        (_answers(tmp_path / "b.jsonl", dataset, held_out, score=None), "has a score of no train image"),
        (str(text), "is no JSON lines file written by `redaes score`"),
        (str(tmp_path / "gone.jsonl"), "is no JSON lines file written by `redaes score`"),
    ):
        with pytest.raises(UserError, match=words):
            opened(RehearsalData(str(dataset), answers)).samples("train")
