import json
import subprocess
import sys

import pytest
import torch

from redaes.errors import UserError
from redaes.models.attention import NAME
from redaes.models.forward import answer_logprobs
from redaes.models.nano import build_nano
from redaes.models.vlm import Backbone, Lora, export, open_model
from redaes.prompts import render

ANSWER = ["<answer>6.4</answer>"]


@pytest.fixture
def checkpoint(nano, tmp_path):
    model, processor = nano
    return export(model, processor, tmp_path / "model")


def test_nano_presets_have_one_to_three_million_parameters_of_the_real_classes():
    for family, name in {
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
    }.items():
        model, _ = build_nano(["Sharp detail."], family)
        assert type(model).__name__ == name
        assert 1e6 <= sum(p.numel() for p in model.parameters()) <= 3e6


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, _ = build_nano(["Sharp."], seed=3, hidden=64, layers=1, vision=64)
    assert torch.equal(torch.get_rng_state(), state)
    second, _ = build_nano(["Sharp."], seed=3, hidden=64, layers=1, vision=64)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_an_export_opens_with_the_same_numbers(nano, checkpoint, photos):
    model, processor = nano
    reopened, again = open_model(Backbone(path=str(checkpoint)))
    assert again.image_size == processor.image_size
    batch = processor.batch([[photos[0]]], [render("score")], ANSWER)
    torch.testing.assert_close(answer_logprobs(reopened.eval(), batch)[0], answer_logprobs(model, batch)[0])


def test_an_export_opens_without_redaes(nano, checkpoint, photos, tmp_path):
    model, processor = nano
    batch = processor.batch([[photos[0]]], [render("score")], ANSWER)
    inputs = {k: v for k, v in vars(batch).items() if k != "labels"}
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys, torch; sys.modules['redaes'] = None\n"
        "from transformers import AutoModelForImageTextToText, AutoTokenizer\n"
        f"m = AutoModelForImageTextToText.from_pretrained({str(checkpoint)!r}).eval()\n"
        f"AutoTokenizer.from_pretrained({str(checkpoint)!r})\n"
        f"torch.save(m(**torch.load({str(tmp_path / 'inputs.pt')!r})).logits, {str(tmp_path / 'logits.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(**inputs).logits)


def test_freezing_vision_is_a_switch(checkpoint):
    frozen, _ = open_model(Backbone(path=str(checkpoint), freeze_vision=True))
    assert not any(p.requires_grad for p in frozen.model.visual.parameters())
    assert all(p.requires_grad for p in frozen.model.language_model.parameters())
    free, _ = open_model(Backbone(path=str(checkpoint), freeze_vision=False))
    assert all(p.requires_grad for p in free.model.visual.parameters())


def test_flex_attention_is_that_of_the_language_part(checkpoint):
    model, _ = open_model(Backbone(path=str(checkpoint), attention="flex_attention"))
    config = model.config
    assert config.get_text_config()._attn_implementation == "flex_attention"
    assert config.vision_config._attn_implementation == NAME  # of sdpa (models.tower)


def test_a_merged_adapter_has_the_adapters_numbers(checkpoint, photos, tmp_path):
    adapted, processor = open_model(Backbone(path=str(checkpoint), lora=Lora(r=4, alpha=8)))
    trainable = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in n and "language_model" in n for n in trainable)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = processor.batch([[photos[0]]], [render("score")], ANSWER)
    expected = answer_logprobs(adapted.eval(), batch)[0]
    merged, _ = open_model(Backbone(path=str(export(adapted, processor, tmp_path / "merged"))))
    torch.testing.assert_close(answer_logprobs(merged.eval(), batch)[0], expected, atol=1e-5, rtol=1e-5)
    base, _ = open_model(Backbone(path=str(checkpoint)))
    assert not torch.allclose(answer_logprobs(base.eval(), batch)[0], expected, atol=1e-3)


def test_export_replaces_an_older_checkpoint_and_leaves_nothing_behind(nano, checkpoint):
    model, processor = nano
    (checkpoint / "stale.txt").write_text("old")
    (checkpoint / "README.md").write_text("# The card")
    export(model, processor, checkpoint)
    assert not (checkpoint / "stale.txt").exists()
    assert (checkpoint / "README.md").read_text() == "# The card"
    assert [p.name for p in checkpoint.parent.iterdir()] == ["model"]


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        open_model(Backbone(path=str(tmp_path)))
    with pytest.raises(UserError, match="no checkpoint directory at /nowhere/model"):
        open_model(Backbone(path="/nowhere/model"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="'bert' model"):
        open_model(Backbone(path=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    with pytest.raises(UserError, match=r"no \.safetensors"):
        open_model(Backbone(path=str(tmp_path)))


def test_an_opened_tower_embeds_patches_by_a_product_and_says_the_same(nano, checkpoint, photos):
    plain, processor = nano
    opened, _ = open_model(Backbone(str(checkpoint), freeze_vision=False))
    pixels, _ = processor.pixels(processor.squares(photos))
    embedded = [model.model.visual.patch_embed(pixels) for model in (plain, opened)]
    assert type(opened.model.visual.patch_embed.proj) is not type(plain.model.visual.patch_embed.proj)
    assert torch.allclose(*embedded, atol=1e-5)
    gradients = [
        torch.autograd.grad(values.square().mean(), list(model.model.visual.patch_embed.parameters()))
        for values, model in zip(embedded, (plain, opened), strict=True)
    ]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
