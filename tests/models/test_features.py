"""Every image is looked at once, and what is kept never decides a number."""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from redaes.errors import UserError
from redaes.models.features import FeatureCache, image_features, join_features, split_features, tower_fingerprint
from redaes.models.forward import answer_logprobs
from redaes.models.nano import build_nano
from redaes.models.vlm import Backbone, FeatureCaching, export, open_model
from redaes.prompts import render

ANSWERS = ["<think>Sharp detail.</think><answer>6.4</answer>", "<answer>1.0</answer>"]


@pytest.fixture
def frozen(nano):
    model, processor = nano
    model.model.visual.requires_grad_(False)
    yield model, processor
    model.model.visual.requires_grad_(True)


@pytest.fixture
def passes(nano):
    """Images in each pass through the real tower."""
    model, _ = nano
    seen = []
    hook = model.model.visual.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    yield seen
    hook.remove()


def prompts(processor, images):
    return processor.batch([[image] for image in images], [render("score")] * len(images))


def tensors(features):
    return [*features.pooler_output, *(row for level in getattr(features, "deepstack_features", ()) for row in level)]


def same(a, b):
    return len(tensors(a)) == len(tensors(b)) and all(map(torch.equal, tensors(a), tensors(b)))


def caching(mode, folder, **options):
    return FeatureCaching(cache=mode, path=str(folder) if mode == "disk" else None, **options)


def gigabytes_of(images, features):
    """Room for so many images on disk: the numbers and a header of a few hundred bytes."""
    return images * (sum(t.nbytes for t in tensors(features)) / len(features.pooler_output) + 400) / 1e9


both = pytest.mark.parametrize("mode", ["memory", "disk"])


def test_the_key_of_an_image_follows_from_its_pixels_and_from_how_they_are_cut(nano, photos):
    _, processor = nano
    one, other = processor.squares(photos[:2])
    key = processor.image_key(one)
    assert len(key) == 32
    assert processor.image_key(one.copy()) == key
    assert processor.image_key(other) != key
    touched = one.copy()
    touched.putpixel((one.width - 1, one.height - 1), (0, 0, 0))
    assert processor.image_key(touched) != key
    mean = processor.image_processor.image_mean
    processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    try:
        assert processor.image_key(one) != key
    finally:
        processor.image_processor.image_mean = mean


def test_keys_stay_with_their_images(nano, photos):
    _, processor = nano
    batch = prompts(processor, photos[:4])
    assert batch.image_keys == [processor.image_key(s) for s in processor.squares(photos[:4])]
    assert batch.to("cpu").image_keys == batch.image_keys
    chosen = batch.rows(torch.tensor([3, 1]))
    assert chosen.image_keys == [batch.image_keys[3], batch.image_keys[1]]
    assert chosen.image_keys == prompts(processor, [photos[3], photos[1]]).image_keys


def test_an_image_that_occurs_several_times_goes_through_the_tower_once(frozen, photos, passes):
    model, processor = frozen
    pictures = [[photos[0], photos[1]], [photos[1], photos[0]], [photos[2], photos[0]]]
    batch = processor.batch(pictures, [render("compare")] * 3)
    features = image_features(model, batch)
    assert passes == [3]
    batch.image_keys = None
    expected = image_features(model, batch)
    assert passes == [3, 6]
    torch.testing.assert_close(tensors(features), tensors(expected), atol=1e-5, rtol=1e-5)


def test_a_trained_tower_gets_the_gradient_of_every_occurrence(nano, photos, passes):
    model, processor = nano

    def gradients(keys):
        batch = processor.batch([[photos[0]], [photos[0]]], [render("score")] * 2, ANSWERS)
        batch.image_keys = batch.image_keys if keys else None
        model.zero_grad()
        logps, _, mask = answer_logprobs(model, batch)
        (logps * mask).sum().backward()
        return {n: p.grad.clone() for n, p in model.model.visual.named_parameters()}

    once, twice = gradients(keys=True), gradients(keys=False)
    model.zero_grad()
    assert passes == [1, 2]
    assert twice["patch_embed.proj.weight"].abs().max() > 0
    for name, gradient in twice.items():
        assert (once[name] - gradient).abs().max() < 1e-4 * gradient.abs().max().clamp(min=1e-6), name


@both
def test_an_image_is_computed_at_its_first_occurrence_only(frozen, photos, passes, tmp_path, mode):
    model, processor = frozen
    cache = FeatureCache(caching(mode, tmp_path))
    first = cache.features(model, prompts(processor, [photos[0], photos[1], photos[0]]))
    assert (cache.hits, cache.misses, passes) == (0, 2, [1, 1])
    again = cache.features(model, prompts(processor, [photos[1], photos[2], photos[0]]))
    assert (cache.hits, cache.misses, passes) == (2, 3, [1, 1, 1])
    parts, kept = split_features(first), split_features(again)
    assert same(first, join_features([parts[0], parts[1], parts[0]]))
    assert same(kept[0], parts[1])
    assert same(kept[2], parts[0])


@both
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_features_follow_from_the_image_alone(frozen, photos, passes, tmp_path, mode, dtype):
    """First use or later, alone or among others, evicted in between: the same bits, for every image goes alone."""
    model, processor = frozen
    alone = [
        FeatureCache(FeatureCaching("memory", dtype=dtype)).features(model, prompts(processor, [p])) for p in photos[:4]
    ]
    tight = gigabytes_of(2.5, alone[0])
    cache = FeatureCache(caching(mode, tmp_path, dtype=dtype, max_gb=tight))
    for order in ([0, 1, 2, 3], [3, 0, 0, 2], [1, 2], [2, 1, 3, 0]):
        found = split_features(cache.features(model, prompts(processor, [photos[i] for i in order])))
        assert all(same(found[n], alone[i]) for n, i in enumerate(order))
    assert cache.hits > 0
    assert cache.store.evictions > 0
    assert set(passes) == {1}
    whole = image_features(model, prompts(processor, photos[:4]))
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype is None else {"atol": 0, "rtol": 2**-8}
    joined = [t.float() for t in tensors(join_features(alone))]
    torch.testing.assert_close(joined, tensors(whole), **tolerance)


@both
def test_the_bound_holds_and_the_least_recently_used_goes_first(frozen, photos, tmp_path, mode):
    model, processor = frozen
    limit = gigabytes_of(3.5, image_features(model, prompts(processor, photos[:1])))
    cache = FeatureCache(caching(mode, tmp_path, max_gb=limit))
    for image in [*photos[:3], photos[0]]:
        cache.features(model, prompts(processor, [image]))
        # What orders files on disk is their time, and clocks of file systems tick in milliseconds.
        if mode == "disk":
            time.sleep(0.02)
    cache.features(model, prompts(processor, [photos[3]]))
    hits = cache.hits
    used = cache.store.used if mode == "memory" else sum(f.stat().st_size for f in tmp_path.glob("*/*"))
    assert used <= limit * 1e9
    assert cache.store.evictions == 1
    cache.features(model, prompts(processor, [photos[0], photos[2], photos[3]]))
    assert cache.hits == hits + 3
    cache.features(model, prompts(processor, [photos[1]]))
    assert cache.hits == hits + 3


@both
def test_an_image_larger_than_the_bound_is_computed_and_not_kept(frozen, photos, tmp_path, mode):
    model, processor = frozen
    cache = FeatureCache(caching(mode, tmp_path, max_gb=1e-7))
    batch = prompts(processor, photos[:1])
    assert same(cache.features(model, batch), cache.features(model, batch))
    assert (cache.hits, cache.misses, cache.store.evictions) == (0, 2, 0)


@both
def test_what_validation_computed_can_be_trained_on(frozen, photos, tmp_path, mode):
    """Lightning validates in inference mode, whose tensors no graph may keep."""
    model, processor = frozen
    cache = FeatureCache(caching(mode, tmp_path))
    with torch.inference_mode():
        cache.features(model, prompts(processor, photos[:1]))
    features = cache.features(model, prompts(processor, photos[:1]))
    assert cache.hits == 1
    for feature in tensors(features):
        weight = torch.ones_like(feature, requires_grad=True)
        (weight * feature).sum().backward()
        assert torch.equal(weight.grad, feature)


@both
def test_a_trained_tower_is_never_cached(nano, photos, tmp_path, mode):
    model, processor = nano
    cache = FeatureCache(caching(mode, tmp_path))
    for _ in range(2):
        assert cache.features(model, prompts(processor, photos[:2])).pooler_output[0].requires_grad
    assert (cache.hits, cache.misses) == (0, 0)


def small(family="qwen2_5_vl", seed=1):
    model, processor = build_nano(["Sharp detail."], family, seed=seed, hidden=64, layers=1, vision=64)
    model.model.visual.requires_grad_(False)
    return model, processor


@both
def test_other_weights_find_nothing_and_the_old_ones_find_theirs(photos, tmp_path, mode):
    model, processor = small()
    cache, batch = FeatureCache(caching(mode, tmp_path)), prompts(processor, photos[:2])
    before = cache.features(model, batch)
    weight = model.model.visual.patch_embed.proj.weight
    with torch.no_grad():
        weight[0, 0, 0, 0, 0] += 1.0
        changed = cache.features(model, batch)
        assert (cache.hits, cache.misses) == (0, 4)
        assert not same(changed, before)
        model.model.visual.load_state_dict(small()[0].model.visual.state_dict())
        assert same(cache.features(model, batch), before)
    assert (cache.hits, cache.misses) == (2, 4)


def test_the_fingerprint_follows_from_weights_names_types_and_settings(tmp_path):
    model, processor = small()
    fingerprint = tower_fingerprint(model)
    assert tower_fingerprint(small()[0]) == fingerprint
    assert tower_fingerprint(small(seed=2)[0]) != fingerprint
    reopened, _ = open_model(Backbone(str(export(model, processor, tmp_path / "a"))))
    again, _ = open_model(Backbone(str(export(reopened, processor, tmp_path / "b"))))
    assert tower_fingerprint(again) == fingerprint
    halved = small()[0]
    halved.model.visual.to(torch.bfloat16)
    assert tower_fingerprint(halved) != fingerprint
    other = small()[0]
    other.model.visual.config.window_size = 56
    assert tower_fingerprint(other) != fingerprint


@both
def test_how_the_tower_is_run_is_part_of_what_is_asked_for(photos, tmp_path, mode):
    model, processor = small()
    cache, batch = FeatureCache(caching(mode, tmp_path)), prompts(processor, photos[:1])
    plain = cache.features(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cache.features(model, batch)
    assert not same(plain, mixed)
    assert same(cache.features(model, batch), plain)
    assert (cache.hits, cache.misses) == (1, 2)


def test_a_tower_spread_over_processes_is_refused(photos, tmp_path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    model, processor = small()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        norm = model.model.visual.blocks[0].norm1
        mesh = init_device_mesh("cpu", (1,))
        norm.weight = torch.nn.Parameter(distribute_tensor(norm.weight.data, mesh), requires_grad=False)
        with pytest.raises(UserError, match=r"spread over several processes.*features.cache to null"):
            FeatureCache(FeatureCaching("memory")).features(model, prompts(processor, photos[:1]))
    finally:
        distributed.destroy_process_group()


def test_features_on_disk_serve_another_process(photos, tmp_path):
    model, processor = small()
    batch = prompts(processor, photos[:3])
    first = FeatureCache(caching("disk", tmp_path)).features(model, batch)
    second = FeatureCache(caching("disk", tmp_path))
    assert same(second.features(model, batch), first)
    assert (second.hits, second.misses) == (3, 0)


def damage_by_truncation(file):
    file.write_bytes(file.read_bytes()[:-10])


def damage_by_emptying(file):
    file.write_bytes(b"")


def damage_by_a_changed_byte(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def damage_by_another_format(file):
    file.write_bytes(b"\x89PNG" * 100)


@pytest.mark.parametrize(
    "damage", [damage_by_truncation, damage_by_emptying, damage_by_a_changed_byte, damage_by_another_format]
)
def test_damaged_entries_are_computed_again_replaced_counted_and_told_of_once(frozen, photos, tmp_path, damage):
    model, processor = frozen
    batch = prompts(processor, photos[:3])
    expected = FeatureCache(caching("disk", tmp_path)).features(model, batch)
    for file in sorted(tmp_path.glob("*/*"))[:2]:
        damage(file)
    cache = FeatureCache(caching("disk", tmp_path))
    with pytest.warns(UserWarning, match="unreadable and computed again") as told:
        assert same(cache.features(model, batch), expected)
    assert len(told) == 1
    assert (cache.hits, cache.misses, cache.store.corrupt) == (1, 2, 2)
    assert same(cache.features(model, batch), expected)
    assert (cache.hits, cache.misses, cache.store.corrupt) == (4, 2, 2)


@contextmanager
def no_file_above(size):
    """The operating system refuses to write more, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_costs_the_cache_and_not_the_training(frozen, photos, tmp_path):
    model, processor = frozen
    cache, batch = FeatureCache(caching("disk", tmp_path)), prompts(processor, photos[:2])
    with pytest.warns(UserWarning, match="cannot keep features in .*; going on without") as told, no_file_above(100):
        features = cache.features(model, batch)
    assert len(told) == 1
    assert cache.store.unwritten == 2
    assert list(tmp_path.glob("*/*")) == []
    assert same(cache.features(model, batch), features)
    assert (cache.hits, cache.misses, len(list(tmp_path.glob("*/*")))) == (0, 4, 2)


def test_files_that_are_no_features_are_left_alone(frozen, photos, tmp_path):
    model, processor = frozen
    foreign = [
        tmp_path / "model" / "model.safetensors",
        tmp_path / "notes.txt",
        tmp_path / ("a" * 32) / "b.safetensors",
    ]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * 100_000)
    limit = gigabytes_of(1.5, image_features(model, prompts(processor, photos[:1])))
    cache = FeatureCache(caching("disk", tmp_path, max_gb=limit))
    cache.features(model, prompts(processor, photos))
    assert cache.store.evictions == len(photos) - 1
    assert all(file.stat().st_size == 100_000 for file in foreign)


def test_drafts_of_a_process_that_died_are_removed_and_those_of_a_living_one_are_not(frozen, photos, tmp_path):
    model, processor = frozen
    limit = gigabytes_of(3.5, image_features(model, prompts(processor, photos[:1])))
    abandoned, fresh = (tmp_path / ("a" * 32) / f"{'b' * 32}.{name}.tmp" for name in ("old", "new"))
    abandoned.parent.mkdir()
    for draft in (abandoned, fresh):
        draft.write_bytes(bytes(int(limit * 1e9 / 3)))
    os.utime(abandoned, (1e9, 1e9))
    os.utime(fresh, (time.time() - 60, time.time() - 60))
    FeatureCache(caching("disk", tmp_path, max_gb=limit)).features(model, prompts(processor, photos[:4]))
    assert not abandoned.exists()
    assert fresh.exists()


WRITER = """
import sys, numpy as np, torch
from PIL import Image
from redaes.models.features import FeatureCache
from redaes.models.nano import build_nano
from redaes.models.vlm import FeatureCaching
from redaes.prompts import render

model, processor = build_nano(["Sharp detail."], seed=1, hidden=64, layers=1, vision=64)
model.model.visual.requires_grad_(False)
rng = np.random.default_rng(0)
photos = [Image.fromarray(rng.integers(0, 255, (90, 130, 3), dtype=np.uint8)) for _ in range(6)]
batches = [processor.batch([[p]], [render("score")]) for p in photos]
expected = [FeatureCache(FeatureCaching("memory")).features(model, b).pooler_output[0] for b in batches]
cache = FeatureCache(FeatureCaching("disk", sys.argv[1], max_gb=float(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
for n in np.random.default_rng(int(sys.argv[3])).integers(0, 6, 150):
    assert torch.equal(cache.features(model, batches[n]).pooler_output[0], expected[n])
assert cache.store.corrupt == cache.store.unwritten == 0
print(cache.hits, cache.misses, cache.store.evictions)
"""


@pytest.mark.slow
def test_two_processes_write_read_and_evict_in_the_same_folder(photos, tmp_path):
    model, processor = small()
    one = gigabytes_of(1, image_features(model, prompts(processor, photos[:1])))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(4.5 * one), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    counts = [list(map(int, writer.communicate(timeout=120)[0].split())) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert all(hits > 0 and evictions > 0 for hits, _, evictions in counts)
    files = list(tmp_path.glob("*/*"))
    assert all(file.suffix == ".safetensors" for file in files)
    # Each process looks after every entry it writes here, so the other's one entry is all that can be too much.
    assert sum(file.stat().st_size for file in files) <= (4.5 + 1) * one * 1e9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "disk"}, "features.path is not set"),
        ({"cache": "memory", "max_gb": 0.0}, "max_gb is 0.0; it must be a positive, finite number"),
        ({"cache": "memory", "max_gb": float("inf")}, "max_gb is inf"),
        ({"cache": "disk", "path": "/dev/null/features"}, "cannot keep features in /dev/null/features"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message):
        FeatureCache(FeatureCaching(**options))
