"""Rewards for tests."""

import torch
from benchmarks.resume import Brevity

__all__ = ["Brevity", "Lucky"]


class Lucky:
    """Pays for an even number of characters: K outputs are often paid alike."""

    def __call__(self, inputs):
        return torch.tensor([[float(len(text) % 2 == 0) for text in row] for row in inputs.texts])
