"""The paper's configuration says what the paper says, and its crew can be made without network, keys or addresses."""

import inspect
import tomllib
from pathlib import Path

import pytest
import yaml

from redaes.engine.config import load_config
from redaes.errors import UserError
from redaes.presets import configs_folder, resolve_config
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


FIVE = ["Qwen-Image-Edit", "FLUX.2", "LongCat-Image", "Nano-Banana", "Seedream-4.5"]


@pytest.fixture
def google(monkeypatch, tmp_path):
    """plugins/redaes-google, as if it were installed."""
    metadata = tmp_path / "redaes_google-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: redaes-google\nVersion: 0.1.0\n")
    project = tomllib.loads((Path(__file__).parents[2] / "plugins/redaes-google/pyproject.toml").read_text())["project"]
    declared = "\n".join(f"{k} = {v}" for k, v in project["entry-points"]["redaes.editors"].items())
    (metadata / "entry_points.txt").write_text(f"[redaes.editors]\n{declared}\n")
    monkeypatch.syspath_prepend(tmp_path)


def editors_of(*overrides):
    config = load_config(resolve_config("paper/data.yaml"), overrides)
    return config, [create("editors", spec) for spec in config.editors]


def test_the_editors_are_the_papers_and_are_made_without_weights_keys_or_network(google, monkeypatch):
    for name in ("GEMINI_API_KEY", "ARK_API_KEY", "ARK_URL"):
        monkeypatch.delenv(name, raising=False)
    config, editors = editors_of()
    assert [editor.name for editor in editors] == FIVE
    for editor in editors:
        assert editor.endpoint in config.flow.limits
        assert editor.identity("edit")["model"]
        assert editor.largest_usage("edit").images == 1


def test_tab_4_has_seven_editors_of_which_four_fifths_must_pass(google):
    config, editors = editors_of("editors=paper/editors/seven.yaml", "verification.min_passing=null")
    assert [editor.name for editor in editors] == [*FIVE, "FLUX.1-Kontext", "InstructPix2Pix"]
    assert config.min_passing == 6


@pytest.mark.parametrize("count", [1, 3])
def test_tab_4_has_fewer_editors_too(google, count):
    names = ", ".join(f"paper/editors/{name}.yaml" for name in ("flux2", "seedream", "longcat_image")[:count])
    config, editors = editors_of(f"editors=[{names}]", "verification.min_passing=null")
    assert len(editors) == count
    assert config.min_passing == -(-4 * count // 5)


def test_a_setting_of_one_editor_is_overridden_as_if_it_stood_in_the_file(google):
    _, editors = editors_of("editors.1.init_args.quantization=4bit", "editors.4=procedural/tone")
    assert editors[1].identity("edit")["quantization"] == "4bit"
    assert [editor.name for editor in editors] == [*FIVE[:4], "procedural/tone"]


def test_every_editors_file_is_in_the_list_of_seven():
    folder = configs_folder() / "paper" / "editors"
    listed = yaml.safe_load((folder / "seven.yaml").read_text())
    assert {f"paper/editors/{path.name}" for path in folder.glob("*.yaml")} == {*listed, "paper/editors/seven.yaml"}


def test_every_pipeline_that_a_file_names_is_one_of_diffusers_and_takes_what_is_set():
    import diffusers

    folder = configs_folder() / "paper" / "editors"
    for path in folder.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())
        if isinstance(spec, dict) and spec["class_path"] == "diffusers":
            call = inspect.signature(getattr(diffusers, spec["init_args"]["pipeline"]).__call__).parameters
            assert {"image", "prompt", *spec["init_args"].get("call", {})} <= set(call)


def test_a_file_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"flux3.yaml' \(did you mean 'paper/editors/flux2.yaml'"):
        editors_of("editors=[paper/editors/flux3.yaml]")
