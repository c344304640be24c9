"""Shared prefixes and activation checkpointing together give the numbers and gradients of neither."""

import pytest
import torch

from redaes.models.forward import image_features, mrope_positions
from redaes.models.prefix_cache import PrefixCache
from redaes.models.vlm import Backbone, Lora, export, open_model
from redaes.prompts import render


def branched_logits(model, prompts, completions, k):
    """Logits of K completions of each prompt; prompts run once."""
    cache = PrefixCache()
    positions = mrope_positions(model, prompts)
    model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=positions,
        mm_token_type_ids=prompts.mm_token_type_ids,
        mm_encoder_outputs={"image": image_features(model, prompts)},
        past_key_values=cache,
        use_cache=False,
    )
    start = positions.amax(dim=(0, 2)) + 1
    steps = start.repeat_interleave(k)[:, None] + torch.arange(completions.shape[1])
    mask = torch.cat([prompts.attention_mask.repeat_interleave(k, 0), torch.ones_like(completions)], dim=1)
    return model(
        input_ids=completions,
        attention_mask=mask,
        position_ids=steps.expand(3, -1, -1),
        past_key_values=cache.branch(k),
        use_cache=False,
    ).logits


def whole_logits(model, processor, photos, answers, k):
    """The same, every row from its beginning."""
    rows = [[photo] for photo in photos for _ in range(k)]
    batch = processor.batch(rows, [render("score")] * len(rows), answers)
    out = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=mrope_positions(model, batch),
        mm_token_type_ids=batch.mm_token_type_ids,
        mm_encoder_outputs={"image": image_features(model, batch)},
        use_cache=False,
    )
    return out.logits[:, -batch.answer_length :]


@pytest.mark.parametrize(("lora", "k"), [(None, 3), (None, 1), (Lora(r=4), 3)])
def test_checkpointed_branches_have_the_gradients_of_whole_rows(nano, photos, tmp_path, lora, k):
    path = str(export(*nano, tmp_path / "model"))
    texts = [f"<answer>{n}.4</answer>" for n in range(2 * k)]

    def gradients(checkpointing, logits):
        torch.manual_seed(0)
        model, processor = open_model(Backbone(path, lora=lora, gradient_checkpointing=checkpointing))
        ids = torch.tensor([processor.answer_ids(text) for text in texts])
        found = logits(model.train(), processor, ids)
        torch.log_softmax(found, -1).gather(-1, ids[..., None]).sum().backward()
        return found.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    def branches(model, processor, ids):
        prompts = processor.batch([[photo] for photo in photos[:2]], [render("score")] * 2)
        return branched_logits(model, prompts, ids, k)

    expected, plain = gradients(False, lambda m, p, _: whole_logits(m, p, photos[:2], texts, k))
    found, again = gradients(True, branches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-3, atol=1e-4)
