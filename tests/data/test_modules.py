"""Data modules in front of damaged datasets, and of checkpoints."""

import shutil
import warnings

import pytest
import torch

from redaes.data.loading import EncodeMembers, EncodeSamples, Members, Samples
from redaes.data.modules import CalibrationData, ComparativeData, GroupData
from redaes.errors import UserError
from redaes.models.vlm import open_processor


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
