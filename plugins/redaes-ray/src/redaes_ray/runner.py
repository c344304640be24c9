"""The runner `ray`: jobs over a Ray cluster, by Ray Data.

    driver: plan --blocks of sources, as Arrow--> workers (redaes_ray.worker), a pool of actors over all machines
                                                    |-- calls: one gate for all (redaes_ray.limiter)
                                                    |-- answers, images, results: redaes_ray.ledger
                                                    '-- local models: pools of actors with GPUs (redaes_ray.pools)
    driver: results --in the plan's order--> the dataset, as with any runner

The loss of a worker, of a machine, of the driver or of the whole cluster loses what was on its way at that instant:
all else is in the ledger, and the same command goes on.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import Any, TypeVar

import ray

from redaes.engine.build import waits_for_models
from redaes.engine.calling import Stopped
from redaes.engine.config import FlowSettings
from redaes.engine.gate import Standing
from redaes.engine.limits import NANO
from redaes.engine.plan import Job
from redaes.engine.work import Outcome, WorkOnSource
from redaes.errors import UserError
from redaes.inference.asking import LoadedScorer
from redaes.inference.pools import RemoteImage, ScorerPool
from redaes_ray import scoring as scoring_pool
from redaes_ray.cluster import join, machines, over_blocks, resources
from redaes_ray.ledger import BlockLedger
from redaes_ray.limiter import Limiter, RemoteGate
from redaes_ray.pools import start_pools
from redaes_ray.worker import Assignment, SourceWorker, to_outcomes, to_row

T = TypeVar("T")
R = TypeVar("R")

BLOCKS_AT_ONCE = 4
"""Blocks that a worker has at the same time, so that it always has sources at hand [ours]."""
CALLS_PER_WORKER = 32
"""Calls in flight that one process serves well: cutting and writing images needs the processor too [ours]."""
FAREWELL_S = 600.0
"""Seconds that answers in flight are waited for when everything stops; the longest call of a vendor's SDK."""


class RayRunner:
    """`ray`: spreads work over a Ray cluster.

    Args:
        address: of the cluster's head, such as `10.0.0.1:6379`; None: RAY_ADDRESS, or the cluster that runs on this
            machine, or a new one of this machine alone.
        workers: processes that work on sources; None: as many as the calls in flight need, at most one per core.
        cores: that each of them reserves.
        block: sources handed out together; None: what keeps all workers busy, at most 64.
        pools: by the name of a plug-in that runs a model itself: `actors`, and for each `num_gpus`, `num_cpus`,
            `threads`.
        scoring: of the pool that `redaes score` and `redaes evaluate` use: `actors`, `num_gpus`, `num_cpus`.

    Raises:
        UserError: a number that cannot be.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cores: float = 1.0,
        block: int | None = None,
        pools: dict[str, Any] | None = None,
        scoring: dict[str, Any] | None = None,
    ) -> None:
        for name, value in (("workers", workers), ("block", block)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; give 1 or more")
        if cores < 0:
            raise UserError(f"cores is {cores}; give 0 or more")
        self.address = address
        self.workers = workers
        self.cores = cores
        self.block = block
        self.pools = pools or {}
        self.placement = scoring_pool.Placement(**(scoring or {}))

    # --- what redaes.engine.build asks for ----------------------------------------------------------------------------

    def open_ledger(self, folder: str, name: str) -> BlockLedger:
        """See `redaes.engine.runners.DistributedRunner`."""
        return BlockLedger.create_or_open(folder, name)

    def read_ledger(self, folder: str, name: str) -> BlockLedger:
        """See `redaes.engine.runners.DistributedRunner`."""
        return BlockLedger.open_for_reading(folder, name)

    def open_gate(self, flow: FlowSettings, spent: int, currency: str) -> "DriversGate":
        """See `redaes.engine.runners.DistributedRunner`."""
        join(self.address)
        return DriversGate(Limiter.start(flow, spent, currency), "driver")

    def map(self, job: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `job(item)` for every item, in order.

        Raises:
            UserError: no cluster.
        """
        join(self.address)
        if isinstance(job, WorkOnSource):
            return self._work(job, list(items))  # type: ignore[arg-type,return-value]
        return self._map(job, list(items))

    # --- what `redaes score` and `redaes evaluate` ask for ------------------------------------------------------------

    def scorers(self, make: Callable[[], LoadedScorer]) -> AbstractContextManager[ScorerPool]:
        """See `redaes.inference.pools.ScoringRunner`."""
        return scoring_pool.scorers(make, self.placement, self.address)

    def images(self, urls: Sequence[str]) -> list[RemoteImage]:
        """See `redaes.inference.pools.ScoringRunner`."""
        return scoring_pool.images(urls)

    # --- the data engine ----------------------------------------------------------------------------------------------

    def _work(self, work: WorkOnSource, jobs: list[Job]) -> Iterator[Outcome]:
        """Work on sources; the workers' results are in the ledger when it ends."""
        if not jobs:
            return
        shop = work.workshop
        gate, ledger, config = shop.calls.gate, shop.ledger, shop.config
        if not isinstance(gate, DriversGate) or not isinstance(ledger, BlockLedger):
            raise UserError("the runner 'ray' works with its own ledger and gate; build with redaes.engine.build.build")
        workers = self._workers(config.flow, waits_for_models(shop.crew, config))
        folder = os.getcwd()
        assignment = Assignment(
            config=config,
            build=work.build,
            ledger=ledger.folder,
            known=ray.put(ledger.snapshot()),
            limiter=gate.limiter,
            pools=start_pools(shop.crew, config, self.pools, folder, self.cores),
            threads=math.ceil((config.flow.workers or 4 * config.flow.in_flight) / workers),
            folder=folder,
        )
        size = self.block or min(64, max(1, math.ceil(len(jobs) / (2 * BLOCKS_AT_ONCE * workers))))
        blocks = over_blocks(
            [to_row(job) for job in jobs],
            math.ceil(len(jobs) / size),
            SourceWorker,
            {"assignment": assignment},
            compute=_pool(workers, BLOCKS_AT_ONCE),
            num_cpus=self.cores,
        )
        failure: Exception | None = None
        try:
            for block in blocks:
                for outcome in to_outcomes(block):
                    if isinstance(outcome, Outcome):
                        yield outcome
                    else:
                        failure = _worse(failure, outcome)
        except ray.exceptions.RayError as error:
            raise UserError(
                f"Ray gave up: {str(error).splitlines()[0]}; run the same command again to go on"
            ) from error
        finally:
            gate.wait_for_answers()
            blocks.close()
            assignment.pools.close()
            ledger.reload()
        ledger.compact()
        if failure is not None:
            shop.stop(failure)
            raise failure

    def _workers(self, flow: FlowSettings, waiting: bool) -> int:
        """How many processes work on sources."""
        most = max(1, int(resources().get("CPU", 1.0) / max(self.cores, 1e-3))) if self.cores else math.inf
        wanted = max(len(machines()), math.ceil(flow.in_flight / CALLS_PER_WORKER)) if waiting else most
        return int(min(self.workers or wanted, most)) if math.isfinite(most) else self.workers or len(machines())

    # --- any other job ------------------------------------------------------------------------------------------------

    def _map(self, job: Callable[[T], R], items: list[T]) -> Iterator[R]:
        """Any job over any items, in order; as many at once as there are cores."""
        if not items:
            return
        workers = self.workers or max(1, int(resources().get("CPU", 1.0)))
        call: Any = ray.remote(_call).options(num_cpus=self.cores)
        carried = ray.put(job)
        remaining = iter(items)
        flight = [call.remote(carried, item) for item in islice(remaining, 2 * workers)]
        try:
            while flight:
                yield ray.get(flight.pop(0))
                flight.extend(call.remote(carried, item) for item in islice(remaining, 1))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            for reference in flight:
                ray.cancel(reference)


class DriversGate(RemoteGate):
    """The driver's gate, which knows how things stand over all workers."""

    def standing(self) -> Standing:
        """How things stand, with what became of the questions of all workers."""
        now = self.limiter.snapshot()
        return Standing(now.in_flight, now.waiting, round(now.spent * NANO), now.endpoints, now.roles)

    def close(self) -> None:
        """Nobody will ask any more."""
        super().close()
        self.limiter.close()

    def wait_for_answers(self) -> None:
        """When everything stops: until the workers have written down the answers to all calls in flight."""
        end = time.monotonic() + FAREWELL_S
        with suppress(Stopped):  # the keeper is dead, and nobody can tell
            while self.stopped and self.limiter.ask("busy") and time.monotonic() < end:
                time.sleep(0.1)


def _call(job: Callable[[T], R], item: T) -> R:
    return job(item)


def _pool(workers: int, blocks: int) -> Any:
    from ray.data import ActorPoolStrategy

    return ActorPoolStrategy(
        size=workers,
        max_concurrent_calls_per_actor=blocks,
        max_tasks_in_flight_per_actor=2 * blocks,
        enable_true_multi_threading=True,
    )


def _worse(first: Exception | None, second: Exception) -> Exception:
    """The failure to be told: the first that is not a mere consequence of another."""
    return second if first is None or (isinstance(first, Stopped) and not isinstance(second, Stopped)) else first
