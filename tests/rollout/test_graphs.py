"""Rollouts by replayed steps (models.graphs), with a recorder of operations in the place of a GPU's graphs."""

import inspect
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from tests.rollout.recording import Recordings

from redaes.models import graphs
from redaes.models.adapters import adapt
from redaes.models.graphs import can_be_captured, cuda_graph
from redaes.models.nano import build_nano
from redaes.models.vlm import Lora
from redaes.prompts import render
from redaes.rollout import Sampling, in_process
from redaes.rollout.in_process import InProcessRollout


def built(family):
    return build_nano(["Sharp detail."], family, seed=1, hidden=64, layers=2, vision=64)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def nano(request):
    return built(request.param)


def batch(processor):
    rng = np.random.default_rng(0)
    images = [[Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))] for _ in range(3)]
    return processor.batch(images, [render("score"), render("predict_edit", "Blur it."), "Score?"])


def sample(nano, k=4, most=12, cuda_graph=True):
    model, processor = nano
    sampling = Sampling(k=k, temperature=0.9, max_new_tokens=most)
    return InProcessRollout(cuda_graph=cuda_graph)(model, processor, batch(processor), sampling, [1, 2, 3])


@pytest.fixture
def recordings(monkeypatch):
    made = Recordings()
    monkeypatch.setattr(graphs, "cuda_graph", made)
    monkeypatch.setattr(in_process, "can_be_captured", lambda model: True)
    return made


def assert_same(ours, theirs):
    assert ours.texts == theirs.texts
    assert ours.tokens.equal(theirs.tokens)
    assert ours.mask.equal(theirs.mask)
    assert ours.truncated.equal(theirs.truncated)
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-5, rtol=0)


def ending_with(nano, token):
    """The same model, and a processor for which a completion ends with this token."""
    nano[1].eos_id = token
    return nano


def test_replayed_steps_give_what_steps_one_by_one_give(nano, recordings):
    replayed = sample(nano)
    assert len(recordings.made) == 1
    assert_same(replayed, sample(nano, cuda_graph=False))
    assert len(recordings.made) == 1


def test_rows_that_have_ended_stay_without_a_trace(nano, recordings):
    end = nano[1].eos_id
    ragged = ending_with(nano, int(sample(nano).tokens[1, 5]))
    try:
        replayed, plain = sample(ragged), sample(ragged, cuda_graph=False)
    finally:
        nano[1].eos_id = end
    assert len(plain.mask.sum(1).unique()) > 1
    assert_same(replayed, plain)


def test_all_rows_may_end_early(nano, recordings):
    end = nano[1].eos_id
    every = sample(nano, k=1, most=1)
    assert every.mask.sum() == 3
    ragged = ending_with(nano, int(every.tokens[0, 0]))
    try:
        assert_same(sample(ragged, k=1, most=1), sample(ragged, k=1, most=1, cuda_graph=False))
    finally:
        nano[1].eos_id = end


def test_a_step_reads_no_value_and_is_the_same_operations_every_time(nano, recordings):
    sample(nano, most=3)
    sample(nano, most=40)
    first, second = recordings.made
    assert not first.reads()
    assert not second.reads()
    assert [func for func, *_ in first.calls] == [func for func, *_ in second.calls]


def test_an_adapted_policy_samples_with_its_adapter(recordings):
    model, processor = built("qwen2_5_vl")
    model = adapt(model, Lora(r=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted = sample((model, processor))
    assert_same(adapted, sample((model, processor), cuda_graph=False))
    with model.disable_adapter():
        assert sample((model, processor)).texts != adapted.texts


@pytest.mark.parametrize("kind", ["weights", "autocast"])
def test_bfloat16_samples_what_it_samples_one_by_one(kind, recordings):
    model, processor = built("qwen2_5_vl")
    model = model.bfloat16() if kind == "weights" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        replayed, plain = sample((model, processor)), sample((model, processor), cuda_graph=False)
    # Sums of other lengths are rounded otherwise, so that now and then another token is drawn.
    same = (replayed.tokens == plain.tokens).float().mean()
    assert same > 0.8
    first = replayed.logprobs[:, 0] - plain.logprobs[:, 0]
    assert first.abs().max() == 0


def test_what_cannot_be_captured_is_sampled_one_by_one_and_said(nano, recordings, monkeypatch):
    def refused(model, step):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")

    monkeypatch.setattr(graphs, "cuda_graph", refused)
    with pytest.warns(
        UserWarning, match=r"cannot be captured as a CUDA graph \(operation not permitted .* capturing\)"
    ):
        slower = sample(nano)
    assert_same(slower, sample(nano, cuda_graph=False))


def test_models_on_a_cpu_are_not_captured(nano):
    assert not can_be_captured(nano[0])


class Card:
    """A GPU of which only the calls that capture a graph are there; arguments are checked against torch's own."""

    def __init__(self, monkeypatch):
        self.said = []
        begin = inspect.signature(torch.cuda.CUDAGraph.capture_begin)
        card = self

        class Graph:
            def capture_begin(self, **options):
                card.said.append(("begin", begin.bind(self, **options).arguments["pool"]))

            def capture_end(self):
                card.said.append("end")

            def pool(self):
                return self

            def replay(self):
                card.said.append("replay")

        class Stream:
            def __init__(self, device):
                card.said.append("stream")

            def wait_stream(self, other):
                card.said.append("wait")

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", nullcontext)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)


def test_a_graph_is_given_the_memory_of_the_one_before(monkeypatch):
    card, model = Card(monkeypatch), torch.nn.Linear(1, 1)
    replay = cuda_graph(model, lambda: card.said.append("step"))
    assert card.said == ["stream", "wait", ("begin", None), "step", "end"]
    replay()
    cuda_graph(model, lambda: None)
    assert card.said[5:] == ["replay", "wait", ("begin", replay.__self__), "end"]


def test_a_capture_that_fails_is_ended_and_not_kept(monkeypatch):
    card, model = Card(monkeypatch), torch.nn.Linear(1, 1)

    def refused():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cuda_graph(model, refused)
    assert card.said[-1] == "end"
    cuda_graph(model, lambda: None)
    assert card.said[-2:] == [("begin", None), "end"]
