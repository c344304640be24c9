"""Missing keys and misspelt endpoints are told before anything is paid for."""

import pytest
from benchmarks.vendors.crew import ANTHROPIC_URL, KEY, configuration, environment

from redaes.engine.build import build
from redaes.engine.config import EngineConfig
from redaes.errors import UserError

ADDRESS = "http://127.0.0.1:9"  # nobody is there, and nobody is asked


@pytest.fixture
def values(monkeypatch):
    for name, value in environment(ADDRESS).items():
        monkeypatch.setenv(name, value)
    return configuration()


def test_all_missing_keys_are_named_at_once(values, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY)
    monkeypatch.delenv("OTHER_KEY", raising=False)
    values["judges"][2]["init_args"]["key_variable"] = "OTHER_KEY"
    with pytest.raises(UserError, match=rf"set OTHER_KEY, {KEY}, or"):
        build(EngineConfig.model_validate(values), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_endpoint_is_refused_with_the_nearest(values, tmp_path):
    values["flow"]["limits"] = {"REDAES_TEST_OPENAI_ULR": {"in_flight": 2}}
    with pytest.raises(UserError, match="did you mean 'REDAES_TEST_OPENAI_URL'"):
        build(EngineConfig.model_validate(values), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_not_set_is_told_before_anything_is_paid_for(values, tmp_path, monkeypatch):
    monkeypatch.delenv(ANTHROPIC_URL)
    with pytest.raises(UserError, match=f"no address in the environment: set {ANTHROPIC_URL} to"):
        build(EngineConfig.model_validate(values), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
