"""Plug-ins are found by entry point, loaded one at a time, and refused in one line that says what is right."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from redaes import __version__
from redaes.errors import UserError
from redaes.registry import (
    DISABLE,
    KINDS,
    PACKAGES,
    check_plugins,
    create,
    find,
    identity_of,
    list_plugins,
    load_plugin,
    split_spec,
)
from redaes.rewards import RelativeRankingConsistency


def _declare(folder: Path, package: str, entry_points: str, modules: dict[str, str]) -> None:
    """Put a package into a folder as an installer would: its modules and its metadata."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    metadata = folder / f"{package}-2.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.5\n")
    (metadata / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where packages of third parties are installed."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_every_kind_has_a_built_in_plugin() -> None:
    assert {kind for kind in KINDS if find(kind)} == set(KINDS)


def test_every_built_in_plugin_loads_and_satisfies_its_contract() -> None:
    broken = [(plugin.name, plugin.error) for plugin in check_plugins() if plugin.package == "redaes" and not plugin.ok]
    assert broken == []


def test_a_plugin_whose_library_is_missing_says_so_when_it_is_made(site: Path) -> None:
    """Not at its first work, when others have been paid for theirs."""
    (site / "late.py").write_text(
        "from redaes.registry import require\n\n\nclass Late:\n"
        "    def __init__(self):\n        require('json')\n        require('no_such_library')\n\n"
        "    def edit(self, image, instruction, seed):\n        return image\n"
    )
    with pytest.raises(UserError, match=r"editor 'late\.Late' cannot be made: .* No module named 'no_such_library'"):
        create("editors", "late.Late")


def test_listing_imports_no_plugin() -> None:
    code = (
        "import sys; from redaes.registry import list_plugins; names = {p.name for p in list_plugins()};"
        "assert 'rrc' in names; loaded = {m for m in sys.modules if m.startswith('redaes.')};"
        "assert loaded == {'redaes.registry', 'redaes.errors', 'redaes.importing'}, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_one_plugin_does_not_import_another(site: Path) -> None:
    _declare(
        site,
        "pair",
        "[redaes.judges]\npair/good = pair_good:Good\npair/bad = pair_bad:Bad\n",
        {"pair_good": "class Good:\n    name = 'pair/good'\n", "pair_bad": "raise RuntimeError('imported')\n"},
    )
    assert load_plugin("judges", "pair/good").__name__ == "Good"
    assert "pair_bad" not in sys.modules


def test_a_broken_plugin_is_named_with_its_package_and_cause_and_hurts_nobody_else(site: Path) -> None:
    module = {"torn": "import surely_not_installed\n"}
    _declare(site, "torn-package", "[redaes.rewards]\ntorn = torn:Reward\n", module)
    with pytest.raises(UserError, match=r"reward 'torn' of torn-package 2\.5 does not load: .*surely_not_installed"):
        load_plugin("rewards", "torn")
    states = {plugin.name: plugin.ok for plugin in check_plugins() if plugin.kind == "rewards"}
    assert states["torn"] is False
    assert states["rrc"] is True


def test_a_missing_optional_dependency_names_the_extra_to_install(site: Path) -> None:
    module = {"asks": "raise ModuleNotFoundError(\"No module named 'openai'\", name='openai')\n"}
    _declare(site, "asks", "[redaes.judges]\nasks = asks:Judge\n", module)
    with pytest.raises(UserError, match=r"pip install 'redaes\[data\]'"):
        load_plugin("judges", "asks")


def test_two_packages_with_one_name_are_both_named(site: Path) -> None:
    _declare(site, "rival", "[redaes.rewards]\nrrc = rival:Reward\n", {"rival": ""})
    with pytest.raises(UserError, match=r"'rrc' is declared by (redaes .* and rival 2\.5|rival 2\.5 and redaes .*);"):
        load_plugin("rewards", "rrc")


def test_third_party_plugins_can_be_left_out_to_find_a_culprit(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _declare(site, "guest", "[redaes.rewards]\nguest = guest:Reward\n", {"guest": ""})
    assert "guest" in find("rewards")
    monkeypatch.setenv(DISABLE, "1")
    assert {plugin.package for plugin in list_plugins()} == {"redaes"}
    monkeypatch.setenv(DISABLE, "0")
    assert "guest" in find("rewards")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown reward 'rrk' \(did you mean 'rrc'\? installed: .*thurstone_fidelity\)"
    ):
        load_plugin("rewards", "rrk")
    with pytest.raises(UserError, match=r"unknown kind of plug-in 'reward' \(did you mean 'rewards'\?"):
        find("reward")


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "rrc", "init_args": {"tau": 0.25}},
        {"class_path": "rrc", "tau": 0.25},
        {"class_path": "rrc", "init_args": {"tau": 1.0}, "tau": 0.25},
        {"class_path": "redaes.rewards.RelativeRankingConsistency", "init_args": {"tau": 0.25}},
    ],
)
def test_every_way_to_write_a_plugin_makes_the_same(spec: dict[str, object]) -> None:
    reward = create("rewards", spec)
    assert isinstance(reward, RelativeRankingConsistency)
    assert reward.tau == 0.25


def test_a_name_alone_takes_the_defaults_and_overrides_win() -> None:
    assert create("rewards", "rrc").tau == 1.0
    assert create("rewards", {"class_path": "rrc", "tau": 0.5}, tau=2.0).tau == 2.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class_path": "rrc", "tua": 1.0}, r"reward 'rrc' has no setting 'tua' \(did you mean 'tau'\?"),
        ({"class_path": "rrc", "tau": "warm"}, r"'tau' of reward 'rrc' is 'warm'; it must be float"),
        ({"class_path": "rrc", "tau": True}, r"'tau' of reward 'rrc' is True; it must be float"),
        ({"class_path": "rrc", "tau": -1.0}, r"reward 'rrc' refuses its settings: ValueError: tau is -1"),
        ({"init_args": {"tau": 1.0}}, r"names no plug-in; write \{class_path: NAME"),
        ("pathlib.Path", r"'pathlib\.Path'"),
        ("no.such.Class", r"reward 'no\.such\.Class' does not load: ModuleNotFoundError"),
    ],
)
def test_a_bad_plugin_is_refused_in_one_line(spec: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        create("rewards", spec)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_class_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"judge 'redaes\.rewards\.Format' lacks score, compare"):
        create("judges", "redaes.rewards.Format")


def test_integers_are_fine_where_a_float_is_wanted() -> None:
    assert create("rewards", {"class_path": "rrc", "tau": 2}).tau == 2


def test_splitting_does_not_change_the_configuration() -> None:
    spec = {"class_path": "rrc", "init_args": {"tau": 1.0}, "tau": 0.25}
    split_spec(spec)
    assert spec == {"class_path": "rrc", "init_args": {"tau": 1.0}, "tau": 0.25}


def test_a_plugin_that_says_nothing_of_itself_is_known_by_class_settings_and_version_of_its_package() -> None:
    by_name = {"class_path": "rrc", "init_args": {"tau": 0.5}}
    by_path = {"class_path": "redaes.rewards.RelativeRankingConsistency", "init_args": {"tau": 0.5}}
    identities = [identity_of("rewards", spec, create("rewards", spec)) for spec in (by_name, by_path)]
    expected = {
        "class": "redaes.rewards.RelativeRankingConsistency",
        "settings": {"tau": 0.5},
        "version": __version__,
    }
    assert identities == [expected, expected]


def test_a_package_of_a_third_party_gives_its_own_version(site: Path) -> None:
    _declare(site, "third", "[redaes.rewards]\nthird = third_one:Third\n", {"third_one": "class Third: ..."})
    made = load_plugin("rewards", "third")()
    assert identity_of("rewards", "third", made)["version"] == "2.5"


def test_code_that_no_package_brought_is_known_by_what_it_says(site: Path) -> None:
    versions = []
    for name, text in (
        ("loose_a", "class Loose: ..."),
        ("loose_b", "class Loose: x = 1"),
        ("loose_c", "class Loose: ..."),
    ):
        (site / f"{name}.py").write_text(text)
        made = load_plugin("rewards", f"{name}.Loose")()
        versions.append(identity_of("rewards", f"{name}.Loose", made)["version"])
    assert versions[0] == versions[2] != versions[1]


def test_a_missing_optional_dependency_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pyarrow.parquet is needed .*pip install 'redaes\[data\]'"):
        create("sources", {"class_path": "parquet", "init_args": {"root": "."}})


@pytest.mark.parametrize(("kind", "name"), PACKAGES)
def test_a_plugin_of_a_package_of_this_project_says_what_to_install(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DISABLE, "1")  # as if it were not installed
    package = PACKAGES[kind, name]
    with pytest.raises(UserError, match=f"{name}.* is in the package {package}; pip install plugins/{package}"):
        load_plugin(kind, name)
    declared = tomllib.loads((Path(__file__).parents[1] / "plugins" / package / "pyproject.toml").read_text())
    assert name in declared["project"]["entry-points"][f"redaes.{kind}"]
