"""A small dataset made by the engine and a small model, once per session."""

import pytest
from benchmarks.resume import write_dataset, write_model


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("training") / "model")
