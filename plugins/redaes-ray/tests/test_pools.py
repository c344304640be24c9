"""Plug-ins in pools of actors, on a cluster of two node processes: the same bytes, asked where they should be.

The GPUs of the second node are Ray's word alone: it hands out their numbers as it does those of real ones.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from redaes.calls import Transient, Usage, collecting
from redaes.engine.config import EngineConfig
from redaes.engine.stages import Crew
from redaes.errors import UserError
from redaes.records import Instruction

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

from benchmarks._worlds import configuration  # noqa: E402

from redaes_ray import pools as pools_module  # noqa: E402
from redaes_ray.cluster import join  # noqa: E402
from redaes_ray.pools import MOST, Pools, Turns, plan_pools, start_pools, with_pools  # noqa: E402

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))

from ray_builds import build, cluster_of, dataset_files, wait_until  # noqa: E402

PICTURE = Image.new("RGB", (16, 16), (90, 120, 30))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of({"num_cpus": 2}, {"num_cpus": 2, "num_gpus": 2}) as made:
        yield made


@pytest.fixture(scope="module")
def driver(cluster: Any) -> Iterator[None]:
    """This process is a driver of the cluster."""
    join(cluster.address)
    yield
    ray.shutdown()


def world(place: Path, sources: int, pools: Mapping[str, Any], latency: float = 0.0) -> dict[str, Any]:
    """A configuration whose first editor and first two judges are watched; written for both runners."""
    (place / "seen").mkdir()
    values = configuration(sources, groups=sources // 5, latency=latency) | {"flow": {"in_flight": 16}}
    for kind, spec in (
        ("Judge", values["judges"][0]),
        ("Judge", values["judges"][1]),
        ("Editor", values["editors"][0]),
    ):
        spec["class_path"] = f"pool_plugins.{kind}"
        spec["init_args"]["folder"] = str(place / "seen")
    (place / "local.yaml").write_text(json.dumps(values))
    runner = {"class_path": "ray", "init_args": {"pools": pools}}
    (place / "data.yaml").write_text(json.dumps(values | {"runner": runner}))
    return values


def seen(place: Path, plugin: str) -> list[list[str]]:
    """Process, title and questions at the moment, of each question to a plug-in."""
    path = place / "seen" / plugin
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


def read(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.ParquetFile(path).read(columns=["source", "status", "error"]).to_pylist()
    return rows


def build_locally(place: Path) -> None:
    assert build(place, "local", "--config", "local.yaml") == 0, (place / "log").read_text()[-2000:]
    for path in (place / "seen").iterdir():
        path.unlink()


def test_a_pool_gives_the_bytes_of_the_local_runner_and_is_asked_in_its_own_processes(
    tmp_path: Path, cluster: Any
) -> None:
    size = {"actors": 2, "num_gpus": 0, "num_cpus": 0.5, "threads": 2}
    world(tmp_path, 10, {"judge-0": size, "editor-0": {**size, "num_cpus": 0}}, latency=0.02)
    build_locally(tmp_path)
    assert build(tmp_path, "out") == 0, (tmp_path / "log").read_text()[-2000:]
    assert dataset_files(tmp_path / "out") == dataset_files(tmp_path / "local")

    for plugin in ("judge-0", "editor-0"):
        asked = seen(tmp_path, plugin)
        assert {title for _, title, _ in asked} == {"ray::PluginActor"}
        assert len({process for process, _, _ in asked}) == 2
        assert max(int(busy) for _, _, busy in asked) <= 2
    elsewhere = {title for _, title, _ in seen(tmp_path, "judge-1")}
    assert elsewhere
    assert not any("PluginActor" in title for title in elsewhere)


@pytest.mark.slow
def test_an_actor_that_is_killed_meanwhile_leaves_the_bytes_as_they_are(tmp_path: Path, cluster: Any) -> None:
    world(tmp_path, 20, {"judge-0": {"actors": 1, "num_gpus": 0, "threads": 4}}, latency=0.1)
    build_locally(tmp_path)
    ended: list[int] = []

    def kill_twice() -> None:
        for _ in range(2):
            wait_until(lambda: {int(row[0]) for row in seen(tmp_path, "judge-0")} - set(ended), limit=60)
            ended.append(int(seen(tmp_path, "judge-0")[-1][0]))
            os.kill(ended[-1], signal.SIGKILL)

    with ThreadPoolExecutor(1) as other:
        killing = other.submit(kill_twice)
        assert build(tmp_path, "out") == 0, (tmp_path / "log").read_text()[-2000:]
        killing.result()
    assert len({row[0] for row in seen(tmp_path, "judge-0")}) == 3
    assert dataset_files(tmp_path / "out") == dataset_files(tmp_path / "local")


@pytest.mark.slow
def test_a_picture_that_kills_every_actor_is_left_out_and_named_and_takes_no_other_with_it(
    tmp_path: Path, cluster: Any
) -> None:
    world(tmp_path, 12, {"judge-0": {"actors": 1, "num_gpus": 0, "threads": 8}}, latency=0.1)
    build_locally(tmp_path)
    rows = [json.loads(line)["source"] for line in (tmp_path / "local" / "sources.jsonl").read_text().splitlines()]
    poisoned = rows[5]
    pixels = Image.open(tmp_path / "local" / poisoned["image"]).convert("RGB").tobytes()
    (tmp_path / "seen" / "poison").write_text(pixels[:16].hex())

    assert build(tmp_path, "out") == 1
    kept = [json.loads(line)["source"] for line in (tmp_path / "out" / "sources.jsonl").read_text().splitlines()]
    assert kept == [row for row in rows if row != poisoned]
    rows_of_calls = [row for path in (tmp_path / "out.ledger" / "calls").rglob("*.parquet") for row in read(path)]
    given_up = {(row["source"], row["error"]) for row in rows_of_calls if row["status"] == "failed"}
    assert given_up == {(poisoned["id"], f"judge-0: its process ended {MOST} times on this question")}
    deaths = seen(tmp_path, "deaths")
    assert len({process for process, _ in deaths}) == len(deaths) == MOST
    assert [busy for _, busy in deaths][-2:] == ["1", "1"]  # alone


# --- pools of this process: what an actor is given, what comes back from it, what is refused --------------------------


def crew(judge: Mapping[str, Any]) -> tuple[Crew, EngineConfig]:
    values = configuration(1)
    values["judges"][0] = {"class_path": "pool_plugins.LocalJudge", "init_args": dict(judge)}
    config = EngineConfig.model_validate(values)
    return Crew.from_config(config), config


def start(judge: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Crew, Pools]:
    made, config = crew(judge)
    pools = start_pools(made, config, settings, str(TESTS))
    return with_pools(made, config, pools), pools


@pytest.mark.parametrize("settings", [{}, {"sighted": {"actors": 2, "num_gpus": 1}}], ids=["by itself", "as told"])
def test_every_actor_sees_a_gpu_of_its_own_and_holds_it(driver: None, settings: dict[str, Any]) -> None:
    asked, pools = start({}, settings)
    with closing(pools), ThreadPoolExecutor(12) as threads:
        assert len(asked.judges[1:]) == 2  # the others are as they were
        told = list(threads.map(lambda _: asked.judges[0].score(PICTURE).reasoning, range(24)))
        wait_until(lambda: ray.available_resources().get("GPU", 0) == 0)
    gpus = {process: gpu for process, gpu, _ in map(str.split, told)}
    assert sorted(gpus.values()) == ["0", "1"]
    assert {line.split()[2] for line in told} == {"1"}, "weights would be in memory twice"
    wait_until(lambda: ray.available_resources().get("GPU", 0) == 2)


def test_an_actor_takes_as_many_questions_at_once_as_it_has_threads(driver: None, tmp_path: Path) -> None:
    values = world(tmp_path, 10, {}, latency=0.2)
    config = EngineConfig.model_validate(values)
    made = Crew.from_config(config)
    pools = start_pools(made, config, {"judge-0": {"actors": 1, "num_gpus": 0, "threads": 3}}, str(TESTS))
    with closing(pools), ThreadPoolExecutor(9) as threads:
        judge = with_pools(made, config, pools).judges[0]
        list(threads.map(lambda _: judge.score(PICTURE), range(9)))
    assert max(int(busy) for _, _, busy in seen(tmp_path, "judge-0")) == 3


def test_two_actors_may_share_a_gpu(driver: None) -> None:
    asked, pools = start({}, {"pool_plugins.LocalJudge": {"actors": 4, "num_gpus": 0.5, "num_cpus": 0.25}})
    with closing(pools), ThreadPoolExecutor(16) as threads:
        told = set(threads.map(lambda _: asked.judges[0].score(PICTURE).reasoning, range(32)))
    gpus = dict(line.split()[:2] for line in told)
    assert Counter(gpus.values()) == {"0": 2, "1": 2}


def test_what_was_noted_comes_back_with_an_answer_and_with_a_failure(driver: None) -> None:
    for failure in ("", "transient"):
        asked, pools = start({"failure": failure}, {"sighted": {"actors": 1, "num_gpus": 0}})
        with closing(pools), collecting() as receipt:
            if failure:
                with pytest.raises(Transient, match="it is busy") as raised:
                    asked.judges[0].score(PICTURE)
                assert raised.value.retry_after == 7.5
            else:
                assert asked.judges[0].score(PICTURE).value == 7.0
        assert (receipt.replies, receipt.usage, receipt.model) == (["seven", "7"], Usage(900, 3), "tiny")


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        ("user", UserError, "its weights are not there"),
        ("fault", RuntimeError, "ZeroDivisionError: of a third party"),
    ],
)
def test_a_failure_keeps_its_kind(driver: None, failure: str, kind: type[Exception], message: str) -> None:
    asked, pools = start({"failure": failure}, {"sighted": {"num_gpus": 0}})
    with closing(pools), pytest.raises(kind, match=message):
        asked.judges[0].score(PICTURE)


@pytest.mark.slow
def test_a_pool_that_cannot_come_back_is_a_far_side_that_is_not_there(
    cluster: Any, driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "PATIENCE_S", 2.0)
    large = cluster.add_node(num_cpus=3, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    asked, pools = start({}, {"sighted": {"num_gpus": 0, "num_cpus": 3}})
    with closing(pools):
        process = int(asked.judges[0].score(PICTURE).reasoning.split()[0])
        cluster.remove_node(large, allow_graceful=False)
        wait_until(lambda: not psutil.pid_exists(process))
        with pytest.raises(Transient, match=r"sighted: no process of its pool has come back for 2 s"):
            asked.judges[0].score(PICTURE)
    wait_until(lambda: ray.cluster_resources()["CPU"] == 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigthed": {}}, r"no plug-in is called 'sigthed' \(did you mean 'sighted'\?"),
        ({"sighted": {"actor": 2}}, r"unknown key 'pools.sighted.actor' \(did you mean 'actors'\?"),
        ({"sighted": {"actors": 0}}, r"pools.sighted.actors: .* greater than or equal to 1 \(got 0\)"),
        ({"sighted": {"num_cpus": -1}}, r"pools.sighted.num_cpus: .* \(got -1\)"),
        ({"sighted": {"num_gpus": float("inf")}}, r"pools.sighted.num_gpus: .* finite number \(got inf\)"),
        ({"sighted": {"num_gpus": 1.5}}, r"pools.sighted.num_gpus: give a share of one GPU, or a whole number"),
        ({"sighted": {"threads": "many"}}, r"pools.sighted.threads: .* integer.* \(got 'many'\)"),
        ({"sighted": 3}, r"pools.sighted: .*dictionary.* \(got 3\)"),
        ({"sighted": {"actors": 3, "num_gpus": 1}}, r"3 actors with 1 GPUs .* have room for 2: give fewer"),
        ({"sighted": {"num_gpus": 3}}, r"1 actors with 3 GPUs .* have room for 0: give fewer"),
        ({"sighted": {"num_cpus": 3}}, r"1 actors with 0 GPUs and 3 CPUs .*|.* with 1 GPUs and 3 CPUs .* room for 0"),
        ({"sighted": {"actors": 4, "num_cpus": 1, "num_gpus": 0}}, r"4 CPUs, and the workers need 1, but .* has 4"),
        (
            {"sighted": {"actors": 2, "num_gpus": 1}, "judge-1": {"actors": 1, "num_gpus": 1}},
            r"all actors together ask for 3 GPUs, but the cluster has 2: give fewer actors or num_gpus",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(driver: None, settings: dict[str, Any], message: str) -> None:
    made, config = crew({})
    with pytest.raises(UserError, match=message) as raised:
        start_pools(made, config, settings, str(TESTS))
    assert "\n" not in str(raised.value)


def test_a_plug_in_by_its_name_or_its_class_and_no_other_gets_a_pool(driver: None) -> None:
    made, config = crew({})
    assert list(plan_pools(made, config, {})) == [("judges", 0)]
    both = plan_pools(made, config, {"benchmarks._worlds.Verifier": {"actors": 3}})
    assert {key: pool.actors for key, pool in both.items()} == {
        ("judges", 0): 1,
        ("verifiers", 0): 3,
        ("verifiers", 1): 3,
    }


def test_a_build_that_asks_for_gpus_that_are_not_there_ends_with_a_line(tmp_path: Path, cluster: Any) -> None:
    world(tmp_path, 4, {"judge-0": {"num_gpus": 8}})
    assert build(tmp_path, "out") == 2
    last = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert "pools.judge-0: 1 actors with 8 GPUs" in last
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_who_is_alone_waits_for_those_before_and_keeps_those_after_waiting() -> None:
    turns, events, lock = Turns(), [], threading.Lock()

    def ask(index: int) -> None:
        alone = index % 5 == 0
        with turns.alone() if alone else turns.together():
            with lock:
                events.append((index, alone, "begins"))
            time.sleep(0.002)
            with lock:
                events.append((index, alone, "ends"))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(100)))
    assert len(events) == 200
    inside: dict[int, bool] = {}
    most = 0
    for index, alone, what in events:
        if what == "ends":
            del inside[index]
            continue
        assert not any(inside.values())
        assert not (alone and inside)
        inside[index] = alone
        most = max(most, len(inside))
    assert most > 1


@pytest.mark.slow
def test_a_real_editor_edits_in_its_pool_as_it_does_here(driver: None, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.editors.tiny_pipelines import instruct_pix2pix

    from redaes.registry import create

    spec = {
        "class_path": "diffusers",
        "init_args": {
            "pipeline": "StableDiffusionInstructPix2PixPipeline", "model": str(instruct_pix2pix(tmp_path)),
            "dtype": "float32", "device": "cpu", "steps": 2, "pixels": None, "name": "tiny",
        },
    }  # fmt: skip
    values = configuration(1)
    values["editors"][0] = spec
    config = EngineConfig.model_validate(values)
    made = Crew.from_config(config)
    pools = start_pools(made, config, {"tiny": {"actors": 2, "num_gpus": 0}}, str(TESTS))
    warm = Instruction(text="Make the sky warmer.", category="warm", orientation="quality")
    picture = Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 50).convert("RGB")
    with closing(pools), ThreadPoolExecutor(4) as threads:
        editor = with_pools(made, config, pools).editors[0]
        edits = list(threads.map(lambda seed: editor.edit(picture, warm, seed).tobytes(), range(4)))
    here = create("editors", spec)
    assert edits == [here.edit(picture, warm, seed).tobytes() for seed in range(4)]
