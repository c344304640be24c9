"""A worker of the data engine: an actor that takes blocks of sources and works on many of them at once.

What it needs it opens itself, once: plug-ins, photographs, the ledger (redaes_ray.ledger), the gate that all workers
share (redaes_ray.limiter), the pools of local models (redaes_ray.pools). The work on a source is the engine's own
(redaes.engine.work), so the dataset is the same to the byte.

A worker that dies, with its machine or by a plug-in that crashes, takes its blocks' unfinished sources with it. Ray
gives the block to another worker, which first takes in what was committed for these sources: nothing of that is bought
again. A block that has killed `CARELESS` workers is gone through source by source, and a source that kills `MOST` of
those is left out, as one whose call was given up: the crash of one image costs that image.
"""

import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from redaes.engine.calling import Stopped
from redaes.engine.config import EngineConfig
from redaes.engine.plan import Job
from redaes.engine.preflight import check_before_paying
from redaes.engine.stages import Crew
from redaes.engine.work import Outcome, WorkOnSource, Workshop
from redaes.errors import UserError
from redaes.records import Source
from redaes.registry import create
from redaes_ray.cluster import enter_folder
from redaes_ray.ledger import BlockLedger
from redaes_ray.limiter import Limiter, RemoteGate
from redaes_ray.pools import Pools, with_pools

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

CARELESS = 2
"""Workers that a block may kill before its sources are worked on one at a time [ours]."""
MOST = 4
"""Workers that may end while they work on one source alone, before it is left out [ours].

With 2, of 2,000 sources whose workers were killed 20 times two were left out that had killed nobody.
"""


@dataclass(frozen=True)
class Assignment:
    """What a worker is told of a build.

    Attributes:
        config: of the build.
        build: fingerprint under which results are kept.
        ledger: path or address.
        known: where each call of the ledger is; shared by all workers of a machine.
        limiter: of the build.
        pools: of local models.
        threads: sources at the same time.
        folder: that the driver works in.
    """

    config: EngineConfig
    build: str
    ledger: str
    known: Any
    limiter: Limiter
    pools: Pools
    threads: int
    folder: str


class SourceWorker:
    """Works on blocks of sources, several blocks at once.

    Args:
        assignment: of the build.
    """

    def __init__(self, assignment: Assignment) -> None:
        import ray

        enter_folder(assignment.folder)
        config = assignment.config
        name = f"{socket.gethostname()}-{os.getpid()}"
        self.build = assignment.build
        self.gate = RemoteGate(assignment.limiter, name)
        self.failure: Exception | None = None
        try:
            crew = Crew.from_config(config)
            check_before_paying(crew, config)
            self.ledger = BlockLedger.join(assignment.ledger, ray.get(assignment.known), name)
            photos = create("sources", config.source)
            shop = Workshop.open(config, crew, photos, self.ledger, self.gate)
            self.shop = replace(shop, crew=with_pools(crew, config, assignment.pools))
            self.gate.figures = self.shop.calls.figures
            self.work = WorkOnSource(self.shop, assignment.build)
        except Exception as error:  # an actor that cannot be made is made again for ever; this one says why
            self.failure = UserError(f"on {socket.gethostname()}: {error}") if isinstance(error, UserError) else error
            self.gate.stop(str(self.failure))
        self.threads = ThreadPoolExecutor(assignment.threads, thread_name_prefix="source")

    def __call__(self, block: "pa.Table") -> "pa.Table":
        """What became of the sources of a block."""
        jobs = to_jobs(block)
        if self.failure is not None:
            return from_outcomes([self.failure] * len(jobs))
        ids = [job.source.id for job in jobs]
        try:
            died = self.gate.begin(ids[0], ids)
        except Stopped as stopped:
            return from_outcomes([stopped] * len(jobs))
        if died:
            self.ledger.refresh(ids, self.build)
        if died >= CARELESS:
            log.warning("the block of %s has ended %d workers; its sources are worked on one by one", ids[0], died)
            outcomes = [self._alone(job) for job in jobs]
        else:
            outcomes = list(self.threads.map(self._work, jobs))
        self.gate.end(ids[0])
        return from_outcomes(outcomes)

    def _work(self, job: Job) -> Outcome | Exception:
        """Work on a source, unless a worker that died has finished it, or everything stops."""
        if self.gate.stopped:  # not even its photograph is opened
            return Stopped(self.gate.stopped)
        try:
            return self.work.known(job) or self.work(job)
        except Exception as error:  # it travels to the driver as an answer, and stops the build there
            return error

    def _alone(self, job: Job) -> Outcome | Exception:
        """Work on a source that may be the one that kills workers."""
        source = job.source
        try:
            deaths = self.gate.begin_source(source.id)
            if deaths >= MOST:
                why = f"it has ended its worker {deaths} times; see what crashes on {source.photograph}"
                return Outcome(Counter(), f"source {source.id} ({source.photograph}): {why}")
            return self._work(job)
        except Stopped as stopped:
            return stopped
        finally:
            self.gate.end_source(source.id)


def to_row(job: Job) -> dict[str, Any]:
    """A source as a row of an Arrow table."""
    return {"source": job.source.model_dump_json(), "pair": job.pair, "group": job.group}


def to_jobs(block: "pa.Table") -> list[Job]:
    """The sources of an Arrow table."""
    columns = (block[name].to_pylist() for name in ("source", "pair", "group"))
    return [Job(Source.model_validate_json(source), pair, group) for source, pair, group in zip(*columns, strict=True)]


def from_outcomes(outcomes: "Sequence[Outcome | Exception]") -> "pa.Table":
    """What became of sources, as an Arrow table: counts of the funnel, or why one was left out or everything stops."""
    import pyarrow as pa

    told = [
        (Outcome(Counter()), outcome) if isinstance(outcome, Exception) else (outcome, None) for outcome in outcomes
    ]
    return pa.table(
        {
            "funnel": [json.dumps(outcome.funnel) for outcome, _ in told],
            "incomplete": [outcome.incomplete for outcome, _ in told],
            "failure": ["" if failure is None else str(failure) or type(failure).__name__ for _, failure in told],
            "kind": ["" if failure is None else _kind(failure) for _, failure in told],
            "notes": ["\n".join(getattr(failure, "__notes__", ())) for _, failure in told],
        }
    )


def to_outcomes(block: "pa.Table") -> "Iterator[Outcome | Exception]":
    """What became of sources, from an Arrow table."""
    kinds = {"stopped": Stopped, "user": UserError, "fault": RuntimeError}
    for row in block.to_pylist():
        if row["kind"]:
            failure = kinds[row["kind"]](row["failure"])
            if row["notes"]:
                failure.add_note(row["notes"])
            yield failure
        else:
            yield Outcome(Counter(json.loads(row["funnel"])), row["incomplete"])


def _kind(failure: Exception) -> str:
    return "stopped" if isinstance(failure, Stopped) else "user" if isinstance(failure, UserError) else "fault"
