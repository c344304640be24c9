"""The tower in larger operations: the numbers of transformers' own, in fewer calls."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from redaes.models import tower
from redaes.models.features import image_features
from redaes.models.nano import build_nano
from redaes.models.tower import Chunks, quicken
from redaes.models.vlm import Backbone, export, open_model


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def pair(request):
    """A model as transformers has it, and the same quickened; images of unlike sizes, with windows cut at two edges."""
    plain, processor = build_nano(["Sharp detail."], request.param, seed=1, hidden=64, layers=1, vision=64)
    quick = copy.deepcopy(plain)
    quicken(quick)
    rng = np.random.default_rng(0)
    unit = processor.image_size // 4
    batches = []
    for side in (5 * unit, 7 * unit, 5 * unit):
        processor.image_size = side
        batches.append(processor.batch([[Image.fromarray(rng.integers(0, 255, (90, 90, 3), dtype=np.uint8))]], ["?"]))
    batch = copy.copy(batches[0])
    for name in ("pixel_values", "image_grid_thw"):
        object.__setattr__(batch, name, torch.cat([getattr(b, name) for b in batches]))
    object.__setattr__(batch, "image_keys", None)
    return plain, quick, batch


def test_features_are_those_of_transformers(pair):
    plain, quick, batch = pair
    ours, theirs = image_features(quick, batch), image_features(plain, batch)
    for mine, other in zip(ours.pooler_output, theirs.pooler_output, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_transformers(pair):
    gradients = []
    for model in pair[:2]:
        model.requires_grad_(True).zero_grad()
        torch.cat(image_features(model, pair[2]).pooler_output).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.model.visual.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4 * gradient.abs().max().item(), rtol=1e-4)


def test_a_layer_attends_once_for_all_chunks_of_a_length(pair, monkeypatch):
    plain, quick, batch = pair
    attend, calls = torch.nn.functional.scaled_dot_product_attention, []

    def counted(*args, **kwargs):
        calls.append(args[0].shape)
        return attend(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    with torch.no_grad():
        image_features(plain, batch)
        chunks, calls[:] = len(calls), []
        image_features(quick, batch)
    lengths = {shape[-2] for shape in calls}
    assert len(calls) <= len(lengths) * len(quick.model.visual.blocks)
    assert len(calls) < chunks


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(0, 2**31))
def test_chunks_attend_within_themselves(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, 2, sum(lengths), 4, generator=generator) for _ in range(3))
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(*parts, scale=0.7)
            for parts in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
        ],
        dim=2,
    ).transpose(1, 2)
    chunks = Chunks.of(ends)
    assert len(chunks.lengths) == len(set(lengths))
    torch.testing.assert_close(chunks.attend(query, key, value, 0.7, 0.0), expected)


def test_chunks_are_forgotten_with_the_pass_they_belong_to(pair):
    before = len(tower._latest)
    with torch.no_grad():
        image_features(pair[1], pair[2])
    assert len(tower._latest) == before


def test_other_attention_is_left_alone_and_exports_say_nothing_of_ours(tmp_path):
    eager, _ = open_model(Backbone(attention="eager"))
    assert eager.model.visual.config._attn_implementation == "eager"
    model, processor = open_model(Backbone())
    assert model.model.visual.config._attn_implementation == "redaes"
    path = export(model, processor, tmp_path / "exported")
    assert '"redaes"' not in (path / "config.json").read_text(encoding="utf-8")
