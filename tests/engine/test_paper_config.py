"""The paper's configuration says what the paper says, and its crew can be made without network, keys or addresses."""

import pytest

from redaes.engine.config import load_config
from redaes.presets import resolve_config
from redaes.registry import create

QWEN3, QWEN2_5, GPT5 = "Qwen3-VL-235B-A22B-Instruct", "Qwen2.5-VL-72B-Instruct", "gpt-5"


@pytest.fixture
def config(monkeypatch):
    for name in ("OPENAI_API_KEY", "QWEN3_VL_URL", "QWEN2_5_VL_URL"):
        monkeypatch.delenv(name, raising=False)
    return load_config(resolve_config("paper/data.yaml"))


def test_the_crew_is_the_papers(config):
    instructor = create("instructors", config.instructor)
    judges = [create("judges", spec) for spec in config.judges]
    verifiers = [create("verifiers", spec) for spec in config.verifiers]
    assert instructor.name == QWEN3
    assert [judge.name for judge in judges] == [QWEN3, QWEN2_5, GPT5]
    assert [verifier.name for verifier in verifiers] == [QWEN2_5, GPT5]
    for plugin in (instructor, *judges, *verifiers):
        assert plugin.endpoint in config.flow.limits
        assert plugin.identity("score")["model"].endswith(plugin.name)


def test_the_numbers_are_the_papers(config):
    assert (config.verification.threshold, config.min_passing, len(config.editors)) == (7.5, 4, 5)
    assert (config.groups.train, config.groups.instructions, config.groups.max_variants) == (1000, 7, 7)
    assert (config.sources.train, config.calibration, config.fusion) == (500_000, 200, "consensus")


def test_no_address_is_part_of_the_dataset(config):
    assert "http" not in config.model_dump_json()
