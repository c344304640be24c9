"""Being asked to stop: a scheduler sends SIGUSR1 or SIGTERM some time before it kills.

The signal is only noted when it comes; training obeys between two optimiser steps, where a checkpoint can be written
(`redaes.training.checkpoints`), and ends with an exit code of its own, so that a job script knows to queue it again.
"""

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
EXIT_CODE = os.EX_TEMPFAIL
"""75, "try again": the training was stopped on request, and the same command goes on with it."""


class StopRequest:
    """Notes the signals that ask this process to stop."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Note signals from now on; only a process's main thread can."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def ignore(self) -> None:
        """Forget what came, and leave signals to whoever had them before."""
        for number, handler in self._before.items():
            # None: a handler that was not set from Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.received, self._before = None, {}

    def _note(self, number: int, _frame: Any) -> None:
        self.received = signal.Signals(number)
