"""Stage 3 learns by the server as it does in process, and the correction finds nothing to correct."""

import copy
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer
from nano_vllm import NanoServer

from redaes.data.modules import GroupData
from redaes.engine.build import build
from redaes.engine.config import EngineConfig
from redaes.engine.runners import SerialRunner
from redaes.models.nano import build_nano
from redaes.models.vlm import Backbone, export, open_model
from redaes.rollout.in_process import InProcessRollout
from redaes.training.base import Optimisation
from redaes.training.grpo import GRPO
from redaes.training.objectives import truncated_importance_weights
from redaes_vllm.exchange import engine_seed
from redaes_vllm.server import ServerRollout
from reference import engine_logprobs

SMALL = {
    "source": {"class_path": "skimage", "init_args": {"names": ["astronaut", "chelsea"]}},
    "split": {"validation": ["chelsea"]},
    "sources": {"train": 6, "validation": 0, "test": 0},
    "editors": ["procedural/tone", "procedural/colour", "procedural/detail"],
    "verifiers": ["pixel/success"],
    "judges": ["pixel/detail", "pixel/tone", "pixel/colour"],
    "groups": {"train": 2, "instructions": 8, "min_variants": 2},
    "calibration": 2,
}
STEPS = 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "data"
    build(EngineConfig.model_validate(SMALL), root, SerialRunner())
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model, processor = build_nano(["Detail is crisper."], hidden=64, layers=2, vision=64)
    return str(export(model, processor, tmp_path_factory.mktemp("model") / "model"))


class Watched:
    """A rollout whose completions, and the policy they came from, are kept."""

    def __init__(self, rollout):
        self.rollout = rollout
        self.seen = []

    def __call__(self, model, processor, prompts, sampling, seeds=None, features=None):
        seeds = [engine_seed(seed) for seed in seeds]
        # Both engines are treated as another one's, so that the trainer computes the same from the same tokens.
        out = replace(self.rollout(model, processor, prompts, sampling, seeds), exact=False)
        self.seen.append(((copy.deepcopy(model).eval(), processor), prompts, out))
        return out


def trained(dataset, checkpoint, root, rollout):
    module = GRPO(
        Backbone(checkpoint),
        reward="reference.Brevity",
        optimisation=Optimisation(lr=3e-3, schedule="constant", warmup=0.0),
        k=4,
        max_new_tokens=8,
        # Weights that are 1 but for the last bits of a log-probability would be blown up by AdamW.
        sampling_correction="none",
    )
    module.rollout = rollout
    trainer = Trainer(
        default_root_dir=root,
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, GroupData(str(dataset)))
    return module


@pytest.fixture(scope="module")
def by_server(dataset, checkpoint, tmp_path_factory):
    """The trained module, and what its rollouts were."""
    with NanoServer(*open_model(Backbone(checkpoint))) as server:
        watched = Watched(ServerRollout(server.url))
        module = trained(dataset, checkpoint, tmp_path_factory.mktemp("run"), watched)
        assert server.engine.reloads == STEPS
    return module, watched.seen


def mismatch(policy, prompts, out):
    logprobs = engine_logprobs(policy, prompts, out, temperature=1.0)
    return truncated_importance_weights(logprobs, out.logprobs, out.mask)


def test_stage_3_by_the_server_ends_with_the_weights_of_stage_3_in_process(by_server, dataset, checkpoint, tmp_path):
    ours = by_server[0].model.parameters()
    theirs = trained(dataset, checkpoint, tmp_path, Watched(InProcessRollout())).model.parameters()
    start = open_model(Backbone(checkpoint))[0].parameters()
    moved = 0
    for a, b, c in zip(ours, theirs, start, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        moved += not torch.equal(a, c)
    assert moved > 10


def test_an_engine_with_the_trainers_weights_has_nothing_to_correct(by_server):
    for policy, prompts, out in by_server[1]:
        weights, metrics = mismatch(policy, prompts, out)
        assert float(metrics["sampling_logp_difference_max"]) < 1e-5
        torch.testing.assert_close(weights, torch.ones_like(weights), atol=1e-5, rtol=0)


def test_an_engine_left_with_old_weights_would_be_seen(by_server):
    (_, prompts, out), (newer, *_) = by_server[1]
    weights, metrics = mismatch(newer, prompts, out)
    assert float(metrics["sampling_logp_difference_max"]) > 1e-2
    assert float((weights - 1).abs().max()) > 1e-2
