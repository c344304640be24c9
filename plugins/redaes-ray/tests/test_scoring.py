"""Scores from a cluster are those of one machine, whatever machines, processes and images do."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml
from PIL import Image
from ray.cluster_utils import Cluster
from tests.data.benchmarks.layouts import write_ava

from redaes.cli import main
from redaes.errors import UserError
from redaes.evaluation.scoring import read_file
from redaes.inference.asking import LoadedScorer
from redaes.inference.listing import Row, read_rows
from redaes_ray.scoring import Placement, scorers
from redaes_ray.storage import Storage

CASES = str(Path(__file__).parent)
sys.path.insert(0, CASES)
from scoring_cases import Brightness  # noqa: E402  (as the workers do)

RUNNER = "scoring_cases.OnCluster"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a machine, joined by this process."""
    small = {"object_store_memory": 100 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", CASES, prepend=os.pathsep)  # of the machines, and of their workers
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
        made.add_node(num_cpus=1, object_store_memory=100 << 20)
        made.wait_for_nodes()
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 files in two folders; the red of each pixel is the file's number. Three are no images."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for number in range(117):
        place = folder / "more" if number >= 60 else folder
        Image.new("RGB", (8 + number % 5, 8), (number, 0, 0)).save(place / f"{number:03}.png")
    (folder / "030bad.jpg").write_bytes(b"no image")
    (folder / "more" / "100empty.png").write_bytes(b"")
    (folder / "more" / "116cut.png").write_bytes((folder / "001.png").read_bytes()[:50])
    return folder


def score(photos: Path, output: Path, *words: object) -> tuple[int, list[Row]]:
    code = main(["score", str(photos), "--output", str(output), *map(str, words)])
    return code, read_rows(output, "jsonl")


def seen(log: Path) -> Counter[int]:
    """How often each image was looked at."""
    return Counter(int(line.split()[0]) for line in log.read_text().splitlines()) if log.exists() else Counter()


def by(scorer: str, model: object, batch_size: int = 4) -> tuple[object, ...]:
    return ("--scorer", f"scoring_cases.{scorer}", "--model", model, "--batch_size", batch_size)


@contextmanager
def driver(cluster: Cluster, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """The command line in a process of its own, which joins the cluster by RAY_ADDRESS."""
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    process = subprocess.Popen([sys.executable, "-m", "redaes", *map(str, words)], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Or until it can no longer happen."""
    end = time.monotonic() + 200
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def test_scorers_have_a_gpu_each_or_a_machine_each() -> None:
    machines = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0}, {"memory": 1.0}]
    assert Placement().on(machines) == (3, 1, 0.5)
    assert Placement(num_gpus=0.5).on(machines) == (6, 0.5, 0.5)
    assert Placement(num_gpus=2).on(machines) == (1, 2, 0.5)
    assert Placement(num_gpus=0).on(machines) == (3, 0, 3.0)  # the smallest machine less what reading takes
    assert Placement(actors=6).on([{"CPU": 8.0}, {"CPU": 8.0}]) == (6, 0, 2.0)
    assert Placement().on([{"CPU": 1.0}]) == (1, 0, 0.5)
    assert Placement(actors=4, num_cpus=2, num_gpus=1).on([]) == (4, 1, 2)  # machines that are yet to come
    with pytest.raises(UserError, match="actors is 0"):
        Placement(actors=0)


@pytest.mark.slow
def test_rows_of_the_real_model_are_those_of_one_machine(cluster, photographs, tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 90, 120, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels + np.uint8(number)).resize((60 + 30 * number, 90)).save(tmp_path / f"{number}.png")
    (tmp_path / "5bad.png").write_bytes((tmp_path / "5.png").read_bytes()[:300])
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    code, rows = score(tmp_path, here)
    assert code == 1
    assert sum(row.score is not None for row in rows) >= 35
    assert score(tmp_path, there, "--runner", RUNNER)[0] == 1
    assert there.read_text() == here.read_text()


def test_images_have_their_own_rows_in_order_and_both_scorers_work(cluster, photographs, tmp_path) -> None:
    log = tmp_path / "log"
    settings = tmp_path / "cluster.yaml"
    settings.write_text(yaml.safe_dump({"class_path": RUNNER, "init_args": {"actors": 2}}))
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    local = score(photographs, here, *by("Fragile", log))
    log.unlink()
    spread = score(photographs, there, *by("Fragile", log), "--runner", settings)
    assert spread == local
    errors = {Path(row.path).name: row.error for row in local[1] if row.error}
    assert errors.pop("116cut.png").startswith("is truncated")
    assert errors == {
        "013.png": "RuntimeError: this one",
        "014.png": "the model's answer holds no score",
        "030bad.jpg": "is not an image in a format Pillow can read",
        "100empty.png": "is empty (0 bytes)",
    }
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2


@pytest.mark.slow
def test_a_machine_may_go_while_its_scorer_works(cluster, photographs, tmp_path) -> None:
    log = tmp_path / "log"
    machine = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    output = tmp_path / "rows.jsonl"
    settings = tmp_path / "cluster.yaml"
    settings.write_text(yaml.safe_dump({"class_path": RUNNER, "init_args": {"actors": 3}}))
    words = ("score", photographs, "--output", output, *by("Brightness", f"{log}|0.4"), "--runner", settings)
    with driver(cluster, *words) as process:
        wait_until(lambda: log.exists() and machine.node_id in log.read_text(), process)
        cluster.remove_node(machine)
        assert process.wait(300) == 1
    rows = read_rows(output, "jsonl")
    assert [row.reasoning for row in rows if row.score is not None] == [f"red is {n}" for n in range(117)]
    assert Counter(row.error for row in rows if row.score is None).total() == 3


@pytest.mark.slow
def test_a_run_whose_driver_is_killed_is_gone_on_with(cluster, photographs, tmp_path) -> None:
    log, output = tmp_path / "log", tmp_path / "rows.jsonl"
    words = ("score", photographs, "--output", output, *by("Brightness", f"{log}|0.1"), "--runner", RUNNER)
    with driver(cluster, *words) as process:
        wait_until(lambda: output.exists() and output.read_text().count("\n") >= 20, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {row.path for row in read_rows(output, "jsonl") if row.score is not None}
    assert 20 <= len(kept) < 117
    time.sleep(3)  # scorers of a driver that is gone end too, in the middle of their images
    log.unlink()
    code, rows = score(photographs, output, *words[4:])
    assert code == 1
    assert sorted(row.reasoning for row in rows if row.score is not None) == sorted(f"red is {n}" for n in range(117))
    assert seen(log) == Counter(range(117)) - Counter(int(Path(path).stem) for path in kept)


def test_an_image_that_kills_a_process_twice_is_left_out_and_no_other(cluster, photographs, tmp_path) -> None:
    log, output = tmp_path / "log", tmp_path / "rows.jsonl"
    code, rows = score(photographs, output, *by("Deadly", log), "--runner", RUNNER)
    assert code == 1
    failed = {Path(row.path).name: row.error for row in rows if row.score is None}
    assert failed.pop("013.png") == "killed the scorer's process"
    assert failed.keys() == {"030bad.jpg", "100empty.png", "116cut.png"}
    assert sum(row.score is not None for row in rows) == 116
    assert seen(log)[13] == 2


@pytest.mark.slow
def test_a_scorer_that_no_process_survives_ends_the_run(cluster, photographs, tmp_path, capsys) -> None:
    log = tmp_path / "log"
    code = main(["score", str(photographs), *map(str, by("AlwaysDeadly", log)), "--runner", RUNNER])
    assert code == 2
    assert "8 images in a row have each ended two processes of the scorer" in capsys.readouterr().err
    code = main(["score", str(photographs), *map(str, by("NeverOpens", "")), "--runner", RUNNER])
    assert code == 2
    assert "3 processes in a row ended while they opened the scorer" in capsys.readouterr().err


def test_machines_with_different_models_are_not_mixed(cluster, photographs) -> None:
    def make() -> LoadedScorer:
        return LoadedScorer("moody", str(os.getpid()), Brightness(os.devnull), 4)

    paths = sorted(photographs.glob("0*.png"))

    def ask_until_both_are_open() -> None:
        with scorers(make, Placement(2, num_cpus=0.5)) as pool:
            for _ in range(200):
                assert sum(map(len, pool.ask(paths, read_file))) == len(paths)

    with pytest.raises(UserError, match="different models"):
        ask_until_both_are_open()


def test_shards_give_the_same_files_of_rows(cluster, tmp_path) -> None:
    from tests.inference.test_shards import parquet_shard, tar_shard

    (tmp_path / "shards").mkdir()
    tar_shard(tmp_path / "shards" / "a.tar", [10, None, *range(20, 50)])
    parquet_shard(tmp_path / "shards" / "b.parquet", range(60, 100))
    found = []
    for place, runner in (("here", ()), ("there", ("--runner", RUNNER))):
        words = (
            "score",
            tmp_path / "shards",
            "--output",
            tmp_path / place,
            *by("Brightness", tmp_path / "log"),
            *runner,
        )
        assert main([*map(str, words)]) == 1
        found.append([read_rows(tmp_path / place / f"{name}.scores.parquet", "parquet") for name in "ab"])
    assert found[0] == found[1]
    assert [len(rows) for rows in found[0]] == [32, 40]


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[dict]]:
    code = main(["evaluate", "--format", "json", *map(str, words)])
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, [{key: value for key, value in result.items() if key != "seconds"} for result in results]


@pytest.mark.slow
def test_benchmarks_come_out_the_same(cluster, tmp_path, capsys) -> None:
    from redaes.evaluation.predictions import Predictions

    write_ava(tmp_path / "AVA", n=24)
    ava = ("--benchmark", "ava", "--root", tmp_path / "AVA", "--model", "nano")
    local = evaluated(capsys, *ava, "--predictions", tmp_path / "here")
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({"runner": {"class_path": RUNNER, "init_args": {"actors": 2}}}))
    spread = evaluated(capsys, *ava, "--predictions", tmp_path / "there", "--config", plan)
    assert local[1]
    assert spread == local
    mark = local[1][0]["fingerprint"]
    here, there = (Predictions(tmp_path / place).answers("ava", mark) for place in ("here", "there"))
    assert len(here) == 24
    for name, answer in here.items():
        for field in ("value", "std", "reasoning", "text", "status", "error", "size", "digest"):
            assert getattr(there[name], field) == getattr(answer, field)
    again = evaluated(capsys, *ava, "--predictions", tmp_path / "there", "--runner", "no.such.Runner")
    assert again == (2, [])


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_a_runner_that_cannot_score_says_which_can(command, photographs, tmp_path, capsys) -> None:
    write_ava(tmp_path / "AVA", n=4)
    words = {"score": [str(photographs)], "evaluate": ["--benchmark", "ava", "--root", str(tmp_path / "AVA")]}
    assert main([command, *words[command], "--runner", "threads"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "the runner 'threads' cannot score images; runners that can: " in said[-1]


def test_images_of_a_bucket_are_scored_and_one_that_cannot_be_read_has_a_row(
    cluster, bucket, photographs, tmp_path, capsys
) -> None:
    place, _, settings = bucket.partition("?")
    folder = Storage.of(bucket)
    for number in (3, 1, 2):
        folder.write(f"some/{number}.png", (photographs / f"{number:03}.png").read_bytes())
    folder.write("some/2bad.png", b"no image")
    folder.write("some/notes.txt", b"no image")
    log, output = tmp_path / "log", tmp_path / "rows.jsonl"
    words = ["score", f"{place}/some?{settings}", "--output", str(output), *map(str, by("Brightness", log))]
    assert main(words) == 2
    assert "is read by a runner: add --runner" in capsys.readouterr().err
    assert main([*words, "--runner", RUNNER]) == 1
    rows = read_rows(output, "jsonl")
    assert [(row.path, row.reasoning, row.error) for row in rows] == [
        (f"{place}/some/1.png?{settings}", "red is 1", ""),
        (f"{place}/some/2.png?{settings}", "red is 2", ""),
        (f"{place}/some/2bad.png?{settings}", "", "is not an image in a format Pillow can read"),
        (f"{place}/some/3.png?{settings}", "red is 3", ""),
    ]
    assert main(["score", f"{place}/none?{settings}", "--runner", RUNNER]) == 2
    assert "no images at" in capsys.readouterr().err
