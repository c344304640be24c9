"""FSDP2 over two real processes, against one process with the whole model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from redaes.errors import UserError
from redaes.models.forward import answer_logprobs, image_features
from redaes.models.sharding import clip_gradients, full_state, gathered, open_sharded
from redaes.models.vlm import Backbone, Lora, export, open_model
from redaes.prompts import render
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout

PROCESSES = Path(__file__).with_name("sharded_processes.py")


@pytest.fixture(scope="module")
def inputs(nano, tmp_path_factory):
    """A checkpoint, and a batch of two samples of different length."""
    folder = tmp_path_factory.mktemp("sharded")
    model, processor = nano
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 255, (90, 130, 3), dtype=np.uint8)) for _ in range(2)]
    question = render("score")
    batch = processor.batch([[p] for p in photos], [question] * 2, ["<answer>6.4</answer>", "<answer>10</answer>"])
    prompts = processor.batch([[photos[0]]], [question])
    return export(model, processor, folder / "model"), batch, prompts, folder


@pytest.fixture(scope="module", params=["full", "lora"])
def ran(request, inputs):
    """What two processes found, beside what one finds with the same weights."""
    checkpoint, batch, prompts, parent = inputs
    folder = parent / request.param
    folder.mkdir()
    torch.save(batch, folder / "batch.pt")
    torch.save(prompts, folder / "prompts.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROCESSES)]
    done = subprocess.run(
        [*command, str(checkpoint), str(folder), request.param],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    lora = Lora(r=4, alpha=8) if request.param == "lora" else None
    torch.manual_seed(0)
    model, processor = open_model(Backbone(str(checkpoint), freeze_vision=lora is not None, lora=lora))
    return [torch.load(folder / f"rank{n}.pt", weights_only=False) for n in range(2)], model, processor, batch, prompts


@pytest.mark.slow
def test_two_processes_in_pieces_do_what_one_does(ran):
    ranks, model, processor, batch, prompts = ran
    everything = sum(p.numel() for p in model.parameters())
    assert all(0.45 * everything < found["local"] < 0.6 * everything for found in ranks)
    with torch.no_grad():
        logprobs, features = answer_logprobs(model.eval(), batch)[0], image_features(model, batch).pooler_output[0]
    for rank, found in enumerate(ranks):
        torch.testing.assert_close(found["logprobs"], logprobs)
        torch.testing.assert_close(found["features"], features)
        sampling = Sampling(k=2, temperature=1.0, max_new_tokens=3 + 9 * rank)
        assert found["completions"].equal(InProcessRollout()(model, processor, prompts, sampling, [7]).tokens)
        assert found["completions"].shape[1] == 3 + 9 * rank
        assert found["sharded_again"]
        assert found["hooks_inside"] == 0 < found["hooks_after"]

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        for row in range(2):
            logps, _, mask = answer_logprobs(model.train(), batch.rows(torch.tensor([row])))
            (-(logps * mask).sum() / mask.sum() / 2).backward()
        norm = clip_gradients(trained, 0.5)
        optimizer.step()
    for found in ranks:
        torch.testing.assert_close(found["grad_norm"], norm, rtol=1e-4, atol=1e-6)
    assert not ranks[1]["state"]
    state = full_state(model.get_base_model() if hasattr(model, "get_base_model") else model)
    assert ranks[0]["state"].keys() == state.keys()
    for name, weight in state.items():
        torch.testing.assert_close(ranks[0]["state"][name], weight, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(ranks[0]["after"], answer_logprobs(model.eval(), batch)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ranks[1]["exported"], ranks[0]["after"], rtol=1e-4, atol=1e-4)


def test_a_whole_model_is_left_as_it_is(nano):
    model, _ = nano
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    with gathered(model):
        assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before


def test_quantised_weights_are_not_cut():
    backbone = Backbone(quantization="4bit", lora=Lora())
    with pytest.raises(UserError, match="does not work with strategy fsdp2: a quantised model is small"):
        open_sharded(backbone, None, torch.device("cpu"), bf16=False)
