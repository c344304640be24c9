"""Rewards for tests."""

import torch


class Brevity:
    """Pays for few characters."""

    def __call__(self, inputs):
        return torch.tensor([[-float(len(text)) for text in row] for row in inputs.texts])


class Lucky:
    """Pays for an even number of characters: K outputs are often paid alike."""

    def __call__(self, inputs):
        return torch.tensor([[float(len(text) % 2 == 0) for text in row] for row in inputs.texts])
