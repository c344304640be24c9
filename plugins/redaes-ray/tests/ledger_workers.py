"""Processes that write to a block ledger until they are killed: `python ledger_workers.py FOLDER NAME`.

They print a key when its `put` has returned. Small files are merged after every third; `compact` comes again and again.
"""

import sys
import threading
import time
from itertools import count

from tests.engine.ledger_processes import record

from redaes_ray import log
from redaes_ray.ledger import BlockLedger


def write_for_ever(folder: str, name: str) -> None:
    """Put, merge and compact."""
    log.FAN = 3
    ledger = BlockLedger.create_or_open(folder, name=name)
    numbers = count()

    def work() -> None:
        for number in numbers:
            key = f"{name}-{number}"
            ledger.put(record(key))
            ledger.put_result(name, key, f"result of {key}")
            sys.stdout.write(f"{key}\n")
            sys.stdout.flush()

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    while True:
        ledger.compact()
        time.sleep(0.05)


if __name__ == "__main__":
    write_for_ever(*sys.argv[1:])
