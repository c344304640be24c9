"""Rollouts for tests."""

from dataclasses import replace

import torch

from redaes.models.decoding import Branches
from redaes.rollout.in_process import InProcessRollout

__all__ = ["Blind"]


class Blind(InProcessRollout):
    """Words that the seeds alone decide, as rounding would make others; every fourth one ends an output.

    The model is run for each, as often as the longest output of a process is long.
    """

    def __call__(self, *arguments, **options):
        return replace(super().__call__(*arguments, **options), exact=False)

    def _branches(self, model, prompts, sampling, features):
        return _Even(model, prompts, sampling.k, sampling.max_new_tokens, features)

    def _ends(self, processor, row, token, tails):
        return super()._ends(processor, row, token, tails) or token % 4 == 0


class _Even(Branches):
    """Every word is as likely, whatever the model says."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.logits = torch.zeros_like(self.logits)

    def step(self, tokens):
        super().step(tokens)
        self.logits = torch.zeros_like(self.logits)
