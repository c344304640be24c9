"""Weights that lie in pieces over several processes: whole ones for export."""

from typing import Any

import torch


def is_first_process() -> bool:
    """Whether this process writes files: the only one, or rank 0."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def full_state(model: Any) -> dict[str, Any]:
    """The whole state dict of a model."""
    return dict(model.state_dict())
