"""What is sent is a plain checkpoint, whatever the model is wrapped in; and it is known when it changes."""

import copy

import pytest
import torch

from redaes.errors import UserError
from redaes.models.adapters import adapt
from redaes.models.vlm import Backbone, Lora, bare, export, open_model
from redaes_vllm.weights import checkpoint_weights, fingerprint

# The prefixes that vLLM's `hf_to_vllm_mapper` has in common for both families.
PREFIXES = ("model.language_model.", "model.visual.", "lm_head.")


@pytest.fixture(params=["full", "lora"])
def policy(request, nano):
    model, processor = nano
    if request.param == "lora":
        model = adapt(model, Lora(r=4))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, processor


def test_weights_are_those_of_an_exported_checkpoint_under_the_names_vllm_knows(policy, tmp_path):
    model, processor = policy
    path = export(model, processor, tmp_path / "checkpoint")
    written = dict(open_model(Backbone(path=str(path), freeze_vision=False))[0].named_parameters())
    sent = dict(checkpoint_weights(model))
    assert all(name.startswith(PREFIXES) for name in sent)
    assert set(sent) == set(written)
    for name, weight in sent.items():
        torch.testing.assert_close(weight, written[name], atol=1e-6, rtol=0)


def test_an_adapter_is_sent_merged_and_the_model_is_left_as_it_is(policy):
    model, _ = policy
    before = copy.deepcopy(model.state_dict())
    sent = dict(checkpoint_weights(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(weight.requires_grad for weight in sent.values())
    if hasattr(model, "merge_adapter"):
        name = "model.language_model.layers.0.mlp.up_proj.weight"
        base = before["base_model.model." + name.replace("up_proj.", "up_proj.base_layer.")]
        assert (sent[name] - base).abs().max() > 1e-3
        model.merge_adapter()
        assert all(torch.equal(weight, sent[name]) for name, weight in checkpoint_weights(model))


def test_a_tied_head_is_sent_under_its_own_name_too_where_it_is_asked_for(policy):
    model, _ = policy
    sent = list(checkpoint_weights(model, tied_twice=True))
    names = [name for name, _ in sent]
    assert len(set(names)) == len(names)
    assert set(names) == {*dict(checkpoint_weights(model)), "lm_head.weight"}
    weights = dict(sent)
    assert torch.equal(weights["lm_head.weight"], weights["model.language_model.embed_tokens.weight"])


def test_a_head_of_its_own_is_sent_once(policy):
    head = bare(policy[0]).lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    names = [name for name, _ in checkpoint_weights(policy[0], tied_twice=True)]
    assert names.count("lm_head.weight") == 1


def test_weights_that_are_elsewhere_are_not_sent_as_nothing(policy):
    parameter = next(policy[0].parameters())
    parameter.ds_numel = parameter.numel()
    parameter.data = parameter.data.new_empty(0)  # as ZeRO-3 leaves it
    with pytest.raises(UserError, match="cannot gather the weights of ZeRO-3 yet"):
        list(checkpoint_weights(policy[0]))


def test_gradients_are_as_they_were_while_weights_are_taken(policy):
    for _ in checkpoint_weights(policy[0]):
        assert torch.is_grad_enabled()
        break


def test_weights_come_layer_after_layer(policy):
    layers = [
        name.split(".layers.")[1].split(".")[0] for name, _ in checkpoint_weights(policy[0]) if ".layers." in name
    ]
    assert layers == sorted(layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_fingerprint_changes_with_the_last_bit_of_any_weight_and_not_without(policy, dtype):
    model = policy[0].to(dtype)
    first = fingerprint(model)
    assert torch.equal(fingerprint(model), first)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for parameter in list(model.parameters())[::7]:
        last = parameter.data.view(bits).view(-1)[-1:]
        last ^= 1
        assert not torch.equal(fingerprint(model), first)
        last ^= 1
    assert torch.equal(fingerprint(model), first)


def test_two_changes_that_cancel_in_the_sum_are_seen(policy):
    model = policy[0]
    first = fingerprint(model)
    bits = next(p for p in model.parameters() if p.dim() == 2).data.view(torch.int32).view(-1)
    bits[0] += 1
    bits[1] -= 1
    now = fingerprint(model)
    assert torch.equal(now.sum(0)[0], first.sum(0)[0])
    assert not torch.equal(now, first)


@pytest.mark.parametrize("implementation", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_the_smallest_step_of_any_optimiser_is_seen(policy, implementation):
    model = policy[0]
    first = fingerprint(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, **implementation)
    sum(p.float().sum() for p in model.parameters() if p.requires_grad).backward()
    optimiser.step()
    assert not torch.equal(fingerprint(model), first)


def test_parts_of_a_large_weight_are_read_all(monkeypatch, policy):
    whole = fingerprint(policy[0])
    monkeypatch.setattr("redaes_vllm.weights.CHUNK", 1000)
    assert torch.equal(fingerprint(policy[0]), whole)
