"""The engine's configuration: every mistake is one line that names the key, and the nearest right one."""

import pytest

from redaes.engine.config import EngineConfig, load_config
from redaes.errors import UserError
from redaes.presets import resolve_config

YAML = """
source: {class_path: skimage, init_args: {names: [astronaut, chelsea]}}
sources: {train: 24, faults: {share: 0.6}}
editors: [procedural/tone, procedural/colour]
verifiers: [pixel/success]
judges: [pixel/detail, {class_path: pixel/tone, init_args: {gain: 3.0}}]
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text(YAML)
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources.trian=5", "unknown key 'sources.trian' (did you mean 'sources.train'?"),
        ("sources.faults.shar=1", "unknown key 'sources.faults.shar' (did you mean 'sources.faults.share'?"),
        ("flow.limits.qwen2.5-vl.in_flight=1", "unknown key 'flow.limits.qwen2.5-vl' (did you mean"),
        ("edtors=[]", "unknown key 'edtors' (did you mean 'editors'?"),
        ("verification.threshold=11", "verification.threshold: Input should be less than or equal to 10 (got 11)"),
        ("sources.train=many", "sources.train: Input should be a valid integer"),
        ("judges=[]", "judges: Tuple should have at least 1 item"),
        ("judges.7=pixel/tone", "override 'judges.7=pixel/tone': list index out of range"),
        ("judges.x=pixel/tone", "override 'judges.x=pixel/tone': "),
        ("judges=[a", "override 'judges=[a': "),
        ("seed", "override 'seed' sets nothing; write KEY=VALUE"),
        ("seed=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("sources.crop=[0.5,2]", "sources.crop: [0.5, 2.0] is no range of shares"),
        ("sources.crop=[0,0.5]", "sources.crop: [0.0, 0.5] is no range of shares"),
        ("sources.faults.categories=[blurr]", "sources.faults: unknown fault 'blurr' (did you mean 'blur'?"),
        ("groups.min_variants=8", "groups: min_variants is 8, but a group has at most 7 variants"),
        ("verification.min_passing=3", "verification.min_passing is 3 of 2 editors"),
        ("split={test: [a], validation: [a]}", "split: ['a'] are in both test and validation"),
    ],
)
def test_a_bad_setting_is_named(path, override, message):
    with pytest.raises(UserError) as caught:
        load_config(path, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "is a list"),
        ("a: [", "cannot read"),
        (YAML.replace("editors", "edtors"), "unknown key 'edtors' (did you mean 'editors'?"),
        ("", "editors: Field required"),
    ],
)
def test_a_bad_file_is_one_line(path, text, message):
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_overrides_reach_into_mappings_and_lists(path):
    config = load_config(path, ["sources.train=50", "judges.1.init_args.gain=4", "judges.0=pixel/colour", "seed=3"])
    assert (config.seed, config.sources.train, config.sources.faults.share) == (3, 50, 0.6)
    assert config.judges == ("pixel/colour", {"class_path": "pixel/tone", "init_args": {"gain": 4}})


def test_a_mapping_is_merged_but_a_plugin_takes_the_place_of_the_other(path):
    config = load_config(path, ["sources={train: 5}", "source={class_path: folder, init_args: {root: x}}"])
    assert config.sources.train == 5
    assert config.sources.faults.share == 0.6
    assert config.source == {"class_path": "folder", "init_args": {"root": "x"}}


@pytest.mark.parametrize(("editors", "needed"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (7, 6), (10, 8)])
def test_four_fifths_of_the_editors_must_pass_unless_it_is_said_otherwise(editors, needed):
    values = {"editors": ["e"] * editors, "verifiers": ["v"], "judges": ["j"]}
    assert EngineConfig.model_validate(values).min_passing == needed
    assert EngineConfig.model_validate({**values, "verification": {"min_passing": 1}}).min_passing == 1


def test_the_shipped_configuration_holds_the_papers_numbers():
    config = load_config(resolve_config("nano/data.yaml"))
    assert (len(config.editors), config.min_passing, len(config.judges)) == (5, 4, 3)
    assert (config.verification.threshold, config.groups.max_variants, config.calibration) == (7.5, 7, 200)
    assert EngineConfig.model_validate_json(config.model_dump_json()) == config
