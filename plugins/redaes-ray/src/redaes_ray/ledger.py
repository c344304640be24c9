"""The ledger of a build on a cluster: parquet files on any storage, written by many machines, instead of SQLite on one.

    URL/
        ledger.json             says that this is a ledger of this kind
        calls/                  every attempt of a call (redaes_ray.log)
        results/build-MARK/     what became of the sources of one build, likewise
        objects/                edited images (redaes_ray.objects)
        ledger.lock             who builds on it

The driver of a build opens it (`create_or_open`), reads where every call is, and sends that to its workers
(`snapshot`), which open it with `join`. Each process finds what was there at the snapshot and what it has put itself.
Of what others have put since it knows nothing, and need not: a source is worked on by one worker. Where it is not,
because its worker died, `refresh` takes in what that one had committed about it. When the workers are through, the
driver takes in everything (`reload`) and may `compact`.

A call is durable when `put` returns: one thread writes, and makes one file of all that callers have handed in since
its last one (redaes.engine.committing), so 64 callers that wait share one file. Another thread merges small files.

Rows, their checksums and what they mean are those of `redaes.engine.ledger`. The order of rows is that of commitment
as far as a writer knew of another's commits; two workers that buy the same call at once leave two answers, of which
all choose the same one.

There is no `repair`: the core's rebuilds its database from the segments, a second copy of every row. Here the files
are the only copy, as the segments are there, each written once and never changed; what the storage does to them, it
must mend itself (object stores keep several copies). A row that does not match its checksum counts as missing, as a
damaged line of a segment does, and its call is asked again; a file that cannot be read is named.
"""

import json
import logging
import re
import socket
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol
from urllib.parse import quote, unquote

from redaes.engine.committing import GroupCommit
from redaes.engine.database import FORGOTTEN, Entry, Total
from redaes.engine.ledger import CallRecord, Recording, clean, forget_fields, record_of, standing
from redaes.engine.locks import Lock
from redaes.engine.segments import checksum
from redaes.errors import UserError
from redaes_ray.compaction import compact
from redaes_ray.lease import Lease
from redaes_ray.log import Log, LogSnapshot
from redaes_ray.objects import BlockObjects
from redaes_ray.parts import CALLS, RESULTS
from redaes_ray.storage import Missing, Storage

BATCH = 4096
"""Rows in one commit, at most."""

GATHER_LOCALLY = 0.05
"""Seconds between two commits to a folder where several callers wait."""

GATHER = 0.05
"""Seconds between two commits to an object store: it takes as long to write, and a bill counts the files."""

MARKER = "ledger.json"
LOCK = "ledger.lock"
FORMAT = "redaes block ledger"
VERSION = 1

Mode = Literal["drive", "join", "read"]
log = logging.getLogger(__name__)


class _Held(Protocol):
    """A lock or a lease."""

    def release(self) -> None: ...


@dataclass(frozen=True)
class Snapshot:
    """Where everything is that a ledger held at one moment. Pickled without a copy, so that processes share one.

    Attributes:
        ledger: the identity of the ledger, so that a worker can tell whether it has opened the same one.
        calls: the index of the calls.
        results: that of the results, of the builds whose results were asked for.
    """

    ledger: str
    calls: LogSnapshot
    results: dict[str, LogSnapshot]


def is_block_ledger(folder: str | Path) -> bool:
    """Whether there is a ledger of this kind.

    Args:
        folder: a path, or a URL such as `s3://bucket/photos.ledger`.

    Raises:
        UserError: nobody can tell.
    """
    return Storage.of(folder).exists(MARKER)


class BlockLedger(Recording):
    """A ledger that is open. Any thread may use it. Open one with `create_or_open`, `join` or `open_for_reading`.

    Args:
        storage: where it is.
        mode: `drive`: of a build; `join`: a worker of one; `read`.
        writer: the name of this process in it, unlike any other's.
        held: the lock.

    Attributes:
        folder: its path or URL, without keys: what `join` takes.
        storage: where it is.
        objects: its edited images.
    """

    def __init__(self, storage: Storage, mode: Mode, writer: str = "", held: _Held | None = None) -> None:
        self.folder = storage.url
        self.storage = storage
        self.objects = BlockObjects(storage)
        self._mode = mode
        self._writer = writer
        self._held = held
        self._calls = Log(storage, "calls", CALLS, writer)
        self._results: dict[str, Log] = {}
        self._opening = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._merger: ThreadPoolExecutor | None = None
        self._merging: Future[None] | None = None
        self._tidy = True
        self._commits: GroupCommit[Entry] | None = None

    @classmethod
    def create_or_open(cls, url: str | Path, name: str = "") -> "BlockLedger":
        """Open a ledger for the driver of a build, or make an empty one.

        Args:
            url: a path, or a URL that `redaes_ray.storage` knows.
            name: of the dataset that is built, for the message to another build.

        Raises:
            UserError: another build is using it, it cannot be written, or a file is damaged.
        """
        storage = Storage.of(url)
        held = _lock(storage, name)
        try:
            _mark(storage)
            ledger = cls(storage, "drive", _unique("driver"), held)
            storage.remove_unfinished()
            ledger._calls.load()
        except BaseException:
            held.release()
            raise
        return ledger._writing()

    @classmethod
    def join(cls, url: str | Path, snapshot: Snapshot, writer_id: str) -> "BlockLedger":
        """Open a ledger for a worker of a build, whose driver holds the lock. Hardly anything is read.

        Args:
            url: the driver's `folder`.
            snapshot: of the driver.
            writer_id: names the worker, for those who look at the files. It need not be unique; it is made so.

        Raises:
            UserError: another ledger, or none, is at this URL, as where a worker's machine has another disk.
        """
        storage = Storage.of(url)
        if _identity(storage) != snapshot.ledger:
            raise UserError(
                f"the ledger of this build is not at {storage.url} on {socket.gethostname()}; "
                "put it where all machines find it: on a shared file system, or in a bucket"
            )
        ledger = cls(storage, "join", _unique(writer_id))
        ledger._snapshot = snapshot
        ledger._calls.restore(snapshot.calls)
        return ledger._writing()

    @classmethod
    def open_for_reading(cls, url: str | Path, name: str = "") -> "BlockLedger":
        """Open a ledger to look at, also while a build is writing to it. `reload` takes in what came since.

        Args:
            url: as of `create_or_open`.
            name: of the dataset, for the message that there is none.

        Raises:
            UserError: there is none, or a file is damaged.
        """
        storage = Storage.of(url)
        if _identity(storage) is None:
            of = f" of {name}" if name else ""
            raise UserError(f"no ledger{of} in {storage.url}; `redaes data build` makes one")
        ledger = cls(storage, "read")
        ledger._calls.load()
        return ledger

    def _writing(self) -> "BlockLedger":
        gather = GATHER if self.storage.folder is None else GATHER_LOCALLY
        self._merger = ThreadPoolExecutor(1, "merger")
        self._commits = GroupCommit(self._commit, BATCH, gather)
        return self

    def close(self) -> None:
        """Let go of threads and lock. What was put is durable already."""
        if self._commits:
            self._commits.close()
        if self._merger:
            self._merger.shutdown()
        if self._held:
            self._held.release()

    # --- among processes ----------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Everything that is durable now, taken in and ready to be sent to workers.

        Raises:
            UserError: a file is damaged or cannot be read.
        """
        identity = _identity(self.storage) or ""
        return Snapshot(
            identity, self._calls.snapshot(), {build: log_.snapshot() for build, log_ in self._opened().items()}
        )

    def reload(self) -> None:
        """Take in all that other writers have committed.

        Raises:
            UserError: a file is damaged or cannot be read.
        """
        for log_ in self._logs():
            log_.load()

    def refresh(self, sources: Iterable[str], build: str = "") -> None:
        """Take in what other writers have committed about some sources, before they are worked on once more.

        Args:
            sources: their names.
            build: take in their results under this fingerprint too.

        Raises:
            UserError: a file is damaged or cannot be read.
        """
        names = [clean(source) for source in sources]
        if build:
            self._results_of(clean(build))
        for log_ in self._logs():
            log_.refresh(names)

    def compact(self) -> None:
        """Make few sorted files of many small ones. For the driver, while no worker writes; it may be killed any time.

        Raises:
            UserError: a file is damaged, or the storage fails. Nothing is lost.
            ValueError: this is not the driver.
        """
        if self._mode != "drive":
            raise ValueError("only the driver of a build compacts its ledger")
        self._check_lock()
        for build in self._builds():
            self._results_of(build)
        for log_ in self._logs():
            compact(log_)

    # --- calls --------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> CallRecord | None:
        """What is known of a call, as of the opening (or `reload`), of this process and of what was refreshed.

        Returns:
            Its answer, the latest if there are several; else the dead letter, unless it was forgotten; else None.

        Raises:
            UserError: the storage cannot be read.
        """
        row = standing(self._calls.rows(clean(key)))
        return record_of(row) if row and row["status"] != FORGOTTEN else None

    def failures(self) -> Iterator[CallRecord]:
        """Dead letters: calls that were given up, not forgotten since, and never answered; in their order."""
        self._calls.load()
        dead = []
        for key in self._calls.failed():
            rows = self._calls.places(key)
            row = standing(fields for _, fields in rows)
            if row and row["status"] == "failed":
                dead.append(next((place, record_of(row)) for place, fields in rows if fields is row))
        yield from (record for _, record in sorted(dead, key=lambda one: one[0]))

    def forget_failures(self, keys: Iterable[str] | None = None) -> int:
        """Have dead letters asked again by the next build. What they cost stays in the totals.

        Args:
            keys: which; None takes all.

        Returns:
            How many.
        """
        wanted = None if keys is None else set(keys)
        dead = [record for record in self.failures() if wanted is None or record.key in wanted]
        self._put([forget_fields(record) for record in dead])
        return len(dead)

    def totals(self) -> list[Total]:
        """Sums over every attempt ever made, by role, plug-in, model and status.

        In a worker: as of its snapshot, and of its own since.
        """
        return [total for total in self._calls.totals() if total.status != FORGOTTEN]

    # --- what became of sources ---------------------------------------------------------------------------------------

    def result(self, build: str, source: str) -> str | None:
        """What became of a source, None if it is not known; as far as `find` knows of calls.

        Raises:
            UserError: the storage cannot be read.
        """
        rows = self._results_of(clean(build)).rows(clean(source))
        return rows[-1]["text"] if rows else None

    def put_note(self, build: str, text: str) -> None:
        """As `redaes.engine.ledger.Ledger.put_note`."""
        self.storage.write(f"builds/{build}.json", text.encode())

    def notes(self) -> list[tuple[str, str]]:
        """As `redaes.engine.ledger.Ledger.notes`."""
        files = sorted(self.storage.files("builds"), key=lambda file: (file.modified, file.name), reverse=True)
        return [(PurePosixPath(file.name).stem, self.storage.read(file.name).decode()) for file in files]

    def results_count(self, build: str) -> int:
        """Sources of a build whose result is known."""
        return self._results_of(clean(build)).count()

    @property
    def damaged(self) -> int:
        """Rows that did not match their checksum when they were looked at, and counted as missing."""
        return sum(log_.damaged for log_ in self._logs())

    # --- inside -------------------------------------------------------------------------------------------------------

    def _put(self, entries: list[dict[str, Any]], wait: bool = True) -> None:
        """Hand entries to the writer and, unless told otherwise, wait for their commit."""
        if self._commits is None:
            raise ValueError("the ledger is not open for writing")
        self._commits.put([Entry(fields, checksum(fields)) for fields in entries], wait)

    def _commit(self, batch: list[Entry]) -> None:
        """Write calls, then results: what a result was made of is there when it is."""
        self._check_lock()
        calls: list[Entry] = []
        results: dict[str, list[Entry]] = defaultdict(list)
        for entry in batch:
            (calls if entry.fields["kind"] == "call" else results[entry.fields["build"]]).append(entry)
        if calls:
            self._calls.commit(calls)
        for build, some in results.items():
            self._results_of(build).commit(some)
        idle = self._tidy and (self._merging is None or self._merging.done())
        if self._merger and idle and any(log_.due() for log_ in self._logs()):
            self._merging = self._merger.submit(self._merge)

    def _merge(self) -> None:
        """Merge small files; that is tidiness, and nothing is lost where it fails."""
        try:
            for log_ in self._logs():
                log_.merge()
        except UserError as error:
            log.warning("small files of the ledger are not merged any more: %s", error)
            self._tidy = False

    def _logs(self) -> list[Log]:
        return [self._calls, *self._opened().values()]

    def _opened(self) -> dict[str, Log]:
        with self._opening:
            return dict(self._results)

    def _results_of(self, build: str) -> Log:
        """The log of a build's results, opened when it is first asked for."""
        with self._opening:
            if build not in self._results:
                log_ = Log(self.storage, f"results/build-{quote(build, safe='')}", RESULTS, self._writer)
                if self._snapshot is None:
                    log_.load()
                elif build in self._snapshot.results:
                    log_.restore(self._snapshot.results[build])
                self._results[build] = log_
            return self._results[build]

    def _builds(self) -> list[str]:
        """The builds that have results."""
        folders = [re.fullmatch("results/build-(.*)", name) for name in self.storage.folders("results")]
        return [unquote(found[1]) for found in folders if found]

    def _check_lock(self) -> None:
        if isinstance(self._held, Lease):
            self._held.check()


def _unique(name: str) -> str:
    """A writer's name that no process had before."""
    return f"{re.sub(r'[^A-Za-z0-9_]', '_', name)[:40]}.{uuid.uuid4().hex[:12]}"


def _lock(storage: Storage, name: str) -> _Held:
    """Keep other builds off: by the operating system in a folder, by a lease on an object store."""
    what = f"the build of {name or storage.url}"
    if storage.folder is None:
        return Lease.take(storage, LOCK, what)
    try:
        storage.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the ledger {storage.url}: {error.strerror or error}") from error
    return Lock.take(storage.folder / LOCK, what)


def _mark(storage: Storage) -> None:
    """Make a folder a ledger of this kind; it may be one already, but none of another kind."""
    if _identity(storage) is not None:
        return
    if storage.exists("ledger.sqlite"):
        raise UserError(
            f"{storage.url} is a ledger of builds without a cluster (it holds ledger.sqlite); choose another ledger"
        )
    marker = {"format": FORMAT, "version": VERSION, "identity": uuid.uuid4().hex}
    storage.write(MARKER, json.dumps(marker).encode())


def _identity(storage: Storage) -> str | None:
    """What tells this ledger from any other; None if there is none of this kind."""
    try:
        said = json.loads(storage.read(MARKER))
        if said["format"] == FORMAT and said["version"] == VERSION:
            return str(said["identity"])
    except Missing:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{storage.where(MARKER)} is damaged; restore it from a copy") from error
    raise UserError(f"{storage.where(MARKER)} is not that of a {FORMAT} of version {VERSION}; a newer redaes may know")
