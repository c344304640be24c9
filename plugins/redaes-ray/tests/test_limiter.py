"""Workers in processes of a real cluster share one limiter; a server on loopback counts what they ask at once, and pay.

The promises over any order of events are tested without a cluster, in test_desk.
"""

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from redaes.engine.config import FlowSettings, LimitSettings, RetrySettings
from redaes.engine.figures import Figures, Tally
from redaes.engine.gate import Stopped
from redaes.engine.limits import NANO, Outcome, Request

ray = pytest.importorskip("ray")
limiter = pytest.importorskip("redaes_ray.limiter")

# Workers are other processes, which cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

THREADS = 16


class Shop(ThreadingHTTPServer):
    """Sells answers.

    Attributes:
        most: customers that were served at the same time.
        times: when each came, in seconds.
        earned: in billionths.
        broken: every customer is sent away.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Till)
        self.lock = threading.Lock()
        self.now = self.most = self.earned = 0
        self.times: list[float] = []
        self.broken = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Customers are killed."""


class Till(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shop

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        shop = self.server
        with shop.lock:
            shop.now += 1
            shop.most = max(shop.most, shop.now)
            shop.times.append(time.monotonic())
        time.sleep(asked["seconds"])
        with shop.lock:
            shop.now -= 1
            shop.earned += asked["cost"]
        body = b"no" if shop.broken else b"yes"
        self.send_response(503 if shop.broken else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Worker:
    """A process with `THREADS` customers of the shop."""

    def __init__(self, shared: Any, name: str, port: int) -> None:
        self.tally = Tally()
        self.gate = limiter.RemoteGate(shared, name, self.tally.figures)
        self.port = port

    def shop(self, calls: int, seconds: float = 0.01, cost: int = 0, most: int = 0, tokens: int = 0) -> Counter[str]:
        """Ask so often, with all threads.

        Returns:
            How many calls were bought, refused by the shop (`failed`) or not made, with the reason.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            return Counter(pool.map(lambda _: self.buy(seconds, cost, most or cost, tokens), range(calls)))

    def buy(self, seconds: float, cost: int, most: int, tokens: int) -> str:
        request = Request("shop", "a call", tokens, most)
        try:
            self.gate.enter(request)
        except Stopped as stopped:
            return str(stopped)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/", body=json.dumps({"seconds": seconds, "cost": cost}))
        answered = connection.getresponse().read() == b"yes"
        connection.close()
        self.gate.leave(request, Outcome.ANSWERED if answered else Outcome.FAILED, tokens, cost)
        self.tally.add("score", asked=1, answered=answered, cost=cost / NANO)
        return "bought" if answered else "failed"

    def pass_through(self, calls: int, rate: float, threads: int, seconds: float) -> tuple[int, float]:
        """Make calls that only take time, so many a second; calls, and processor seconds they took."""
        began, spent = time.monotonic(), time.process_time()

        def one(index: int) -> None:
            time.sleep(max(0.0, began + index / rate - time.monotonic()))
            request = Request("shop", "a call", 100, 10)
            self.gate.enter(request)
            time.sleep(seconds)
            self.gate.leave(request, Outcome.ANSWERED, 80, 5)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(calls)))
        return calls, time.process_time() - spent

    def pid(self) -> int:
        return os.getpid()

    def do(self, method: str, *arguments: Any) -> Any:
        """Something of the gate."""
        return getattr(self.gate, method)(*arguments)

    def wait_for_a_stop(self) -> str:
        try:
            self.gate.pause(1000)
        except Stopped as stopped:
            return str(stopped)
        return ""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes, of which the driver has the first."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(2):
            made.add_node(num_cpus=2, object_store_memory=80 * 2**20)
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Company:
    """A limiter and its workers, one on each node."""

    def __init__(self, nodes: list[str], port: int, flow: FlowSettings, spent: int = 0) -> None:
        self.port, self.nodes = port, nodes
        self.limiter = limiter.Limiter.start(flow, spent, "USD")
        self.workers = [self.hire(node, f"worker {index}") for index, node in enumerate(nodes)]
        ray.get([worker.pid.remote() for worker in self.workers])

    def hire(self, node: str, name: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(node, soft=False)
        made = ray.remote(Worker).options(num_cpus=0, max_concurrency=8, scheduling_strategy=here)
        return made.remote(self.limiter, name, self.port)

    def shop(self, calls: int, **how: Any) -> Counter[str]:
        return sum(ray.get([worker.shop.remote(calls, **how) for worker in self.workers]), Counter())

    def close(self) -> None:
        for worker in self.workers:
            ray.kill(worker)
        self.limiter.close()


@pytest.fixture
def found(cluster: Any, shop: Shop) -> Iterator[Any]:
    companies: list[Company] = []
    nodes = [node.node_id for node in [cluster.head_node, *sorted(cluster.worker_nodes, key=lambda n: n.node_id)]]

    def make(**flow: Any) -> Company:
        companies.append(Company(nodes, shop.server_address[1], FlowSettings(**flow)))
        return companies[-1]

    yield make
    for company in companies:
        company.close()


def until(come: Any, seconds: float = 60.0) -> bool:
    """Wait until something has come about."""
    end = time.monotonic() + seconds
    while not come() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(come())


def test_all_workers_together_never_ask_more_at_the_same_time(found, shop):
    company = found(in_flight=7)
    assert company.shop(100) == {"bought": 300}
    assert shop.most == 7
    assert until(lambda: company.limiter.standing()[:2] == (0, 0))


def test_an_endpoint_that_bears_fewer_calls_is_asked_fewer(found, shop):
    company = found(in_flight=40, limits={"shop": LimitSettings(in_flight=3)})
    assert company.shop(40) == {"bought": 120}
    assert shop.most == 3


@pytest.mark.parametrize("limits", [{"requests_per_minute": 900}, {"tokens_per_minute": 9000}])
def test_all_workers_together_never_ask_faster(found, shop, limits):
    company = found(limits={"shop": LimitSettings(**limits)})
    assert company.shop(30, seconds=0.0, tokens=10) == {"bought": 90}
    # 15 a second, after one second's worth at once; a message may be late, never early.
    began = shop.times[0] - 0.2
    assert all(count <= 16 + 15 * (at - began) for count, at in enumerate(sorted(shop.times), 1))


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{"requests_per_minute": 120}, {"tokens_per_minute": 1200}])
def test_no_minute_of_all_workers_together_has_more_than_a_minute_may_have(found, shop, limits):
    company = found(limits={"shop": LimitSettings(**limits)})
    assert company.shop(50, seconds=0.0, tokens=10) == {"bought": 150}
    # A request may take a second longer to arrive than another.
    assert max(sum(begin <= at < begin + 59 for at in shop.times) for begin in shop.times) <= 120


def test_the_budget_of_all_workers_together_is_never_crossed(found, shop):
    company = found(in_flight=30, budget=1e-6)
    bought = company.shop(60, cost=7, most=10)
    assert shop.earned == 7 * bought["bought"]
    assert 990 < shop.earned <= 1000
    (reason,) = set(bought) - {"bought"}
    assert "the budget of 1e-06 USD is reached" in reason
    assert "budget" in company.limiter.stopped
    assert until(lambda: company.limiter.standing()[:3] == (0, 0, shop.earned))
    assert until(lambda: company.limiter.snapshot().roles.get("score", Figures()).answered == bought["bought"])
    assert company.limiter.snapshot().roles["score"].cost == pytest.approx(shop.earned / NANO)


def test_a_breaker_that_one_worker_opens_pauses_all_and_one_call_tries(found, shop):
    company = found(in_flight=30, retries=RetrySettings(breaker_failures=5, breaker_seconds=5.0))
    shop.broken = True
    first, *others = company.workers
    assert ray.get(first.shop.remote(5)) == {"failed": 5}
    assert until(lambda: company.limiter.snapshot().endpoints == {"shop": "open"})
    came, shop.most, shop.broken = len(shop.times), 0, False
    waiting = [worker.shop.remote(20, seconds=0.3) for worker in others]
    assert until(lambda: len(shop.times) > came)
    assert until(lambda: company.limiter.standing().in_flight > 1)
    assert sum(ray.get(waiting), Counter()) == {"bought": 40}
    opened, probe, second = shop.times[came - 1], *shop.times[came : came + 2]
    assert probe - opened > 4.9
    assert second - probe > 0.3


def test_a_killed_worker_gives_its_places_back_and_what_it_asked_counts_as_spent(found, shop):
    company = found(in_flight=10, budget=1.0)
    first, second, _ = company.workers
    ended = first.shop.remote(16, seconds=60.0, cost=100)
    assert until(lambda: shop.now == 10)
    os.kill(ray.get(first.pid.remote()), signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(ended)
    # Were the places not given back, this would wait for a minute, and then fail.
    assert until(lambda: company.limiter.standing()[:3] == (0, 0, 1000), seconds=15)
    assert ray.get(second.shop.remote(20, cost=1)) == {"bought": 20}
    assert until(lambda: company.limiter.standing()[:3] == (0, 0, 1020))


def test_a_node_that_is_lost_gives_its_places_back(found, cluster, shop):
    company = found(in_flight=5, budget=1.0)
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    worker = company.hire(node.node_id, "far away")
    ended = worker.shop.remote(5, seconds=60.0, cost=100)
    assert until(lambda: shop.now == 5)
    cluster.remove_node(node, allow_graceful=False)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(ended)
    assert until(lambda: company.limiter.standing()[:3] == (0, 0, 500), seconds=30)
    assert ray.get(company.workers[0].shop.remote(5)) == {"bought": 5}


def test_a_worker_that_is_only_slow_keeps_its_places(found, shop):
    company = found(in_flight=2)
    first, second, _ = company.workers
    pid = ray.get(first.pid.remote())
    bought = first.shop.remote(2, seconds=1.0)
    assert until(lambda: shop.now == 2)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * limiter.SUSPICIOUS_S)
    assert company.limiter.standing().in_flight == 2
    os.kill(pid, signal.SIGCONT)
    assert ray.get(bought) == {"bought": 2}
    assert ray.get(second.shop.remote(2)) == {"bought": 2}


def test_a_stop_in_one_worker_wakes_everybody_in_the_others(found):
    company = found(in_flight=30, limits={"shop": LimitSettings(requests_per_minute=1)})
    shopping = [worker.shop.remote(16) for worker in company.workers]
    resting = [worker.wait_for_a_stop.remote() for worker in company.workers]
    assert until(lambda: company.limiter.standing().waiting == 47)
    ray.get(company.workers[1].do.remote("stop", "the user is tired"))
    assert until(lambda: company.limiter.stopped)
    company.limiter.stop("a later reason")
    assert sum(ray.get(shopping), Counter()) == {"bought": 1, "the user is tired": 47}
    assert ray.get(resting) == ["the user is tired"] * 3
    assert until(lambda: company.limiter.standing()[:2] == (0, 0))
    assert company.limiter.stopped == "the user is tired"


def test_everything_stops_when_the_keeper_dies(found):
    company = found(limits={"shop": LimitSettings(requests_per_minute=1)})
    shopping = [worker.shop.remote(16) for worker in company.workers]
    assert until(lambda: company.limiter.standing().waiting == 47)
    before = company.limiter.snapshot()
    ray.kill(company.limiter.actor)
    told = sum(ray.get(shopping), Counter())
    assert told == {"bought": 1, limiter.KEEPER_LOST: 47}
    assert company.limiter.stopped == limiter.KEEPER_LOST
    assert company.limiter.snapshot() == before
    with pytest.raises(Stopped, match="run the same command again"):
        company.limiter.standing()


def test_a_block_that_killed_a_worker_is_known_for_it(found):
    company = found()
    first, second, third = company.workers
    assert ray.get(first.do.remote("begin", "block 1", ["a", "b"])) == 0
    os.kill(ray.get(first.pid.remote()), signal.SIGKILL)
    assert ray.get(second.do.remote("begin", "block 1", ["a", "b"])) == 1
    assert ray.get(second.do.remote("begin_source", "a")) == 0
    ray.get(second.do.remote("end_source", "a"))
    assert ray.get(second.do.remote("begin_source", "b")) == 0
    os.kill(ray.get(second.pid.remote()), signal.SIGKILL)
    assert ray.get(third.do.remote("begin", "block 1", ["a", "b"])) == 2
    assert [ray.get(third.do.remote("deaths", source)) for source in "ab"] == [0, 1]


def test_a_worker_that_starts_again_under_its_name_frees_what_it_had(found, shop):
    company = found(in_flight=4, budget=1.0)
    company.workers[0].shop.remote(4, seconds=60.0, cost=100)
    assert until(lambda: shop.now == 4)
    again = company.hire(company.nodes[1], "worker 0")
    assert ray.get(again.shop.remote(4)) == {"bought": 4}
    assert until(lambda: company.limiter.standing()[:3] == (0, 0, 400))
    company.workers.append(again)


def test_a_gate_that_closes_has_sent_everything(found, shop):
    company = found()
    first = company.workers[0]
    assert ray.get(first.shop.remote(10, cost=3)) == {"bought": 10}
    ray.get(first.do.remote("close"))
    assert company.limiter.standing()[:3] == (0, 0, 30)
    assert ray.get(first.shop.remote(1)) == {"this gate is closed": 1}


@pytest.mark.slow
def test_thirteen_hundred_calls_a_second_cost_few_messages(found, capsys):
    company = found(in_flight=1000)
    company.workers.append(company.hire(company.nodes[0], "worker 3"))
    ray.get([worker.pid.remote() for worker in company.workers])
    messages, keeper = ray.get(company.limiter.actor.burden.remote())
    began = time.monotonic()
    done = ray.get([w.pass_through.remote(5000, 325.0, 150, 0.2) for w in company.workers])
    seconds = time.monotonic() - began
    now, spent = ray.get(company.limiter.actor.burden.remote())
    calls = sum(count for count, _ in done)
    with capsys.disabled():
        print(
            f"\n{calls / seconds:.0f} calls/s over {seconds:.1f} s: {(now - messages) / seconds:.0f} messages/s, "
            f"processor seconds a second: keeper {(spent - keeper) / seconds:.2f}, "
            f"workers {[round(s / seconds, 2) for _, s in done]}"
        )
    assert now - messages < calls
