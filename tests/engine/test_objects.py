"""Images under the hash of their pixels: whole or not there, and checked when they are read."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from redaes.engine.objects import ObjectStore, Picture, pixel_hash
from redaes.errors import UserError

KILLED_WHILE_WRITING = """
import itertools, sys
import numpy as np
from pathlib import Path
from PIL import Image
from redaes.engine.objects import ObjectStore
store = ObjectStore(Path(sys.argv[1]))
for n in itertools.count():
    pixels = np.random.default_rng(n).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    print(store.put(Image.fromarray(pixels)), flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def noise(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_an_image_comes_back_pixel_for_pixel_under_its_hash(store: ObjectStore) -> None:
    image = noise(1)
    sha = store.put(image)
    assert sha == pixel_hash(image)
    found = store.get(sha)
    assert found is not None
    assert (found.mode, found.size, found.tobytes()) == ("RGB", image.size, image.tobytes())
    assert store.path(sha).parent.name == sha[:2]


def test_the_hash_is_of_size_and_pixels_alone() -> None:
    image = noise(1)
    turned = Image.frombytes("RGB", (16, 24), image.tobytes())
    described = image.copy()
    described.info["comment"] = "metadata"
    assert pixel_hash(turned) != pixel_hash(image)
    assert pixel_hash(described) == pixel_hash(image)
    assert Picture.of(Image.new("L", (4, 4), 7)).sha == pixel_hash(Image.new("RGB", (4, 4), (7, 7, 7)))


def test_the_same_image_is_kept_once_whoever_puts_it(store: ObjectStore) -> None:
    picture = Picture.of(noise(2))
    threads = [threading.Thread(target=store.put, args=(picture,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in store.folder.rglob("*.*")] == [f"{picture.sha}.png"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: noise(4).save(path),
        lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xff" + path.read_bytes()[61:]),
    ],
    ids=["cut short", "empty", "another image", "a changed byte"],
)
def test_a_damaged_file_is_as_good_as_none_and_is_set_aside(store: ObjectStore, damage) -> None:
    sha = store.put(noise(3))
    damage(store.path(sha))
    assert store.get(sha) is None
    assert not store.path(sha).exists()
    assert store.path(sha).with_suffix(".damaged").exists()
    assert store.put(noise(3)) == sha
    assert store.get(sha) is not None


def test_many_threads_may_come_upon_the_same_damage(store: ObjectStore) -> None:
    sha = store.put(noise(3))
    store.path(sha).write_bytes(b"damage")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.get, [sha] * 32)) == [None] * 32


def test_putting_an_image_mends_its_damaged_file(store: ObjectStore) -> None:
    sha = store.put(noise(3))
    store.path(sha).write_bytes(b"damage")
    store.put(noise(3))
    assert store.get(sha) is not None


def test_a_missing_file_is_none_and_a_name_is_no_path(store: ObjectStore) -> None:
    assert store.get("0" * 64) is None
    for name in ("../../etc/passwd", "0" * 63 + "/", "", "A" * 64):
        with pytest.raises(ValueError, match="is not the name of an object"):
            store.get(name)


def test_a_kill_leaves_whole_images_and_rubbish_that_is_removed(store: ObjectStore) -> None:
    words = [sys.executable, "-c", KILLED_WHILE_WRITING, str(store.folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    names = [process.stdout.readline().strip() for _ in range(30)]
    process.kill()
    process.wait()
    (store.folder / "unfinished" / "half.png").write_bytes(b"half an image")
    assert all(store.get(name) is not None for name in names)
    named = [path for path in store.folder.glob("??/*.png")]
    assert all(store.get(path.stem) is not None for path in named)
    store.remove_unfinished()
    assert list((store.folder / "unfinished").iterdir()) == []


def test_what_cannot_be_written_is_said_in_one_line(store: ObjectStore) -> None:
    store.folder.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write .*objects"):
        store.put(noise(1))
