"""The head that answers with log-probabilities equals log-softmax over all logits, in value and gradient."""

import pytest
import torch

from redaes.models.head import scored, token_logprobs


def _inputs(dtype=torch.float64, rows=11, hidden=6, vocab=17):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, hidden, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, hidden, generator=generator, dtype=dtype, requires_grad=True)
    return states, weight, torch.randint(vocab, (rows,), generator=generator)


@pytest.mark.parametrize("block", [1, 4, 11, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_log_softmax_whatever_the_block(block, temperature):
    states, weight, tokens = _inputs()
    logps_all = ((states @ weight.T) / temperature).log_softmax(-1)
    expected = logps_all.gather(-1, tokens[:, None]).squeeze(-1)
    outer = torch.linspace(-1, 2, len(states), dtype=torch.float64)
    wanted = torch.autograd.grad((expected * outer).sum(), (states, weight))

    logps, entropy = token_logprobs(states, weight, tokens, temperature, block)
    found = torch.autograd.grad((logps * outer).sum(), (states, weight))
    torch.testing.assert_close(logps, expected)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logps_all).entropy())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_that_of_finite_differences():
    states, weight, tokens = _inputs(rows=3)
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, tokens, 0.9, block=2)[0], (states, weight))


def test_the_entropy_has_no_gradient_and_a_frozen_head_gets_none():
    states, weight, tokens = _inputs()
    logps, entropy = token_logprobs(states, weight.detach(), tokens)
    assert not entropy.requires_grad
    logps.sum().backward()
    assert states.grad is not None
    assert weight.grad is None


def test_without_entropies_the_log_probabilities_are_the_same():
    states, weight, tokens = _inputs()
    logps, entropy = token_logprobs(states, weight, tokens, 0.7, with_entropy=False)
    torch.testing.assert_close(logps, token_logprobs(states, weight, tokens, 0.7)[0])
    assert not entropy.any()


def test_extreme_logits_stay_finite():
    states = torch.tensor([[1e4, -1e4]], requires_grad=True)
    logps, entropy = token_logprobs(states, torch.eye(2), torch.tensor([1]))
    logps.sum().backward()
    assert logps.item() == pytest.approx(-2e4)
    assert entropy.item() == 0
    assert states.grad.isfinite().all()


def test_bfloat16_is_summed_in_float32_and_autocast_is_followed():
    states, weight, tokens = _inputs(torch.float32)
    low = token_logprobs(states.bfloat16(), weight.bfloat16(), tokens)[0]
    assert low.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cast = token_logprobs(states, weight, tokens)[0]
    assert torch.equal(cast, low)
    cast.sum().backward()
    assert weight.grad.dtype == torch.float32


def test_a_head_answers_with_two_numbers_and_then_is_itself_again():
    head = torch.nn.Linear(6, 17, bias=False)
    states, tokens, mask = torch.randn(2, 3, 6), torch.randint(17, (2, 3)), torch.tensor([[1, 1, 0], [1, 0, 0]])
    with scored(head, tokens, mask):
        answer = head(states)
    assert answer.shape == (2, 3, 2)
    assert (answer[mask == 0] == 0).all()
    expected = head(states).log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    torch.testing.assert_close(answer[..., 0][mask == 1], expected[mask == 1])


def test_a_head_is_itself_again_after_an_error():
    head = torch.nn.Linear(6, 17, bias=False)
    with pytest.raises(RuntimeError), scored(head, torch.zeros(1, 1).long(), torch.ones(1, 1)):
        head(torch.zeros(1, 1, 5))
    assert head(torch.zeros(1, 1, 6)).shape == (1, 1, 17)
