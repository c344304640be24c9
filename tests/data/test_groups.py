import pytest
from hypothesis import given
from hypothesis import strategies as st

from redaes.data.groups import GroupBatchSampler, select_members
from redaes.errors import UserError
from redaes.records import Edit, Fused, GroupMember, GroupRecord, Instruction, Source

sizes = st.lists(st.integers(2, 9), min_size=1, max_size=12)


def group(name, orientations):
    source = Source(id=name, image=f"images/{name}.png", photograph="cat", split="train")
    members = [GroupMember(image=source.image, g=0.0)]
    for index, orientation in enumerate(orientations):
        instruction = Instruction(text="Do it.", category="exposure", orientation=orientation)
        edit = Edit(
            id=f"{name}-{index}",
            source_id=name,
            editor="tone",
            instruction=instruction,
            image=f"images/{name}-{index}.png",
            fused=Fused(value=1.0, level="high", outliers=(), method="weighted_average"),
        )
        members.append(GroupMember(image=edit.image, g=float(index + 1), edit=edit))
    return GroupRecord(id=name, source=source, score=5.0, members=tuple(members))


@given(sizes, st.integers(1, 4), st.integers(0, 5), st.integers(0, 3))
def test_consistent_batches_hold_whole_groups_and_every_image_once(sizes, per_batch, seed, epoch):
    sampler = GroupBatchSampler(sizes, per_batch, "consistent", seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        groups = {g for g, _, _ in batch}
        assert sorted(i[:2] for i in batch) == sorted((g, m) for g in groups for m in range(sizes[g]))
        assert [position for _, _, position in batch] == list(range(len(batch)))
    images = [i[:2] for b in batches for i in b]
    assert sorted(images) == [(g, m) for g, size in enumerate(sizes) for m in range(size)]


@given(sizes, st.integers(1, 4), st.integers(0, 5))
def test_shuffled_batches_hold_every_image_once_and_are_as_many(sizes, per_batch, seed):
    sampler = GroupBatchSampler(sizes, per_batch, "shuffled", seed=seed)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(i[:2] for b in batches for i in b) == [(g, m) for g, size in enumerate(sizes) for m in range(size)]


def test_shuffled_batches_really_mix_groups():
    sampler = GroupBatchSampler([8] * 20, 1, "shuffled")
    assert all(len({g for g, _, _ in batch}) > 4 for batch in sampler)


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = GroupBatchSampler([8] * 30, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_members_can_be_restricted_to_a_kind_and_a_size_and_keep_their_source():
    groups = [group("a", ["quality", "content", "quality"]), group("b", ["content"])]
    (only,) = select_members(groups, ["quality"], None)
    assert [m.g for m in only] == [0.0, 1.0, 3.0]
    assert [len(m) for m in select_members(groups, ["quality", "content"], 3)] == [3, 2]


def test_the_truth_of_a_member_stays_on_the_scale():
    record = group("a", ["quality"] * 7).model_copy(update={"score": 9.0})
    (members,) = select_members([record], ["quality"], None)
    assert [m.truth for m in members] == [9.0, 10.0] + [10.0] * 6


def test_no_usable_group_is_said():
    with pytest.raises(UserError, match="no RL group"):
        GroupBatchSampler([])
