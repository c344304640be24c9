"""One build at a time: an operating-system lock that says who holds it, and ends with its process however that ends."""

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from redaes.errors import UserError


class Lock:
    """A lock that is held. Take one with `Lock.take`.

    The file stays when the lock is released: to remove it could take it from under a process that is just taking it.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def take(cls, path: Path, name: str) -> "Lock":
        """Take the lock of a file, or be told who has it.

        Args:
            path: the lock's file; made where it is missing.
            name: what it is taken for.

        Raises:
            UserError: another process holds it, or the file cannot be written or locked.
        """
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
            json.dump({"name": name, "pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
            file.flush()
        except BlockingIOError as error:
            holder = _holder(file)
            file.close()
            raise UserError(
                f"{path.parent} is in use by {holder}; wait until it ends, or choose another ledger"
            ) from error
        except OSError as error:
            file.close()
            raise UserError(f"cannot lock {path}: {error.strerror or error}") from error
        return cls(file)

    def release(self) -> None:
        """Let the next one have it."""
        self._file.close()


def _holder(file: IO[str]) -> str:
    """Who holds the lock, as far as it has said so yet."""
    try:
        file.seek(0)
        who = json.load(file)
        return f"{who['name']} (process {who['pid']} on {who['host']}, since {who['since']})"
    except (ValueError, KeyError, TypeError):
        return "another build"
