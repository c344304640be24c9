"""Both rollouts by vLLM itself, on models of the real classes with random weights; the README says where it was run."""

from importlib.util import find_spec

import pytest
import torch

from redaes.models.nano import build_nano
from redaes.models.vlm import export
from redaes.training.objectives import truncated_importance_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: see 'Without a GPU' in the README"),
]
# Of float32 by other kernels.
CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from stage3 import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def checkpoint(request, tmp_path_factory):
    model, processor = build_nano(["Sharp detail."], request.param, seed=1, hidden=64, layers=2, vision=64)
    return str(export(model, processor, tmp_path_factory.mktemp("model") / request.param))


@pytest.fixture(scope="module", params=["vllm_server", "vllm"])
def found(request, checkpoint, dataset, tmp_path_factory):
    import real_engine

    root = tmp_path_factory.mktemp("run")
    if request.param == "vllm_server":
        with real_engine.serving(checkpoint, root / "log") as url:
            return real_engine.by_server(url, checkpoint, dataset, root)
    torch.multiprocessing.spawn(real_engine.colocated, (checkpoint, dataset, root), nprocs=1)
    return torch.load(root / "found.pt", weights_only=False)


def assert_same(ours, theirs):
    assert ours.texts == theirs.texts
    for name in ("tokens", "mask", "truncated"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, **CLOSE)


def test_greedy_answers_are_those_of_the_rollout_in_process_before_and_after_a_step(found):
    rollouts, _ = found
    for name in ("before", "after"):
        assert_same(*rollouts[name])
    assert rollouts["before"][0].texts != rollouts["after"][0].texts


def test_logprobs_of_what_is_drawn_are_those_of_the_plain_forward_pass(found):
    assert_same(*found[0]["drawn"])


def test_a_seed_gives_its_completions_again_and_row_k_is_that_of_the_seed_plus_k(found):
    rollouts, _ = found
    drawn = rollouts["drawn"][0].texts
    assert rollouts["again"].texts == drawn
    assert rollouts["shifted"].texts == drawn[3::4]
    assert len(set(drawn)) > len(drawn) // 2
    assert not set(drawn) & set(rollouts["other"].texts)


def test_a_completion_ends_with_the_answer_and_image_tokens_are_never_sampled(found):
    rollouts, _ = found
    out, (image, end) = rollouts["tempted"], rollouts["ids"]
    assert not (out.tokens == image).any()
    ends = 0
    for tokens, mask, truncated, text in zip(out.tokens, out.mask.bool(), out.truncated, out.texts, strict=True):
        *before, last = tokens[mask].tolist()
        assert end not in before
        assert truncated == (last != end)
        assert text.endswith("</answer>") == (last == end)
        ends += last == end
    assert ends > len(out.texts) // 2


def test_stage_3_learns_by_it_and_the_engine_follows_the_policy(found):
    _, stage = found
    assert stage["moved"] > 10
    for mask, engine, ours, expected in stage["rows"]:
        torch.testing.assert_close(engine, expected, **CLOSE)
        weights, metrics = truncated_importance_weights(ours, engine, mask)
        # Vision tokens, which the engine leaves out, have 4 of 400 parts in a model that knows nothing.
        torch.testing.assert_close(weights, torch.ones_like(weights), atol=0.05, rtol=0)
        assert float(metrics["sampling_logp_difference_max"]) < 0.05
    assert stage["metrics"]["train/importance_sampling_ratio_mean"] == pytest.approx(1.0, abs=0.05)
