"""Quantised bases and adapters, with the real bitsandbytes (whose CPU back-end computes the same formats)."""

import json
import subprocess
import sys

import pytest
import torch

from redaes.errors import UserError
from redaes.models.forward import answer_logprobs
from redaes.models.vlm import Backbone, Lora, bare, export, open_model
from redaes.prompts import render

ANSWER = ["<answer>6.4</answer>"]


@pytest.fixture
def checkpoint(nano, tmp_path):
    model, processor = nano
    return export(model, processor, tmp_path / "model")


@pytest.fixture
def batch(nano, photos):
    return nano[1].batch([[photos[0]]], [render("score")], ANSWER)


def quantised(checkpoint, bits="4bit", **options):
    pytest.importorskip("bitsandbytes")
    return open_model(Backbone(str(checkpoint), quantization=bits, lora=Lora(r=4, alpha=8), **options))


def stirred(model):
    """An adapter that changes something: peft starts it at zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


def loss_of(model, batch):
    logps, _, mask = answer_logprobs(model, batch)
    return -(logps * mask).sum() / mask.sum()


@pytest.mark.parametrize(("bits", "kind"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_only_the_language_part_s_linear_layers_are_quantised(checkpoint, bits, kind):
    model, _ = quantised(checkpoint, bits)
    linear = {n: type(m).__name__ for n, m in bare(model).named_modules() if isinstance(m, torch.nn.Linear)}
    layers = {n: k for n, k in linear.items() if "language_model" in n and "lora_" not in n}
    assert set(layers.values()) == {kind}
    assert len(layers) == 2 * 7
    assert {k for n, k in linear.items() if "visual" in n or "lm_head" in n} == {"Linear"}


def test_under_a_quantised_base_only_the_adapter_has_gradients_and_optimiser_state(checkpoint, batch):
    model, _ = quantised(checkpoint)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in n and p.dtype == torch.float32 for n, p in trained.items())
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    before = loss_of(model, batch)
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained.keys()
    kept = sum(s.numel() for state in optimizer.state.values() for s in state.values() if s.dim() > 0)
    assert kept == 2 * sum(p.numel() for p in trained.values())
    assert loss_of(model, batch) < before - 0.5


def test_the_reference_policy_is_the_quantised_base_under_the_adapter(checkpoint, batch):
    model, _ = quantised(checkpoint)
    before = answer_logprobs(model.eval(), batch)[0]
    stirred(model)
    assert not torch.allclose(answer_logprobs(model, batch)[0], before, atol=1e-3)
    with model.disable_adapter():
        torch.testing.assert_close(answer_logprobs(model, batch)[0], before)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("bits", "tolerance"), [("none", 1e-5), ("4bit", 1e-5), ("8bit", 5e-2)])
def test_an_exported_adapter_opens_without_redaes_peft_or_bitsandbytes(
    checkpoint, batch, tmp_path, bits, tolerance, rslora
):
    """8 bits: the layers also round what goes into them, which their plain weights do not."""
    pytest.importorskip("bitsandbytes")
    lora = Lora(r=4, alpha=8, rslora=rslora)
    model, processor = open_model(Backbone(str(checkpoint), quantization=bits, lora=lora))
    stirred(model)
    inputs = {k: v for k, v in vars(batch).items() if k != "labels"}
    with torch.no_grad():
        expected = model(**inputs).logits
    plain = export(model, processor, tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected)  # the trained model is as it was
    assert "quantization_config" not in json.loads((plain / "config.json").read_text())
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys, torch\n"
        "for name in ('redaes', 'peft', 'bitsandbytes'): sys.modules[name] = None\n"
        "from transformers import AutoModelForImageTextToText\n"
        f"m = AutoModelForImageTextToText.from_pretrained({str(plain)!r}).eval()\n"
        f"torch.save(m(**torch.load({str(tmp_path / 'inputs.pt')!r})).logits, {str(tmp_path / 'logits.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    found = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max()), rtol=0)


def test_an_export_of_a_quantised_base_is_its_dequantised_weights(checkpoint, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model, processor = quantised(checkpoint)
    layer = bare(model).model.language_model.layers[0].mlp.up_proj.base_layer
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    reopened, _ = open_model(Backbone(str(export(model, processor, tmp_path / "plain"))))
    torch.testing.assert_close(reopened.model.language_model.layers[0].mlp.up_proj.weight.data, weight)


def test_layers_that_no_adapter_targets_are_dequantised_too(checkpoint, batch, tmp_path):
    pytest.importorskip("bitsandbytes")
    lora = Lora(r=4, targets=["q_proj"])
    model, processor = open_model(Backbone(str(checkpoint), quantization="4bit", lora=lora))
    stirred(model)
    reopened, _ = open_model(Backbone(str(export(model, processor, tmp_path / "plain"))))
    torch.testing.assert_close(
        answer_logprobs(reopened.eval(), batch)[0], answer_logprobs(model, batch)[0], atol=1e-5, rtol=1e-5
    )


def test_quantisation_without_an_adapter_is_refused(checkpoint):
    with pytest.raises(UserError, match=r"^backbone.quantization=4bit needs backbone.lora: .*$"):
        open_model(Backbone(str(checkpoint), quantization="4bit"))


def test_quantisation_without_bitsandbytes_names_the_package(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"backbone.quantization=8bit needs bitsandbytes: pip install bitsandbytes"):
        open_model(Backbone(str(checkpoint), quantization="8bit", lora=Lora()))


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)])
@pytest.mark.parametrize("freeze_vision", [True, False])
def test_gradient_checkpointing_changes_no_gradient(checkpoint, batch, lora, freeze_vision):
    """Frozen tower, frozen embeddings: nothing that enters the first layer requires a gradient."""

    def gradients(checkpointing):
        torch.manual_seed(0)
        model, _ = open_model(
            Backbone(str(checkpoint), lora=lora, freeze_vision=freeze_vision, gradient_checkpointing=checkpointing)
        )
        assert bare(model).is_activation_checkpointing == checkpointing
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            loss = loss_of(model.train(), batch)
        loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, sum(saved)

    plain, kept = gradients(False)
    again, kept_less = gradients(True)
    assert plain.keys() == again.keys()
    assert plain
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7)
    assert kept_less < 0.7 * kept
