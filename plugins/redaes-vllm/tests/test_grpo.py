"""Stage 3 learns by the server as it does in process, and the correction finds nothing to correct."""

import pytest
import torch
from nano_vllm import NanoServer
from stage3 import STEPS, Watched, trained, write_checkpoint, write_dataset

from redaes.models.vlm import Backbone, open_model
from redaes.rollout.in_process import InProcessRollout
from redaes.training.objectives import truncated_importance_weights
from redaes_vllm.server import ServerRollout
from reference import engine_logprobs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model")


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


# Without a correction: weights that are 1 but for the last bits of a log-probability would be blown up by AdamW.
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
