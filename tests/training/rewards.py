"""A reward for tests: pays for few characters."""

import torch


class Brevity:
    def __call__(self, inputs):
        return torch.tensor([[-float(len(text)) for text in row] for row in inputs.texts])
