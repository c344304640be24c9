"""One driver at a time on an object store, where nothing can be locked: a file that its holder keeps renewing.

    ledger.lock     {"name", "pid", "host", "since", "renewed", "token"}; gone when the holder has ended well

Who finds a lease that was renewed a moment ago, by the clocks, is refused at once. The clocks of two machines may
differ, so only that is left to them: an older lease is watched, and taken if it is not renewed for `EXPIRES` seconds.
The holder reads it before each renewal; finding another's, it has lost it, and `check` says so.

An object store that has no conditional PUT in every client leaves a gap: of two drivers that start within the same
second the later one to write has it, and the first finds out a second later. Writers never share a file, so what the
two wrote meanwhile is kept.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from redaes.errors import UserError
from redaes_ray.storage import Missing, Storage

RENEWS = 5.0
"""Seconds between two renewals."""

EXPIRES = 20.0
"""Seconds without a renewal after which a lease is nobody's."""

SETTLES = 1.0
"""Seconds after which a lease that was written is read again."""

log = logging.getLogger(__name__)


class Lease:
    """A lease that is held. Take one with `Lease.take`."""

    def __init__(self, storage: Storage, file: str, said: dict[str, Any]) -> None:
        self._storage = storage
        self._file = file
        self._said = said
        self._lost = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_released, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, storage: Storage, file: str, name: str) -> "Lease":
        """Take a lease, or be told who has it.

        Args:
            storage: where it is.
            file: its name there.
            name: what it is taken for.

        Raises:
            UserError: another process holds it, or it cannot be written.
        """
        _wait_for_another(storage, file)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        said = {"name": name, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
        said["token"] = uuid.uuid4().hex
        _write(storage, file, said)
        time.sleep(SETTLES)
        now = _read(storage, file)
        if now is None or now.get("token") != said["token"]:
            raise _refusal(storage, now or {})
        return cls(storage, file, said)

    def check(self) -> None:
        """See that it is held still.

        Raises:
            UserError: another has taken it.
        """
        if self._lost:
            raise UserError(self._lost)

    def release(self) -> None:
        """Let the next one have it."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        if self._lost:
            return
        try:
            self._storage.delete([self._file])
        except UserError as error:
            log.warning("the ledger's lease was not given back, and ends in %.0f s: %s", EXPIRES, error)

    def _renew_until_released(self) -> None:
        while not self._ended.wait(RENEWS) and not self._lost:
            try:
                now = _read(self._storage, self._file)
                if now is not None and now.get("token") != self._said["token"]:
                    self._lost = str(_refusal(self._storage, now))
                else:
                    _write(self._storage, self._file, self._said)
            except UserError as error:
                log.warning("the ledger's lease was not renewed: %s", error)


def _wait_for_another(storage: Storage, file: str) -> None:
    """Return when nobody holds a lease; raise UserError when somebody shows that he lives."""
    first = _read(storage, file)
    if first is None or _is_of_a_dead_process(first):
        return
    if abs(time.time() - float(first.get("renewed", 0.0))) < EXPIRES:
        raise _refusal(storage, first)
    until = time.monotonic() + EXPIRES
    while time.monotonic() < until:
        time.sleep(RENEWS / 5)
        now = _read(storage, file)
        if now is None:
            return
        if now.get("renewed") != first.get("renewed"):
            raise _refusal(storage, now)


def _is_of_a_dead_process(said: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    pid = said.get("pid")
    if said.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _refusal(storage: Storage, said: dict[str, Any]) -> UserError:
    holder = "another build"
    if all(word in said for word in ("name", "pid", "host", "since")):
        holder = f"{said['name']} (process {said['pid']} on {said['host']}, since {said['since']})"
    return UserError(f"{storage.url} is in use by {holder}; wait until it ends, or choose another ledger")


def _read(storage: Storage, file: str) -> dict[str, Any] | None:
    try:
        said = json.loads(storage.read(file))
    except Missing:
        return None
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _write(storage: Storage, file: str, said: dict[str, Any]) -> None:
    storage.write(file, json.dumps({**said, "renewed": time.time()}).encode())
