"""A small dataset made by the engine and a small model, once per session."""

import json

import pytest

from redaes.engine.build import build
from redaes.engine.config import EngineConfig
from redaes.engine.runners import SerialRunner
from redaes.models.nano import build_nano
from redaes.models.vlm import export

SMALL = {
    "source": {"class_path": "skimage", "init_args": {"names": ["astronaut", "chelsea", "coffee", "rocket"]}},
    "split": {"test": ["coffee"], "validation": ["rocket"]},
    "sources": {"train": 30, "validation": 3, "test": 3, "faults": {"share": 0.6}},
    "editors": ["procedural/tone", "procedural/colour", "procedural/detail"],
    "verifiers": ["pixel/success"],
    "judges": ["pixel/detail", "pixel/tone", "pixel/colour"],
    "groups": {"train": 6, "instructions": 8, "min_variants": 2},
    "calibration": 16,
}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("training") / "data"
    build(EngineConfig.model_validate(json.loads(json.dumps(SMALL))), root, SerialRunner())
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    model, processor = build_nano(["Detail is crisper."], hidden=64, layers=2, vision=64)
    return export(model, processor, tmp_path_factory.mktemp("training") / "model")
