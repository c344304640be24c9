"""Steps are the same on any number of processes, and can be entered in mid-epoch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redaes.data.batches import ItemBatchSampler
from redaes.data.groups import GroupBatchSampler
from redaes.errors import UserError

worlds = st.integers(1, 5)


def samplers(kind, **placement):
    """One sampler of a kind, over enough items for five processes."""
    if kind == "items":
        return ItemBatchSampler(range(43), 8, shuffle=True, **placement)
    if kind == "validation":
        return ItemBatchSampler(range(43), 8, shuffle=False, **placement)
    return GroupBatchSampler([5, 8, 7, 6, 9, 8, 5], 2, kind, **placement)


kinds = st.sampled_from(["items", "validation", "consistent", "shuffled"])


@given(kinds, worlds, st.integers(0, 3), st.integers(0, 3))
def test_the_shares_of_all_processes_make_up_the_step_of_one(kind, world, seed, epoch):
    whole = list(samplers(kind, seed=seed, epoch=epoch))
    parts = [list(samplers(kind, seed=seed, epoch=epoch, rank=rank, world_size=world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(whole)}
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        assert [item for share in shares for item in share] == batch
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert min(map(len, shares)) >= 1


@given(kinds, st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_entered_in_its_middle_goes_on_as_it_would_have(kind, epoch, start):
    whole = samplers(kind, epoch=epoch)
    entered = samplers(kind, epoch=epoch, start=start)
    assert list(entered) == list(whole)[start:]
    assert len(entered) == len(whole) == len(list(whole))
    entered.set_epoch(epoch)
    assert list(entered) == list(whole)[start:]
    for sampler in (whole, entered):
        sampler.set_epoch(epoch + 1)
    assert list(entered) == list(whole)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3))
def test_training_batches_are_full_and_hold_no_item_twice(count, size, epoch):
    batches = list(ItemBatchSampler(range(count), size, shuffle=True, epoch=epoch))
    assert {len(batch) for batch in batches} == {min(size, count)}
    items = [item for batch in batches for item in batch]
    assert len(set(items)) == len(items) > count - size


@given(st.integers(1, 60), st.integers(1, 20), worlds)
def test_validation_takes_every_item_once_in_order_and_leaves_no_process_without(count, size, world):
    if min(count, size) < world:
        with pytest.raises(UserError, match="cannot be shared"):
            ItemBatchSampler(range(count), size, shuffle=False, world_size=world)
        return
    parts = [ItemBatchSampler(range(count), size, shuffle=False, rank=r, world_size=world) for r in range(world)]
    batches = list(zip(*parts, strict=True))
    assert [item for step in batches for share in step for item in share] == list(range(count))
    assert all(share for step in batches for share in step)


@st.composite
def runs(draw):
    """A kind of sampler, its dataset and step, and some placements: processes, and parts that a step is cut into."""
    count, step = draw(st.integers(1, 80)), draw(st.integers(1, 24))
    kind = draw(st.sampled_from(["items", "consistent", "shuffled"]))
    sizes = draw(st.lists(st.integers(2, 9), min_size=1, max_size=12))
    groups = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**32))

    def make(world, parts, rank, **where):
        placement = {"seed": seed, "rank": rank, "world_size": world, **where}
        if kind == "items":
            return ItemBatchSampler(range(count), step, shuffle=True, parts=parts, **placement)
        return GroupBatchSampler(sizes, groups, kind, **placement)

    def allowed(world, parts):
        try:
            make(world, parts, 0)
        except UserError:
            return False
        return True

    placements = [(world, parts) for world in (1, 2, 4, 8) for parts in ((1, 2, 3, 4, 8) if kind == "items" else (1,))]
    return make, [p for p in placements if allowed(*p)]


def epoch_s_steps(make, placement, epoch, start=0):
    """The steps of an epoch but for `start` batches: each the items of all its parts and processes, in order."""
    world, parts = placement
    shares = [list(make(world, parts, rank, epoch=epoch, start=start)) for rank in range(world)]
    assert len({len(batches) for batches in shares}) == 1
    batches = [[item for share in batch for item in share] for batch in zip(*shares, strict=True)]
    return [[item for batch in batches[i : i + parts] for item in batch] for i in range(0, len(batches), parts)]


@settings(deadline=None)
@given(runs(), st.data())
def test_steps_are_the_same_on_any_number_of_processes_and_in_any_parts(run, data):
    make, placements = run
    if not placements:
        return
    epochs = data.draw(st.integers(1, 3))
    expected = [epoch_s_steps(make, placements[0], epoch) for epoch in range(epochs)]
    for placement in placements[1:]:
        assert [epoch_s_steps(make, placement, epoch) for epoch in range(epochs)] == expected
    assert all(len({str(item) for step in epoch for item in step}) == sum(map(len, epoch)) for epoch in expected)


@settings(deadline=None, max_examples=50)
@given(runs(), st.data())
def test_a_run_that_changes_its_processes_anywhere_takes_the_steps_of_one_that_does_not(run, data):
    """Stopped after any step of any epoch, gone on with as another placement, again and again."""
    make, placements = run
    if not placements:
        return
    expected = [epoch_s_steps(make, placements[0], epoch) for epoch in range(3)]
    taken = [[] for _ in expected]
    epoch = 0
    while epoch < 3:
        placement = data.draw(st.sampled_from(placements))
        done = len(taken[epoch])
        rest = epoch_s_steps(make, placement, epoch, start=done * placement[1])
        taken[epoch] += rest[: data.draw(st.integers(len(rest) // 4 + 1, len(rest) + 1))]
        epoch += len(taken[epoch]) >= len(expected[epoch])
    assert taken == expected


@given(st.integers(1, 80), st.integers(1, 24), st.integers(1, 8))
def test_parts_of_a_step_are_of_nearly_equal_size_and_none_is_empty(count, step, parts):
    try:
        sampler = ItemBatchSampler(range(count), step, shuffle=True, parts=parts)
    except UserError:
        assert step // parts < 1
        return
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for start in range(0, len(batches), parts):
        sizes = [len(batch) for batch in batches[start : start + parts]]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == min(step, count)


def test_batches_too_small_for_the_processes_say_what_to_set():
    with pytest.raises(UserError, match=r"set data.batch_size \(now 3\) to at least 4"):
        ItemBatchSampler(range(20), 3, shuffle=True, world_size=4)
    with pytest.raises(UserError, match=r"only 5 images for 6 processes; raise data.groups_per_batch \(now 1\)"):
        GroupBatchSampler([8, 9, 5], 1, world_size=6)
    # What is left over of three groups in batches of two joins another batch.
    assert [len(batch) for batch in GroupBatchSampler([8, 9, 5], 2, world_size=1)] == [22]
    GroupBatchSampler([8, 9, 5], 2, world_size=6)
    GroupBatchSampler([8, 9, 5], 1, "shuffled", world_size=6)
