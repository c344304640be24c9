"""The shared-prefix pass gives the numbers of the plain pass, and the plain pass those of transformers."""

import pytest
import torch

from redaes.models.features import image_features, join_features, split_features
from redaes.models.forward import answer_logprobs, branch_logprobs, mrope_positions, pack
from redaes.models.processor import VisionTextBatch
from redaes.prompts import render

ANSWERS = [
    "<think>Sharp detail.</think><answer>6.4</answer>",
    "<answer>1.0</answer>",
    "<think>Colours are dull; light is balanced.</think><answer>10.0</answer>",
]


def _pad_right(processor, answers):
    ids = [torch.tensor(processor.answer_ids(a)) for a in answers]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=processor.pad_id)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    return tokens, mask


def _grads(model):
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def _reference_hf_logprobs(model, batch: VisionTextBatch):
    """transformers alone: raw pixels, its own positions, all logits."""
    out = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        mm_token_type_ids=batch.mm_token_type_ids,
        pixel_values=batch.pixel_values,
        image_grid_thw=batch.image_grid_thw,
    )
    logps = out.logits[:, :-1].log_softmax(-1)
    return logps.gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)[:, -batch.answer_length :]


def test_the_plain_pass_equals_transformers(nano, photos):
    model, processor = nano
    batch = processor.batch([[p] for p in photos[:3]], [render("score")] * 3, ANSWERS)
    logps, _, mask = answer_logprobs(model, batch)
    expected = _reference_hf_logprobs(model, batch)
    torch.testing.assert_close(logps[mask], expected[mask], atol=1e-5, rtol=0)


def _branches(nano, photos, images_per_prompt):
    """Two prompts of different lengths with three ragged answers each: once as plain rows, once to be shared."""
    _, processor = nano
    if images_per_prompt == 1:
        questions = [render("score"), render("predict_edit", "Sharpen the photograph slightly.")]
    else:
        questions = [render("compare"), "Which is better?"]
    images = [photos[i * images_per_prompt : (i + 1) * images_per_prompt] for i in range(2)]
    rows = [(i, a) for i in range(2) for a in ANSWERS]
    plain = processor.batch([images[i] for i, _ in rows], [questions[i] for i, _ in rows], [a for _, a in rows])
    tokens, mask = _pad_right(processor, [a for _, a in rows])
    return plain, processor.batch(images, questions), tokens, mask


def _difference(grads, expected):
    """Relative to the length of the whole gradient."""
    assert grads.keys() == expected.keys()
    off = sum((grads[n] - expected[n]).double().square().sum() for n in grads)
    return float((off / sum(g.double().square().sum() for g in expected.values())).sqrt())


@pytest.mark.parametrize("layout", ["packed", "cache"])
@pytest.mark.parametrize("images_per_prompt", [1, 2])
@pytest.mark.parametrize("freeze_vision", [True, False])
def test_branching_equals_the_plain_pass_in_value_and_gradient(nano, photos, images_per_prompt, freeze_vision, layout):
    model, _ = nano
    model.model.visual.requires_grad_(not freeze_vision)
    model.zero_grad()
    plain, prompts, tokens, shared_mask = _branches(nano, photos, images_per_prompt)
    logps, entropy, mask = answer_logprobs(model, plain, temperature=0.8)
    (logps * mask).sum().backward()
    expected = _grads(model)

    shared, shared_entropy = branch_logprobs(model, prompts, tokens, shared_mask, temperature=0.8, layout=layout)
    (shared * shared_mask).sum().backward()
    grads = _grads(model)

    on = shared_mask.bool()
    torch.testing.assert_close(shared[on], logps[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(shared_entropy[on], entropy[mask], atol=1e-5, rtol=0)
    assert (shared[~on] == 0).all()
    assert _difference(grads, expected) < 1e-6
    model.model.visual.requires_grad_(True)


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_a_packed_row_is_the_same_with_any_attention_that_takes_a_mask(nano, photos, attention):
    model, _ = nano
    _, prompts, tokens, mask = _branches(nano, photos, 1)
    with torch.no_grad():
        expected, _ = branch_logprobs(model, prompts, tokens, mask)
        config = model.config.get_text_config()
        before, config._attn_implementation = config._attn_implementation, attention
        logps, _ = branch_logprobs(model, prompts, tokens, mask)
        config._attn_implementation = before
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)


def test_activation_checkpointing_changes_nothing_and_refuses_the_cache(nano, photos):
    model, _ = nano
    _, prompts, tokens, mask = _branches(nano, photos, 1)
    model.train().zero_grad()
    branch_logprobs(model, prompts, tokens, mask)[0].sum().backward()
    expected = _grads(model)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    branch_logprobs(model, prompts, tokens, mask)[0].sum().backward()
    assert _difference(_grads(model), expected) == 0
    with pytest.raises(ValueError, match="set shared_prefix to packed"):
        branch_logprobs(model, prompts, tokens, mask, layout="cache")
    model.activation_checkpointing_disable()
    model.eval()


@pytest.mark.parametrize("layout", ["packed", "cache"])
@pytest.mark.parametrize("length", [1, 2])
def test_completions_may_be_as_short_as_one_token(nano, photos, layout, length):
    model, processor = nano
    prompts = processor.batch([[p] for p in photos[:2]], [render("score"), "Score?"])
    tokens = torch.full((4, length), 5)
    mask = torch.ones_like(tokens)
    mask[1, 1:] = 0
    with torch.no_grad():
        logps, _ = branch_logprobs(model, prompts, tokens, mask, layout=layout)
        out = model(**{k: v for k, v in vars(prompts).items() if isinstance(v, torch.Tensor)})
    expected = out.logits[:, -1].log_softmax(-1)[:, 5].repeat_interleave(2)
    torch.testing.assert_close(logps[:, 0], expected, atol=1e-5, rtol=0)


def test_ragged_completions_are_packed_without_padding_between_them(nano, photos):
    model, processor = nano
    prompts = processor.batch([[p] for p in photos[:2]], [render("score"), "Score?"])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
    tokens = torch.arange(16).view(4, 4) + 20
    row = pack(prompts, mrope_positions(model, prompts), tokens, mask)
    width = prompts.input_ids.shape[1]
    assert row.segments[:, width:].tolist() == [[1, 1, 1, 2], [2, 2, -1, -1]]
    assert row.input_ids[:, width:].tolist() == [[20, 21, 22, 24], [32, 33, 0, 0]]
    assert (row.positions[:, :, width:] == row.positions[:1, :, width:]).all()
    assert torch.equal(row.positions[0, 0, width:] - row.positions[:, 0, :width].max(), torch.tensor([1, 2, 3, 1]))


def test_features_computed_once_change_nothing(nano, photos):
    model, processor = nano
    batch = processor.batch([[p] for p in photos[:3]], [render("score")] * 3, ANSWERS)
    features = image_features(model, batch)
    torch.testing.assert_close(answer_logprobs(model, batch, features=features)[0], answer_logprobs(model, batch)[0])


def test_features_of_single_images_serve_any_batch(nano, photos):
    """Kept once per image, joined in another order, without the pixels: the same numbers."""
    model, processor = nano
    with torch.no_grad():
        seen = split_features(image_features(model, processor.batch([[p] for p in photos[:3]], [render("score")] * 3)))
        pictures = [[2, 0], [1, 2], [0, 1]]
        whole = processor.batch([[photos[i] for i in row] for row in pictures], [render("compare")] * 3, ANSWERS)
        blind = processor.batch_without_pixels([2] * 3, [render("compare")] * 3, ANSWERS)
        expected, _, mask = answer_logprobs(model, whole)
        given, _, _ = answer_logprobs(model, blind, features=join_features([seen[i] for row in pictures for i in row]))
    torch.testing.assert_close(given[mask], expected[mask], atol=1e-5, rtol=0)


def test_a_frozen_tower_keeps_no_graph(nano, photos):
    model, processor = nano
    batch = processor.batch([[photos[0]]], [render("score")])
    model.model.visual.requires_grad_(False)
    assert not image_features(model, batch).pooler_output[0].requires_grad
    model.model.visual.requires_grad_(True)
    assert image_features(model, batch).pooler_output[0].requires_grad


def test_positions_do_not_depend_on_an_earlier_call(nano, photos):
    model, processor = nano
    first = processor.batch([[photos[0]]], [render("score")], ANSWERS[:1])
    other = processor.batch([photos[:2]], [render("compare")], ANSWERS[:1])
    before = answer_logprobs(model, first)[0]
    answer_logprobs(model, other)
    assert torch.equal(answer_logprobs(model, first)[0], before)


def test_image_tokens_have_positions_in_height_and_width(nano, photos):
    """The trap that raises nothing on some models: without token types all three rows are the same."""
    model, processor = nano
    batch = processor.batch([[photos[0]]], [render("score")], ANSWERS[:1])
    time, height, width = mrope_positions(model, batch)
    on_image = batch.mm_token_type_ids.bool()
    side = int(processor.tokens_per_image**0.5)
    assert time[on_image].unique().numel() == 1
    assert height[on_image].unique().numel() == width[on_image].unique().numel() == side
    assert not torch.equal(height[on_image], width[on_image])
    text = ~on_image
    assert torch.equal(time[text], height[text])
    assert torch.equal(time[text], width[text])
