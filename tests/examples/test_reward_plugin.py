"""The example package is what `redaes plugins new` writes, filled in; it installs, passes its tests and trains."""

import ast
import csv
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.examples.running import ROOT, run

PACKAGE = ROOT / "examples" / "reward_plugin"


def files(folder: Path) -> set[str]:
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path) for path in found if not {"__pycache__", ".pytest_cache"} & set(path.parts)}


def shape(module: Path) -> dict[str, set[str]]:
    """Names of a module's functions, and of its classes with their methods and the names of parameters left out."""
    shapes: dict[str, set[str]] = {}
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ClassDef):
            shapes[node.name] = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            shapes[node.name] = set()
    return shapes


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, as pip installs it."""
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(PACKAGE)], check=True, timeout=300)
    return target


def test_it_has_the_shape_that_the_command_writes(tmp_path: Path) -> None:
    written = run("-m", "redaes", "plugins", "new", "reward", "concordance", "--folder", tmp_path, cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    fresh = tmp_path / "redaes-concordance"
    assert files(PACKAGE) == files(fresh) | {"few_steps.yaml"}
    ours, theirs = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (PACKAGE, fresh))
    assert ours == theirs
    code, test = "src/redaes_concordance/__init__.py", "tests/test_redaes_concordance.py"
    assert shape(PACKAGE / code) == shape(fresh / code)
    assert shape(fresh / test).keys() <= shape(PACKAGE / test).keys()
    readme = (PACKAGE / "README.md").read_text()
    commands = [line for line in (fresh / "README.md").read_text().splitlines() if line.startswith("    ")]
    assert [line for line in commands if line not in readme] == ["    {class_path: concordance, init_args: {...}}"]


def test_it_is_found_by_name_and_its_own_tests_pass(tmp_path: Path, installed: Path) -> None:
    checked = run("-m", "redaes", "plugins", "check", "--format", "json", cwd=tmp_path, beside=installed)
    assert '"concordance"' in checked.stdout
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", PACKAGE / "tests"]
    tested = run(*words, "--rootdir", PACKAGE, cwd=tmp_path, beside=installed)
    assert "7 passed" in tested.stdout, tested.stdout + tested.stderr


@pytest.mark.slow
def test_it_trains_a_few_steps(tmp_path: Path, installed: Path) -> None:
    done = run("-m", "redaes", "run", PACKAGE / "few_steps.yaml", cwd=tmp_path, beside=installed, timeout=600)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "concordance" / "grpo"
    assert "class_path: redaes_concordance.Concordance" in (folder / "config.yaml").read_text()
    with (folder / "metrics.csv").open() as file:
        steps = [row for row in csv.DictReader(file) if row["train/reward"]]
    assert len(steps) == 24
    assert all(0 <= float(row["train/reward"]) <= 1 for row in steps)
    assert (folder / "model" / "model.safetensors").is_file()
