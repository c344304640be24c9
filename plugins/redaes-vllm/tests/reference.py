"""What a rollout by another engine must equal: the rollout in process."""

import torch

from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout
from redaes_vllm.exchange import engine_seed

SEEDS = [11, 2**64 - 5, 0]
SAMPLING = Sampling(k=4, temperature=0.8, max_new_tokens=10)


def in_process(nano, prompts, sampling=SAMPLING, seeds=SEEDS):
    return InProcessRollout()(*nano, prompts, sampling, [engine_seed(seed) for seed in seeds])


def assert_same(ours, theirs):
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.truncated, theirs.truncated)
    assert ours.texts == theirs.texts
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=0)


def train_a_step(model):
    """One step of an optimiser that changes what is sampled."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05)
    sum(p.float().square().sum() for p in model.parameters()).backward()
    optimiser.step()
    optimiser.zero_grad()


class Brevity:
    """A reward that differs between the completions of a model that has learnt nothing: pays for few characters."""

    def __call__(self, inputs):
        return torch.tensor([[-float(len(text)) for text in row] for row in inputs.texts])
