"""Frames of one scene taken one after another are one burst; other scenes, and later ones, are not."""

import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from redaes.inference.bursts import capture_time, find_bursts
from redaes.sources.skimage_photos import SkimagePhotos

START = datetime(2026, 5, 1, 12, 0, 0)


def shoot(path: Path, scene: str, taken: datetime | None, jitter: int) -> Path:
    """A frame of a scene, by a hand that is never quite still, as a camera writes it."""
    rng = random.Random(f"{scene}/{jitter}")
    photograph = SkimagePhotos([scene]).open(scene)
    left, top = (rng.uniform(0.05, 0.09) for _ in range(2))
    width, height = photograph.size
    box = (left * width, top * height, (left + 0.85) * width, (top + 0.85) * height)
    frame = ImageEnhance.Brightness(photograph.crop([round(v) for v in box])).enhance(rng.uniform(0.9, 1.1))
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken.strftime("%Y:%m:%d %H:%M:%S")
        exif.get_ifd(0x8769)[0x9291] = f"{taken.microsecond // 10000:02d}"
    frame.save(path, exif=exif)
    return path


def test_frames_of_one_scene_within_seconds_are_one_burst(tmp_path: Path) -> None:
    scenes = ["astronaut", "coffee", "chelsea"]
    files = [
        shoot(tmp_path / f"{n}{frame}.jpg", scene, START + timedelta(seconds=2 * n + 0.4 * frame), frame)
        for n, scene in enumerate(scenes)
        for frame in range(3)
    ]
    shuffled = random.Random(0).sample(files, len(files))
    assert find_bursts(shuffled) == [files[0:3], files[3:6], files[6:9]]


def test_the_same_scene_later_is_another_burst(tmp_path: Path) -> None:
    files = [shoot(tmp_path / f"{n}.jpg", "coffee", START + timedelta(seconds=s), n) for n, s in enumerate((0, 1, 60))]
    assert find_bursts(files) == [files[:2], files[2:]]
    assert find_bursts(files, gap=100) == [files]


def test_without_a_time_frames_must_look_more_alike_and_follow_each_other(tmp_path: Path) -> None:
    names = [("a1", "coffee"), ("a2", "coffee"), ("b", "rocket"), ("c", "coffee")]
    files = [shoot(tmp_path / f"{name}.jpg", scene, None, 0) for name, scene in names]
    assert find_bursts(files) == [files[:2], files[2:3], files[3:]]


def test_a_frame_without_a_time_is_not_of_a_burst_with_one(tmp_path: Path) -> None:
    files = [shoot(tmp_path / "a.jpg", "coffee", START, 0), shoot(tmp_path / "b.jpg", "coffee", None, 0)]
    assert find_bursts(files) == [files[:1], files[1:]]


def test_what_cannot_be_opened_is_a_burst_of_its_own(tmp_path: Path) -> None:
    good, bad = shoot(tmp_path / "a.jpg", "coffee", START, 0), tmp_path / "b.jpg"
    bad.write_bytes(b"no image")
    assert find_bursts([bad, good]) == [[good], [bad]]
    assert find_bursts([]) == []


def test_flat_pictures_are_alike_to_nothing(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file in files:
        Image.new("RGB", (64, 64), "grey").save(file)
    assert find_bursts(files) == [[files[0]], [files[1]]]


@pytest.mark.parametrize(
    ("taken", "fraction", "expected"),
    [
        ("2026:05:01 12:00:00", "5", START + timedelta(seconds=0.5)),
        ("2026:05:01 12:00:00\0", " 025\0", START + timedelta(seconds=0.025)),
        ("2026:05:01 12:00:00", "x", START),
        ("2026:05:01 12:00:00", "²", START),
        ("0000:00:00 00:00:00", "5", None),
        ("tomorrow", "5", None),
    ],
)
def test_capture_times_are_read_as_cameras_write_them(
    tmp_path: Path, taken: str, fraction: str, expected: datetime | None
) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003], exif.get_ifd(0x8769)[0x9291] = taken, fraction
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert capture_time(path) == expected
