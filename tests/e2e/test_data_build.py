"""`redaes data` as a person uses it: build, kill, go on, look at it, and be told what is wrong in one line."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from redaes.engine.build import noted_builds
from redaes.engine.ledger import Ledger
from redaes.sources.skimage_photos import SkimagePhotos

YAML = """
mode: eager
source: {class_path: skimage, init_args: {names: [astronaut, chelsea, coffee, rocket]}}
split: {test: [coffee], validation: [rocket]}
sources: {train: 60, validation: 2, test: 3, size: 96, faults: {share: 0.6}}
editors: [procedural/tone, procedural/colour, procedural/detail, procedural/geometry, procedural/content]
verifiers: [pixel/success, pixel/fidelity]
judges: [pixel/detail, pixel/tone, pixel/colour]
groups: {train: 4, min_variants: 1}
calibration: 10
"""
BUILD = ("data", "build", "out", "--config", "data.yaml", "--workers", "2")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "redaes", *words]


def redaes(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=place, capture_output=True, text=True, check=False)


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("built")
    (place / "data.yaml").write_text(YAML)
    done = redaes(place, *BUILD[:-1], "1")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"out: 65 sources, \d+ pairs, \d+ groups\n", done.stdout)
    assert "sources: 65/65" in done.stderr
    assert [p.name for p in sorted(place.iterdir())] == ["data.yaml", "out", "out.ledger"]
    return place / "out"


def finished_sources(place: Path) -> int:
    """How many sources have a result in the ledger."""
    if not any(place.glob("out.ledger/builds/*.json")):
        return 0
    with Ledger.open_for_reading(place / "out.ledger") as ledger:
        builds = noted_builds(ledger)
        return ledger.results_count(builds[0].mark) if builds else 0


@pytest.mark.parametrize("signals", [(signal.SIGKILL, signal.SIGKILL), (signal.SIGINT,)], ids=["kill -9", "ctrl-c"])
def test_a_build_stopped_again_and_again_goes_on_to_the_same_bytes(built: Path, place: Path, signals: tuple) -> None:
    for stop, number in enumerate(signals):
        before = finished_sources(place)
        process = subprocess.Popen(
            command(*BUILD), cwd=place, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while finished_sources(place) < before + 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal sends it to the workers too
        else:
            process.kill()
        _, errors = process.communicate()
        assert "Traceback" not in errors
        if number == signal.SIGINT:
            assert re.search(r"interrupted with \d+/65 finished; run the same command again to go on\n$", errors)
        assert not (place / "out").exists()
        assert finished_sources(place) >= 4 * (stop + 1)
    before = finished_sources(place)
    done = redaes(place, *BUILD)
    assert done.returncode == 0, done.stderr
    assert f"sources: {before}/65" in done.stderr
    assert digest(place / "out") == digest(built)
    assert [p.name for p in sorted(place.iterdir())] == ["data.yaml", "out", "out.ledger"]


def test_a_second_build_finds_it_done_and_another_is_refused(built: Path) -> None:
    again = redaes(built.parent, *BUILD)
    assert again.returncode == 0
    assert again.stdout.endswith("(already built)\n")
    other = redaes(built.parent, *BUILD, "--seed", "1")
    assert other.returncode == 2
    assert other.stderr.splitlines() == [
        f"error: {built} holds a dataset of another configuration; choose another folder or pass --overwrite"
    ]


def test_status_tells_the_funnel_and_the_tables(built: Path) -> None:
    told = json.loads(redaes(built.parent, "data", "status", "out", "--format", "json").stdout)
    manifest = json.loads((built / "manifest.json").read_text())
    assert told == {"counts": manifest["counts"], **manifest["statistics"]}
    shown = redaes(built.parent, "data", "status", "out").stdout
    for words in ("Funnel", "Tab. 8", "Tab. 9", "procedural/tone", "pixel/detail | pixel/tone"):
        assert words in shown
    stages = re.findall(r"│ ([a-z ]+?) +│ +(\d+) +│", shown)
    assert [name for name, _ in stages][:3] == ["sources", "pair edits", "pair edits verified"]
    assert dict(stages)["pairs"] == str(manifest["counts"]["pairs"])


def test_a_persons_own_photographs_take_the_place_of_any_source(place: Path) -> None:
    folder = place / "my ${photos}, [2026]"
    folder.mkdir()
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        SkimagePhotos().open(name).save(folder / f"{name}.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    smaller = ("--set", "sources.train=4", "--set", "groups.train=1")
    done = redaes(place, *BUILD, "--photos", str(folder), *smaller)
    assert done.returncode == 0, done.stderr
    assert "broken.jpg" in done.stderr
    sources = [json.loads(line)["source"] for line in (place / "out" / "sources.jsonl").read_text().splitlines()]
    seen = {split: {s["photograph"] for s in sources if s["split"] == split} for split in ("train", "test")}
    assert len(seen["train"]) == 3
    assert len(seen["test"]) == 1
    assert not seen["train"] & seen["test"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "sources.trian=5"), "unknown key 'sources.trian' (did you mean 'sources.train'?"),
        (("--set", "judges=[pixel/tne]"), "unknown judge 'pixel/tne' (did you mean 'pixel/tone'?"),
        (("--set", "split.test=[cofee]"), "no photograph 'cofee' (did you mean 'coffee'?"),
        (("--photos", "nowhere"), "nowhere is not a folder"),
        (("--workers", "0"), "workers is 0; give 1 or more"),
        (("--config", "nano/dta.yaml"), "no configuration file 'nano/dta.yaml' (did you mean 'nano/data.yaml'?"),
    ],
)
def test_a_mistake_is_one_line(place: Path, words: tuple[str, ...], message: str) -> None:
    done = redaes(place, *BUILD, *words)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (place / "out").exists()


def test_a_place_that_cannot_be_written_is_one_line(place: Path) -> None:
    done = redaes(place, "data", "build", "/proc/nowhere/out", "--config", "data.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write /proc/nowhere/out")
