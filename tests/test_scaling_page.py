"""The page about memory shows what its script computes, from counts of the real classes."""

import runpy
from pathlib import Path

import pytest
import torch

from redaes.models.nano import build_nano
from redaes.models.vlm import Backbone, Lora, export, open_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "benchmarks" / "memory_plan.py"))


def test_the_page_holds_the_script_s_tables(script, capsys):
    script["main"]([])
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_parameters_are_counted_as_the_opened_model_has_them(script, tmp_path):
    model, processor = build_nano(["Sharp."], hidden=64, layers=2, vision=64)
    size = script["measure"](str(export(model, processor, tmp_path / "model")))
    assert size.total == sum(p.numel() for p in model.parameters())
    lora = Lora(r=script["RANK"])
    adapted, _ = open_model(Backbone(str(tmp_path / "model"), lora=lora))
    assert size.adapter == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    full, _ = open_model(Backbone(str(tmp_path / "model")))
    assert size.language == sum(p.numel() for p in full.parameters() if p.requires_grad)


def test_the_bytes_of_a_step_are_those_of_the_plan(script, tmp_path):
    """Weights, gradients and AdamW's state, counted on a real optimiser step."""
    model, processor = build_nano(["Sharp."], hidden=64, layers=2, vision=64)
    path = str(export(model, processor, tmp_path / "model"))
    size = script["measure"](path)
    for method, lora in (("full", None), ("lora", Lora(r=script["RANK"]))):
        opened, _ = open_model(Backbone(path, lora=lora, dtype="float32" if lora is None else "bfloat16"))
        trained = [p for p in opened.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        sum((p.float() ** 2).sum() for p in trained).backward()
        optimizer.step()
        states = [s for state in optimizer.state.values() for s in state.values() if s.dim() > 0]
        expected = script["plan"](size, "sft", method, "ddp", 1)
        for tensors, gigabytes in (
            (list(opened.parameters()), expected.weights),
            ([p.grad for p in trained], expected.gradients),
            (states, expected.optimizer),
        ):
            assert sum(t.numel() * t.element_size() for t in tensors) == pytest.approx(gigabytes * 1e9)
