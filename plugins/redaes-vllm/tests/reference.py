"""What a rollout by another engine must equal: the rollout in process, with log-probabilities as vLLM counts them."""

from dataclasses import replace

import torch

from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout, suppressed_tokens
from redaes_vllm.exchange import engine_seed

SEEDS = [11, 2**64 - 5, 0]
SAMPLING = Sampling(k=4, temperature=0.8, max_new_tokens=10)


def in_process(nano, prompts, sampling=SAMPLING, seeds=SEEDS):
    out = InProcessRollout()(*nano, prompts, sampling, [engine_seed(seed) for seed in seeds])
    return replace(out, logprobs=engine_logprobs(nano, prompts, out, sampling.temperature))


@torch.no_grad()
def engine_logprobs(nano, prompts, out, temperature, whole=False):
    """(N*K, T) log-probabilities by the plain forward pass, with the tokens that are never sampled left out of the sum.

    vLLM's `processed_logprobs` are these; the trainer's, of the `whole` sum, are lower by what was left out.
    """
    model, processor = nano
    model.eval()
    k, length = len(out.tokens) // len(prompts.input_ids), out.tokens.shape[1]
    images = iter(processor.images(prompts))
    rows = []
    for i, question in enumerate(processor.questions(prompts)):
        count = int((prompts.input_ids[i] == processor.image_token_id).sum()) // processor.tokens_per_image
        batch = processor.batch([[next(images) for _ in range(count)]] * k, [question] * k)
        tokens, mask = out.tokens[i * k : (i + 1) * k], out.mask[i * k : (i + 1) * k]
        logits = model(
            input_ids=torch.cat([batch.input_ids, tokens], 1),
            attention_mask=torch.cat([batch.attention_mask, mask], 1),
            mm_token_type_ids=torch.cat([batch.mm_token_type_ids, torch.zeros_like(tokens)], 1),
            pixel_values=batch.pixel_values,
            image_grid_thw=batch.image_grid_thw,
        ).logits[:, -length - 1 : -1]
        if not whole:
            logits[..., suppressed_tokens(model)] = -torch.inf
        logprobs = (logits.float() / (temperature or 1.0)).log_softmax(-1)
        rows.append(logprobs.gather(-1, tokens[..., None]).squeeze(-1).where(mask.bool(), 0.0))
    return torch.cat(rows)


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
