"""A shoot goes in; the best frame of every burst comes out, and every frame has its stars."""

import shutil
from pathlib import Path

from tests.examples.running import example

from redaes.data.images import list_images
from redaes.inference.xmp import write_rating


def rating(sidecar: Path) -> str:
    return sidecar.read_text().partition('xmp:Rating="')[2][:1]


def test_one_keeper_of_each_burst_of_a_shoot_made_on_the_spot(tmp_path: Path) -> None:
    done = example("cull_folder.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 photographs, 4 bursts, 4 keepers" in done.stdout
    kept = sorted(path.name for path in list_images([str(tmp_path / "keepers")]))
    bursts = [[f"IMG_{3 * scene + frame:04}.jpg" for frame in (1, 2, 3)] for scene in range(4)]
    assert [len(set(burst) & set(kept)) for burst in bursts] == [1, 1, 1, 1]
    # what the model likes less is listed behind it, with scores that fall
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("keep ")]
    assert sorted(line[1] for line in lines) == kept
    best = [float(line[2]) for line in lines]
    assert best == sorted(best, reverse=True)
    assert all(float(line[2]) >= float(line[7].rstrip(",")) >= float(line[9]) for line in lines)
    for path in sorted((tmp_path / "shoot").glob("*.jpg")):
        stars = rating(path.with_name(f"{path.name}.xmp"))
        assert stars == rating(path.with_suffix(".xmp"))
        if path.name in kept:
            keeper = tmp_path / "keepers" / path.name
            assert keeper.read_bytes() == path.read_bytes()
            assert rating(keeper.with_suffix(".xmp")) == stars
            assert f"{'★' * int(stars)} " in next(line for line in done.stdout.splitlines() if path.name in line)
        else:
            assert stars == "1"


def test_a_persons_rating_stays_and_what_is_no_photograph_is_named(tmp_path: Path) -> None:
    example("cull_folder.py", "--top", 1, cwd=tmp_path)
    assert len(list((tmp_path / "keepers").glob("*.jpg"))) == 1
    shoot = tmp_path / "shoot"
    for sidecar in shoot.glob("*.xmp"):
        sidecar.unlink()
    given = shoot / "IMG_0002.jpg.xmp"
    write_rating(given, 4, 0.0, "")
    given.write_text(given.read_text().replace('redaes:Stars="4"', 'redaes:Stars=""'))
    (shoot / "notes").mkdir()
    shutil.copy(shoot / "IMG_0001.jpg", shoot / "notes" / "copy.jpg")
    (shoot / "broken.jpg").write_bytes(b"no image")
    (shoot / "IMG_0003.xmp").write_text("not XML")
    done = example("cull_folder.py", "shoot", "linked", "--link", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "broken.jpg: is not an image" in done.stdout
    assert "IMG_0003.xmp is no XMP file" in done.stdout
    assert rating(given) == "4"
    keepers = list_images([str(tmp_path / "linked")])
    assert all(path.stat().st_nlink == 2 for path in keepers), "they take no room"


def test_keepers_inside_the_shoot_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shoot").mkdir()
    refused = example("cull_folder.py", "shoot", "shoot/best", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.strip() == "shoot/best: name a folder outside shoot"
