"""Packages of third parties, installed by pip into a fresh environment and used by name: ours to copy, and new ones."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"
OURS = ("redaes-example-reward", "redaes-example-judge", "redaes-vllm", "redaes-google", "redaes-pyiqa")
KINDS = (
    "source",
    "editor",
    "judge",
    "instructor",
    "verifier",
    "fusion",
    "reward",
    "rollout",
    "scorer",
    "runner",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that sees this one's packages, with every plug-in package installed."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    fresh = folder / "venv" / "bin" / "python"
    site = subprocess.run(
        [fresh, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    borrowed = sysconfig.get_path("purelib")
    # addsitedir, not a plain path: an editable redaes is itself a .pth file there.
    (Path(site.stdout.strip()) / "borrowed.pth").write_text(f"import site; site.addsitedir({borrowed!r})\n")
    for kind in KINDS:
        words = ["plugins", "new", kind, f"my_{kind}", "--folder", folder / "new"]
        subprocess.run([fresh, "-m", "redaes", *words], check=True, cwd=folder)
    packages = [PLUGINS / name for name in OURS] + sorted((folder / "new").iterdir())
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([fresh, "-m", "pip", "install", *options, *packages], check=True)
    return fresh


def redaes(python: Path, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "redaes", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def test_they_are_listed_with_package_and_version_and_pass_the_check(python: Path, tmp_path: Path) -> None:
    listed = json.loads(redaes(python, "plugins", "list", "--format", "json", cwd=tmp_path).stdout)
    found = {(row["kind"], row["name"]): (row["package"], row["version"]) for row in listed}
    assert found["rewards", "hinge_margin"] == ("redaes-example-reward", "0.1.0")
    assert found["judges", "pixel/thirds"] == ("redaes-example-judge", "0.1.0")
    assert found["rollouts", "vllm"] == found["rollouts", "vllm_server"] == ("redaes-vllm", "0.1.0")
    assert found["editors", "nano_banana"] == ("redaes-google", "0.1.0")
    assert found["scorers", "pyiqa"] == ("redaes-pyiqa", "0.1.0")
    assert found["rewards", "my_reward"] == ("redaes-my-reward", "0.1.0")
    checked = redaes(python, "plugins", "check", "--format", "json", cwd=tmp_path)
    assert [row for row in json.loads(checked.stdout) if not row["ok"]] == []
    assert checked.returncode == 0


def test_their_own_tests_pass(python: Path, tmp_path: Path) -> None:
    folders = [PLUGINS / name / "tests" for name in OURS]
    folders += sorted((python.parents[2] / "new").glob("*/tests"))
    assert len(folders) == len(OURS) + len(KINDS)
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        f"--rootdir={tmp_path}",
    ]
    result = subprocess.run([*command, *folders], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


def test_a_dataset_is_built_with_a_judge_of_another_package(python: Path, tmp_path: Path) -> None:
    small = ["sources.train=4", "sources.validation=0", "sources.test=0", "groups.train=2", "calibration=2"]
    judges = "judges=[pixel/detail, pixel/tone, {class_path: pixel/thirds, init_args: {gain: 3.0}}]"
    overrides = [word for override in [*small, judges] for word in ("--set", override)]
    result = redaes(python, "data", "build", "dataset", "--workers", 1, *overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = (line for path in (tmp_path / "dataset").rglob("*.jsonl") for line in path.read_text().splitlines())
    judges_heard = {verdict["judge"] for line in lines for verdict in json.loads(line).get("verdicts", [])}
    assert judges_heard == {"pixel/detail", "pixel/tone", "pixel/thirds"}


def test_a_stage_is_configured_with_a_reward_of_another_package(python: Path, tmp_path: Path) -> None:
    words = ["fit", "--config", "nano/grpo.yaml", "--print_config"]
    chosen = redaes(python, *words, "--model.reward=hinge_margin", "--model.reward.margin=0.5", cwd=tmp_path)
    assert chosen.returncode == 0, chosen.stderr
    assert "class_path: hinge_margin" in chosen.stdout
    wrong = ["--model.reward=hinge_margin", "--model.reward.margn=0.5"]
    refused = redaes(python, "fit", "--config", "nano/grpo.yaml", *wrong, cwd=tmp_path)
    assert refused.returncode == 2
    assert "reward 'hinge_margin' has no setting 'margn' (did you mean 'margin'?" in refused.stderr


def test_images_are_scored_by_a_new_scorer(python: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    result = redaes(python, "score", "white.png", "--scorer", "my_scorer", "--format", "jsonl", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["score"] == 10
