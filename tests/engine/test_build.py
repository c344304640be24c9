"""A build gives the same bytes however it is run, keeps its promises in every record, and survives being killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from scipy.stats import chisquare

from redaes.data.manifest import Manifest, read_records
from redaes.engine.build import build
from redaes.engine.config import EngineConfig, load_config
from redaes.engine.plan import plan_jobs, split_photographs
from redaes.engine.runners import ProcessRunner, SerialRunner
from redaes.engine.stages import choose
from redaes.errors import UserError
from redaes.fusion import ConsensusFusion
from redaes.records import Edit
from redaes.sources import Photograph

YAML = """
source: {class_path: skimage, init_args: {names: [astronaut, chelsea, coffee, rocket]}}
split: {test: [coffee], validation: [rocket]}
sources: {train: 24, validation: 2, test: 4, faults: {share: 0.6}}
editors: [procedural/tone, procedural/colour, procedural/detail, procedural/geometry, procedural/content]
verifiers: [pixel/success, pixel/fidelity]
judges: [pixel/detail, pixel/tone, pixel/colour]
groups: {train: 5, instructions: 7, min_variants: 2}
calibration: 10
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "data.yaml"
    path.write_text(YAML)
    return load_config(path)


@pytest.fixture(scope="session")
def dataset(config, tmp_path_factory):
    root = tmp_path_factory.mktemp("engine") / "data"
    build(config, root, SerialRunner())
    return Manifest(root)


def edits(manifest):
    return list(read_records(manifest.root / "edits.jsonl", Edit))


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bytes(config, dataset, tmp_path, workers):
    build(config, tmp_path / "again", ProcessRunner(workers))
    assert digest(tmp_path / "again") == digest(dataset.root)


def test_another_seed_gives_other_data(config, dataset, tmp_path):
    build(config.model_copy(update={"seed": 1}), tmp_path / "other", SerialRunner())
    assert digest(tmp_path / "other").keys() != digest(dataset.root).keys() or digest(tmp_path / "other") != digest(
        dataset.root
    )


def test_no_photograph_is_in_two_splits(dataset):
    seen = {split: {r.source.photograph for r in dataset.sources(split)} for split in ("train", "validation", "test")}
    assert seen == {"train": {"astronaut", "chelsea"}, "validation": {"rocket"}, "test": {"coffee"}}
    assert {r.source.split for r in dataset.calibration()} == {"train"}
    assert not dataset.pairs("test")


def test_every_kept_pair_was_verified_and_is_unanimously_better(config, dataset):
    pairs = dataset.pairs("train")
    assert pairs
    for pair in pairs:
        means = sum(v.value for v in pair.edit.verifications) / len(pair.edit.verifications)
        assert means >= 7.5
        assert len(pair.edit.verdicts) == 3
        assert all(v.value > 0 for v in pair.edit.verdicts)
        assert pair.delta == ConsensusFusion()([v.value for v in pair.edit.verdicts]).value
        distance = {v.reasoning: abs(v.value - pair.delta) for v in pair.edit.verdicts}
        assert distance[pair.reasoning] == min(distance.values())


def test_a_source_is_judged_only_if_four_of_five_edits_pass(dataset):
    by_source: dict[str, list[Edit]] = {}
    for edit in edits(dataset):
        if edit.passed is not None:
            by_source.setdefault(edit.source_id, []).append(edit)
    assert by_source
    for made in by_source.values():
        assert len(made) == 5
        enough = sum(bool(e.passed) for e in made) >= 4
        assert {bool(e.verdicts) for e in made if e.passed} <= {enough}
        assert not any(e.verdicts for e in made if not e.passed)


def test_every_group_holds_its_source_first_and_unanimous_variants(dataset):
    groups = dataset.groups("train") + dataset.groups("test")
    assert groups
    for group in groups:
        first, *variants = group.members
        assert first.g == 0
        assert first.edit is None
        assert len(variants) >= 2
        for member in variants:
            signs = {v.value > 0 for v in member.edit.verdicts}
            assert len(signs) == 1
            assert (member.g > 0) == signs.pop()


def test_every_image_a_record_names_is_there_and_no_other(dataset):
    named = {r.source.image for split in ("train", "validation", "test") for r in dataset.sources(split)}
    named |= {e.image for e in edits(dataset) if e.image}
    assert {f"images/{p.name}" for p in (dataset.root / "images").iterdir()} == named
    for group in dataset.groups("train"):
        assert all(dataset.open(m.image).size == (112, 112) for m in group.members)


def test_the_statistics_are_those_of_the_records(dataset):
    statistics = dataset.info["statistics"]
    made = [e for e in edits(dataset) if e.verifications]
    for editor, row in statistics["verification"].items():
        rows = [e for e in made if e.editor == editor]
        assert row["success_rate"] == round(sum(bool(e.passed) for e in rows) / len(rows), 4)
    judged = [e for e in edits(dataset) if e.verdicts]
    for a, b in combinations(range(3), 2):
        key = f"{judged[0].verdicts[a].judge} | {judged[0].verdicts[b].judge}"
        agree = [(e.verdicts[a].value > 0) == (e.verdicts[b].value > 0) for e in judged]
        assert statistics["judge_agreement"][key] == pytest.approx(sum(agree) / len(agree), abs=0.02)


def test_the_choice_among_kept_variants_is_uniform():
    counts = Counter(choose("abcd", f"source-{k}", seed=0) for k in range(4000))
    assert chisquare([counts[c] for c in "abcd"]).pvalue > 0.001


def test_a_finished_dataset_is_left_alone_and_another_is_not_overwritten(config, dataset):
    before = digest(dataset.root)
    build(config, dataset.root, SerialRunner())
    with pytest.raises(UserError, match="another configuration"):
        build(config.model_copy(update={"seed": 9}), dataset.root, SerialRunner())
    assert digest(dataset.root) == before


def test_a_folder_with_something_else_in_it_is_not_touched(config, tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="not a dataset"):
        build(config, tmp_path, SerialRunner())
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_a_build_killed_anywhere_goes_on_to_the_same_bytes(config, dataset, tmp_path):
    (tmp_path / "data.yaml").write_text(YAML)
    command = [
        sys.executable,
        "-c",
        "import sys; from pathlib import Path; from redaes.engine.build import build;"
        "from redaes.engine.config import load_config; from redaes.engine.runners import SerialRunner;"
        "build(load_config(Path('data.yaml')), Path('out'), SerialRunner(), lambda d, t: print(d, flush=True))",
    ]
    for stop_at in (5, 17):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= stop_at:
                break
        time.sleep(0.01 * stop_at)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "out").exists()
    journal = tmp_path / "out.partial" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"torn')
    done = len(journal.read_bytes().splitlines()) - 1
    finished = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert int(finished.stdout.split()[0]) == done >= 17
    assert digest(tmp_path / "out") == digest(dataset.root)
    assert not (tmp_path / "out.partial").exists()


def test_photographs_without_named_splits_are_split_at_random_but_always_the_same(config):
    free = config.model_copy(update={"split": config.split.model_copy(update={"test": (), "validation": ()})})
    photographs = [Photograph(f"p{k:02d}.jpg", "") for k in range(20)]
    splits = split_photographs(photographs, free)
    assert {k: len(v) for k, v in splits.items()} == {"train": 14, "validation": 2, "test": 4}
    assert splits == split_photographs(photographs, free)
    alone = split_photographs(photographs[:1], free)
    assert [len(v) for v in alone.values()] == [1, 0, 0]


def test_calibration_and_group_sources_do_not_depend_on_other_counts(config):
    photographs = [Photograph(n, "") for n in ("astronaut", "chelsea", "coffee", "rocket")]
    jobs = plan_jobs(photographs, config)
    assert sum(j.group and j.source.split == "train" for j in jobs) == 5
    without_pairs = plan_jobs(photographs, config.model_copy(update={"pairs": False}))
    assert [j.source for j in without_pairs] == [j.source for j in jobs]
    assert [j.group for j in without_pairs] == [j.group for j in jobs]


@pytest.mark.parametrize("editors", [1, 3, 5, 7])
@pytest.mark.parametrize("judges", [1, 3, 5])
def test_any_number_of_editors_and_judges_works(editors, judges, tmp_path):
    names = ["tone", "colour", "detail", "geometry", "content"]
    crew = [{"class_path": f"procedural/{names[k % 5]}", "name": f"e{k}"} for k in range(editors)]
    panel = [{"class_path": f"pixel/{names[k % 3]}", "name": f"j{k}", "gain": 3 + k} for k in range(judges)]
    small = EngineConfig.model_validate(
        {
            "source": {"class_path": "skimage", "init_args": {"names": ["chelsea"]}},
            "sources": {"train": 3, "validation": 0, "test": 0},
            "editors": crew,
            "verifiers": ["pixel/success"],
            "judges": panel,
            "groups": {"train": 0},
        }
    )
    info = build(small, tmp_path / "data", SerialRunner())
    assert info["counts"]["sources"] == 3
    assert info["counts"]["edits"] == 3 * editors
    assert small.min_passing == {1: 1, 3: 3, 5: 4, 7: 6}[editors]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources.trian=5", "did you mean 'train'"),
        ("edtors=[]", "did you mean 'editors'"),
        ("verification.threshold=11", "verification.threshold"),
        ("sources.train=many", "sources.train"),
        ("judges=[]", "judges"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, override, message):
    path = tmp_path / "data.yaml"
    path.write_text(YAML)
    with pytest.raises(UserError, match=message):
        load_config(path, [override])


def test_the_shipped_configuration_is_valid():
    from redaes.presets import resolve_config

    config = load_config(resolve_config("nano/data.yaml"))
    assert config.min_passing == 4
    assert json.loads(config.model_dump_json())["groups"]["max_variants"] == 7
