import numpy as np
import pytest
import torch
from PIL import Image

from redaes.models.forward import branch_logprobs
from redaes.models.nano import build_nano
from redaes.prompts import render
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout, suppressed_tokens


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def nano(request):
    model, processor = build_nano(["Sharp detail."], request.param, seed=1, hidden=64, layers=2, vision=64)
    return model, processor


@pytest.fixture(scope="module")
def prompts(nano):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    questions = [render("score"), render("predict_edit", "Blur it."), "Score?"]
    return nano[1].batch([[i] for i in images], questions)


def seeds(prompts, seed):
    return [1000 * seed + row for row in range(len(prompts.input_ids))]


def sample(nano, prompts, seed=0, **sampling):
    model, processor = nano
    return InProcessRollout()(model, processor, prompts, Sampling(**sampling), seeds(prompts, seed))


def test_sampling_logprobs_are_those_of_the_training_pass(nano, prompts):
    out = sample(nano, prompts, k=4, temperature=0.7, max_new_tokens=12)
    assert out.tokens.shape == out.mask.shape == out.logprobs.shape
    assert len(out.texts) == 12
    logps, _ = branch_logprobs(nano[0].eval(), prompts, out.tokens, out.mask, temperature=0.7)
    on = out.mask.bool()
    torch.testing.assert_close(logps[on], out.logprobs[on], atol=1e-5, rtol=0)


def test_greedy_equals_transformers_generate(nano, prompts):
    model, _processor = nano
    ours = sample(nano, prompts, temperature=0.0, max_new_tokens=10)
    theirs = model.generate(
        **{k: v for k, v in vars(prompts).items() if isinstance(v, torch.Tensor)},
        do_sample=False,
        max_new_tokens=10,
        suppress_tokens=suppressed_tokens(model),
    )[:, prompts.input_ids.shape[1] :]
    for row, mask, expected in zip(ours.tokens, ours.mask.bool(), theirs, strict=True):
        assert row[mask].tolist() == expected[: int(mask.sum())].tolist()


def test_the_same_seeds_give_the_same_completions_and_others_do_not(nano, prompts):
    first, again, other = (sample(nano, prompts, seed=s, k=3, max_new_tokens=8) for s in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert first.texts != other.texts


def test_image_tokens_are_never_sampled_even_when_they_are_certain(nano, prompts):
    model, processor = nano
    embedding = model.get_input_embeddings().weight
    kept = embedding.detach().clone()
    with torch.no_grad():
        embedding[processor.image_token_id] *= 1000
    out = sample(nano, prompts, k=4, max_new_tokens=6)
    with torch.no_grad():
        embedding.copy_(kept)
    assert not torch.isin(out.tokens, torch.tensor(suppressed_tokens(model))).any()


def test_a_completion_ends_at_the_answer_and_a_cut_one_is_flagged(nano, prompts):
    _model, processor = nano
    end = processor.tokenizer.convert_tokens_to_ids("</answer>")
    out = sample(nano, prompts, k=40, temperature=5.0, max_new_tokens=40)
    ended = 0
    for row, mask, truncated in zip(out.tokens, out.mask.bool(), out.truncated, strict=True):
        tokens = row[mask].tolist()
        stops = {end, processor.eos_id}
        assert not stops & set(tokens[:-1])
        assert bool(truncated) == (tokens[-1] not in stops)
        ended += tokens[-1] in stops
    assert 0 < ended < len(out.texts)


def test_training_mode_survives_a_rollout(nano, prompts):
    model, _ = nano
    model.train()
    sample(nano, prompts, max_new_tokens=2)
    assert model.training
    model.eval()


def test_a_prompts_completions_do_not_depend_on_the_rest_of_the_batch(nano, prompts):
    together = sample(nano, prompts, k=3, max_new_tokens=8)
    for row in (2, 0):
        alone = prompts.rows(torch.tensor([row]))
        out = InProcessRollout()(*nano, alone, Sampling(k=3, max_new_tokens=8), seeds(prompts, 0)[row : row + 1])
        assert out.texts == together.texts[3 * row : 3 * row + 3]


def test_tokens_are_drawn_as_often_as_they_are_probable(nano, prompts):
    """Against the distribution itself: 6,000 first tokens of one prompt."""
    model, processor = nano
    one = prompts.rows(torch.tensor([0]))
    out = InProcessRollout()(model, processor, one, Sampling(k=6000, max_new_tokens=1), [0])
    logits = model(**{k: v for k, v in vars(one).items() if isinstance(v, torch.Tensor)}).logits[0, -1].detach()
    logits[suppressed_tokens(model)] = -torch.inf
    expected = logits.softmax(-1)
    counts = torch.bincount(out.tokens[:, 0], minlength=len(expected)).float()
    often = expected > 5 / 6000
    chi2 = ((counts - 6000 * expected)[often] ** 2 / (6000 * expected)[often]).sum()
    assert chi2 < often.sum() + 5 * (2 * often.sum()) ** 0.5


def test_branches_leave_without_changing_the_others(nano, prompts):
    """Ragged ends at several tokens: what is left goes on as if nothing had happened."""
    processor = nano[1]
    plain = sample(nano, prompts, k=4, max_new_tokens=12)
    end, processor.eos_id = processor.eos_id, int(plain.tokens[:, 5][1])
    try:
        ragged = sample(nano, prompts, k=4, max_new_tokens=12)
    finally:
        processor.eos_id = end
    assert len(ragged.mask.sum(1).unique()) > 1
    for row, length in enumerate(torch.minimum(ragged.mask.sum(1), plain.mask.sum(1)).tolist()):
        assert ragged.tokens[row, :length].tolist() == plain.tokens[row, :length].tolist()
        torch.testing.assert_close(ragged.logprobs[row, :length], plain.logprobs[row, :length], atol=1e-5, rtol=0)


def test_some_prompts_can_be_given_other_completions(nano, prompts):
    before = sample(nano, prompts, k=2, max_new_tokens=6)
    rows = torch.tensor([2, 0])
    fresh = InProcessRollout()(*nano, prompts.rows(rows), Sampling(k=2, max_new_tokens=9), [7, 8])
    after = before.replaced(rows, fresh)
    assert after.texts == [*fresh.texts[2:], *before.texts[2:4], *fresh.texts[:2]]
    assert after.exact
    for place, (source, row) in enumerate([(fresh, 2), (fresh, 3), (before, 2), (before, 3), (fresh, 0), (fresh, 1)]):
        on = source.mask[row].bool()
        assert after.tokens[place][after.mask[place].bool()].tolist() == source.tokens[row][on].tolist()
        assert torch.equal(after.logprobs[place][after.mask[place].bool()], source.logprobs[row][on])
    assert after.tokens.shape == after.mask.shape == after.logprobs.shape
