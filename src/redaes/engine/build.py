"""Build a dataset: plan, work on every source, assemble.

    DIR.ledger/               every answer, every image, and what became of each source (redaes.engine.ledger)
        builds/<fingerprint>.json    what is built on it: the dataset's folder, the configuration, how many sources
    DIR.partial-<fingerprint>/       the dataset while it is put together, which takes little
    DIR/                      the dataset (redaes.data.manifest); it appears under its name only when it is whole

Work on a source is independent of every other source, so the same seed gives the same bytes with any runner, any number
of workers and any number of kills. A build that is run again finds its finished sources in the ledger; one that would
have done them otherwise - other settings, photographs, plug-ins or a new version of redaes - does them again, and buys
only the answers that are not in the ledger yet.
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from redaes import __version__
from redaes.data.manifest import Manifest, canonical_json, read_records
from redaes.engine.assembly import assemble
from redaes.engine.calling import Calls, Stopped, spent_of
from redaes.engine.config import EngineConfig
from redaes.engine.gate import GateProtocol
from redaes.engine.ledger import Ledger, LedgerProtocol
from redaes.engine.plan import Job, Plan, plan_jobs
from redaes.engine.preflight import check_before_paying
from redaes.engine.prices import PriceTable
from redaes.engine.runners import DistributedRunner, ProcessRunner, Runner, ThreadRunner
from redaes.engine.stages import Crew
from redaes.engine.work import Outcome, SourceResult, WorkOnSource, Workshop, writing
from redaes.errors import UserError
from redaes.records import SCHEMA_VERSION, ScoreRecord
from redaes.registry import PluginSpec, create, identity_of

log = logging.getLogger(__name__)

REASONS = 5
"""Sources left out of which it is told why [ours]; the ledger has the others' calls."""


@dataclass
class Standing:
    """How far a build is.

    Attributes:
        total: sources.
        done: sources that are finished, those of earlier runs included.
        incomplete: sources of this run that a call which was given up leaves out.
        reasons: of the first `REASONS` of them.
        funnel: of the finished sources that were looked at so far.
        calls: live figures of the calls.
    """

    total: int
    done: int
    calls: Calls
    incomplete: int = 0
    reasons: list[str] = field(default_factory=list)
    funnel: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """One more source was worked on."""
        self.done += not outcome.incomplete
        self.incomplete += bool(outcome.incomplete)
        if outcome.incomplete and len(self.reasons) < REASONS:
            self.reasons.append(outcome.incomplete)
        self.funnel += outcome.funnel


Watch = Callable[[Standing], None]


class Built(NamedTuple):
    """What `build` found or made: the manifest's information, and whether it was there, finished, before."""

    info: dict[str, Any]
    already: bool


def build(
    config: EngineConfig,
    output: Path,
    runner: Runner | None = None,
    watch: Watch | None = None,
    overwrite: bool = False,
    ledger: Path | str | None = None,
) -> Built:
    """Build a dataset, continue a killed build of it, or find it finished.

    Args:
        config: everything the dataset depends on, and how the work is done.
        output: the dataset's folder.
        runner: how the work is spread; it does not change a byte. None: the configuration's, or what suits the
            plug-ins.
        watch: called at the beginning and after every source.
        overwrite: replace a finished dataset, whatever it was made of.
        ledger: its folder; None: `output` with `.ledger` at its end.

    Raises:
        UserError: `output` holds something else, or cannot be written; a setting or a photograph is at fault; the
            budget is reached, or an endpoint fails for too long.
        RuntimeError: a plug-in failed on a source, which the message names.
    """
    output = Path(os.path.abspath(output))
    photos = create("sources", config.source)
    plan = plan_jobs(photos.photographs(), config)
    existing = _existing(output)
    if existing is not None and not overwrite:
        _check_same(existing, config, plan)
        return Built(existing.info, already=True)
    crew = Crew.from_config(config)
    check_before_paying(crew, config)
    runner = runner or choose_runner(config, crew)
    _make_room(output)
    with (
        open_ledger(ledger or ledger_of(output), str(output), runner) as book,
        _shared_gate(runner, config, book) as gate,
    ):
        shop = Workshop.open(config, crew, photos, book, gate)
        work = WorkOnSource(shop, fingerprint(config, plan, crew))
        note_build(book, work.build, output, config, len(plan))
        standing = _work_through(plan, work, shop, runner, watch)
        return Built(_replace(output, work, shop, plan, standing), already=False)


def ledger_of(output: Path) -> Path:
    """Where a dataset's ledger is, unless it is said otherwise."""
    return output.with_name(f"{output.name}.ledger")


def _shared_gate(
    runner: Runner, config: EngineConfig, book: LedgerProtocol
) -> AbstractContextManager[GateProtocol | None]:
    """Where the calls of all workers wait, if these are on several machines."""
    if not isinstance(runner, DistributedRunner):
        return nullcontext()
    return runner.open_gate(config.flow, spent_of(book), PriceTable(config.flow.prices).currency)


def open_ledger(folder: Path | str, name: str, runner: Runner | None) -> LedgerProtocol:
    """The ledger of a build: the runner's, if it brings one.

    Args:
        folder: path or address.
        name: of the dataset.
        runner: of the build; None: one of this machine.

    Raises:
        UserError: another build is using it, it cannot be written, or it is of another kind.
    """
    if isinstance(runner, DistributedRunner):
        return runner.open_ledger(_absolute(folder), name)
    if is_distributed(folder):
        raise UserError(f"{folder} is the ledger of builds by a cluster's runner; add --runner, or choose another")
    return Ledger.create_or_open(folder, name=name)


def read_ledger(folder: Path | str, name: str = "") -> LedgerProtocol:
    """A ledger of whatever kind to look at, also while a build is writing to it.

    Raises:
        UserError: there is none, it is damaged, or the runner that wrote it is not installed.
    """
    if not is_distributed(folder):
        return Ledger.open_for_reading(folder, name)
    reader: DistributedRunner = create("runners", "ray")
    return reader.read_ledger(_absolute(folder), name)


def is_distributed(folder: Path | str) -> bool:
    """Whether a ledger is one that the workers of a cluster write: on an object store, or marked as such."""
    return "://" in str(folder) or (Path(folder) / "ledger.json").is_file()


def _absolute(folder: Path | str) -> str:
    return str(folder) if "://" in str(folder) else os.path.abspath(folder)


def choose_runner(config: EngineConfig, crew: Crew) -> Runner:
    """The configured one; else threads where a plug-in waits for a model, processes where all of them only compute."""
    if config.runner is not None:
        chosen: Runner = create("runners", config.runner)
        return chosen
    workers = config.flow.workers
    if waits_for_models(crew, config):
        # A source asks one question at a time, and waits for the disk between two.
        return ThreadRunner(2 * config.flow.in_flight if workers is None else workers)
    return ProcessRunner(workers)


def waits_for_models(crew: Crew, config: EngineConfig) -> bool:
    """Whether any of the crew asks a model that limits can be set for; else all of them only compute."""
    return any(getattr(member.plugin, "endpoint", "") for member in crew.members(config))


def fingerprint(config: EngineConfig, plan: Plan, crew: Crew) -> str:
    """Sixteen hexadecimal digits of all that the results of sources depend on.

    The version of redaes is part of it, for its stages may change; that costs no call, only work.
    """
    identities = [member.identity(role) for member in crew.members(config) for role in member.roles]
    identities.append(identity_of("fusion", config.fusion, crew.fusion))
    head = [SCHEMA_VERSION, __version__, config.model_dump(mode="json"), identities]
    digest = hashlib.blake2b(canonical_json(head).encode(), digest_size=8)
    for job in plan:
        digest.update(canonical_json([job.source.model_dump(mode="json"), job.pair, job.group]).encode())
    return digest.hexdigest()


def note_build(book: LedgerProtocol, mark: str, output: Path, config: EngineConfig, sources: int) -> None:
    """Write down in the ledger what is built on it, for `redaes data status` and `retry`."""
    noted = {
        "output": str(output),
        "config": config.model_dump(mode="json"),
        "flow": config.flow.model_dump(mode="json"),
        "runner": config.runner,
        "sources": sources,
    }
    book.put_note(mark, json.dumps(noted, indent=1, sort_keys=True) + "\n")


class NotedBuild(NamedTuple):
    """What is known of a build: fingerprint, absolute path of the dataset, configuration, how many sources."""

    mark: str
    output: str
    config: dict[str, Any]
    flow: dict[str, Any]
    sources: int
    runner: PluginSpec | None = None


def noted_builds(book: LedgerProtocol) -> list[NotedBuild]:
    """All builds on a ledger, the latest first."""
    return [NotedBuild(mark, **json.loads(text)) for mark, text in book.notes()]


def noted_build(book: LedgerProtocol, output: Path) -> NotedBuild | None:
    """The latest build of a dataset on a ledger; None if there was none."""
    return next((noted for noted in noted_builds(book) if noted.output == os.path.abspath(output)), None)


def _existing(output: Path) -> Manifest | None:
    """The dataset that is there; None where there is nothing, or an empty folder."""
    try:
        if not output.exists() or (output.is_dir() and not any(output.iterdir())):
            return None
    except OSError as error:
        raise UserError(f"cannot read {output}: {error.strerror}") from error
    if not (output / "manifest.json").is_file():
        raise UserError(f"{output} exists and is not a dataset; choose another folder")
    try:
        return Manifest(output)
    except ValueError as error:
        raise UserError(f"{output / 'manifest.json'} is damaged ({error}); choose another folder") from error


def _check_same(dataset: Manifest, config: EngineConfig, plan: Plan) -> None:
    """Refuse a finished dataset that this build would not have made."""
    way_out = "choose another folder or pass --overwrite"
    if dataset.info.get("config") != config.model_dump(mode="json"):
        raise UserError(f"{dataset.root} holds a dataset of another configuration; {way_out}")
    there = (record.source for record in read_records(dataset.root / "sources.jsonl", ScoreRecord))
    left_out, source = 0, next(there, None)
    for job in plan:
        if job.source == source:
            source = next(there, None)
        else:
            left_out += 1
    if source is not None or left_out != dataset.info["counts"].get("incomplete", 0):
        raise UserError(f"{dataset.root} was made from other photographs than there are now; {way_out}")


def _make_room(output: Path) -> None:
    """See that a dataset can be written here before anything is paid for it."""
    if not output.name:
        raise UserError(f"cannot write a dataset to {output}; name a folder")
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)


def _work_through(plan: Plan, work: WorkOnSource, shop: Workshop, runner: Runner, watch: Watch | None) -> Standing:
    """Work on all sources whose result is not in the ledger."""
    standing = Standing(len(plan), shop.ledger.results_count(work.build), shop.calls)
    tell = watch if watch is not None else lambda standing: None
    tell(standing)
    try:
        with _gentle_interrupt(shop.calls):
            for outcome in runner.map(work, _unfinished(plan, work, shop, standing)):
                standing.add(outcome)
                tell(standing)
    except Stopped as stopped:
        if shop.failure is not None:
            raise shop.failure from stopped
        raise UserError(f"{stopped} ({standing.done} of {standing.total} sources are finished)") from stopped
    return standing


@contextmanager
def _gentle_interrupt(calls: Calls) -> Iterator[None]:
    """The first Ctrl-C lets answers in flight come in; the second leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
        calls.stop("interrupted")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _unfinished(plan: Plan, work: WorkOnSource, shop: Workshop, standing: Standing) -> Iterator[Job]:
    """Sources without a result, or whose images are gone."""
    for job in plan:
        known = work.known(job)
        if known is not None:
            standing.funnel.update(known.funnel)
            continue
        standing.done -= shop.ledger.result(work.build, job.source.id) is not None
        yield job


def _results(plan: Plan, work: WorkOnSource, shop: Workshop) -> Iterator[SourceResult | None]:
    """What became of each source; None if it is incomplete. One whose images are damaged is worked on once more."""
    for job in plan:
        text = shop.ledger.result(work.build, job.source.id)
        result = None if text is None else SourceResult.model_validate_json(text)
        if result is not None and not all(shop.ledger.objects.is_whole(sha) for sha in result.images.values()):
            work(job)
            text = shop.ledger.result(work.build, job.source.id)
            result = None if text is None else SourceResult.model_validate_json(text)
        yield result


def _replace(output: Path, work: WorkOnSource, shop: Workshop, plan: Plan, standing: Standing) -> dict[str, Any]:
    """Put the dataset together and give it its name."""
    partial = output.with_name(f"{output.name}.partial-{work.build}")
    with writing(output):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        info = assemble(partial / "dataset", _results(plan, work, shop), shop.ledger.objects, shop.config)
        if output.exists():
            output.rename(partial / "replaced")
        (partial / "dataset").rename(output)
    shutil.rmtree(partial)
    return info
