"""Join a cluster, and hand it work in blocks: the few things of Ray and Ray Data that every room here needs."""

import logging
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from redaes.errors import UserError


def join(address: str | None = None) -> None:
    """Be connected to a cluster; again and again if one likes.

    Args:
        address: of its head, such as `10.0.0.1:6379`; None: RAY_ADDRESS, or the cluster that runs on this machine, or a
            new one of this machine alone, which ends with this process.

    Raises:
        UserError: there is none at that address.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of this process alone; it is told that actors start anew with arguments that this process holds.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A worker whose actor asks for no GPU would be denied those that redaes gives to no one in particular.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None)
    except (ConnectionError, RayError, RuntimeError, ValueError, TimeoutError) as error:
        where = address or os.environ.get("RAY_ADDRESS", "this machine")
        raise UserError(f"no Ray cluster answers at {where}: {str(error).splitlines()[0]}") from error


def resources() -> dict[str, float]:
    """What the whole cluster has, such as `{"CPU": 64.0, "GPU": 8.0}`."""
    return {name: float(amount) for name, amount in ray.cluster_resources().items()}  # type: ignore[no-untyped-call]


def machines() -> list[dict[str, float]]:
    """What each machine that is alive has, as of `resources`."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def prepare_data() -> None:
    """Have Ray Data keep the order of blocks, and say nothing of itself: redaes shows the progress."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def enter_folder(folder: str) -> None:
    """Work where the driver works, so that relative paths mean the same; where there is no such folder, stay."""
    with suppress(OSError):
        os.chdir(folder)


def over_blocks(
    rows: Sequence[Mapping[str, Any]], count: int, worker: type, settings: Mapping[str, Any], **how: Any
) -> Generator[Any, None, None]:
    """What workers make of rows, block by block, in the order of the rows.

    Ray Data starts a worker anew that has died, anywhere, and gives it the same block again.

    Args:
        rows: that become Arrow tables.
        count: of the blocks; they are of the same size, or one row longer.
        worker: a class; an instance is called with a table and returns one.
        settings: of its constructor.
        how: of `ray.data.Dataset.map_batches`, such as `compute` and `num_gpus`.
    """
    from ray.data import from_items

    prepare_data()
    # Not from_arrow, which starts a process on the cluster to look at tables that were made here.
    made = from_items(list(rows), override_num_blocks=count).map_batches(
        worker,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        fn_constructor_kwargs=dict(settings),
        **how,
    )
    yield from made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
