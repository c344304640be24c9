"""What the launcher of this process says: torchrun and SLURM's srun know best how many processes there are.

Under torchrun with `--nnodes 1:4` the number is another after every restart, so no configuration can hold it.
"""

import os
from collections.abc import Mapping


def launched_processes(environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Arguments of a Trainer: `devices`, the processes of one machine, and `num_nodes`, the machines.

    Args:
        environment: variables of this process.

    Returns:
        Empty where neither torchrun nor srun started this process: the configuration decides.

    Example:
        >>> launched_processes({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"})
        {'devices': 4, 'num_nodes': 2}
        >>> launched_processes({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_NNODES": "2", "SLURM_STEP_ID": "0"})
        {'devices': 8, 'num_nodes': 2}
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        here = int(environment["LOCAL_WORLD_SIZE"])
        return {"devices": here, "num_nodes": int(environment["WORLD_SIZE"]) // here}
    # As Lightning does, which takes these two names for a shell on the machine.
    shell = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_NTASKS" in environment and "SLURM_STEP_ID" in environment and not shell:
        machines = int(environment.get("SLURM_NNODES", "1"))
        return {"devices": int(environment["SLURM_NTASKS"]) // machines, "num_nodes": machines}
    return {}


def times_restarted(environment: Mapping[str, str] = os.environ) -> int:
    """How often this job has begun again after a failure, or after it was queued again.

    Example:
        >>> times_restarted({"TORCHELASTIC_RESTART_COUNT": "2"}), times_restarted({})
        (2, 0)
    """
    return sum(int(environment.get(name) or 0) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def advice(environment: Mapping[str, str] = os.environ) -> str | None:
    """What is better set before torchrun starts, in one line; None where nothing is.

    Workers that torchrun starts again take a store over from those before, with their addresses in it, and may wait for
    processes that are gone (pytorch/pytorch#135712).

    Example:
        >>> advice({"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "3"})[:42]
        'set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 f'
        >>> advice({"TORCHELASTIC_USE_AGENT_STORE": "False", "TORCHELASTIC_MAX_RESTARTS": "3"})
    """
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        return (
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun: without it, workers that it starts again may try "
            "to reach those before"
        )
    return None
