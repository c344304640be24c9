"""The colocated rollout on vLLM's Python API, with a real model in the place of its engine."""

import sys

import pytest
import torch
from nano_vllm import nano_vllm

from redaes.errors import UserError
from redaes.rollout import Rollout
from redaes_vllm.colocated import ColocatedRollout, engine_prompts
from reference import SAMPLING, SEEDS, assert_same, in_process, train_a_step


@pytest.fixture
def events(nano, monkeypatch):
    module, events = nano_vllm(*nano)
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    return events


def test_it_is_a_rollout():
    assert isinstance(ColocatedRollout(), Rollout)


@pytest.mark.parametrize("sleep", [True, False])
def test_tokens_and_logprobs_are_those_of_the_rollout_in_process_before_and_after_a_step(nano, prompts, events, sleep):
    rollout = ColocatedRollout(checkpoint="nano", sleep=sleep)
    assert_same(rollout(*nano, prompts, SAMPLING, SEEDS), in_process(nano, prompts))
    train_a_step(nano[0])
    assert_same(rollout(*nano, prompts, SAMPLING, SEEDS), in_process(nano, prompts))


def test_on_a_cpu_it_samples_as_well_once_it_need_not_sleep(nano, prompts, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", nano_vllm(*nano, device="cpu")[0])
    with pytest.raises(UserError, match="vLLM refuses the settings of the rollout: Sleep mode is not supported"):
        ColocatedRollout(checkpoint="nano")(*nano, prompts, SAMPLING, SEEDS)
    rollout = ColocatedRollout(checkpoint="nano", sleep=False)
    rollout(*nano, prompts, SAMPLING, SEEDS)
    train_a_step(nano[0])
    assert_same(rollout(*nano, prompts, SAMPLING, SEEDS), in_process(nano, prompts))


def test_memory_is_woken_for_weights_first_and_given_back_at_the_end(nano, prompts, events):
    rollout = ColocatedRollout(checkpoint="nano")
    for _ in range(2):
        rollout(*nano, prompts, SAMPLING, SEEDS)
    fresh = ["reload_weights", "reset_prefix_cache", "reset_encoder_cache"]
    assert events[1:6] == [*fresh, "generate", "sleep"]
    assert events[6:] == [("wake_up", "weights"), *fresh, ("wake_up", "kv_cache"), "generate", "sleep"]


def test_an_engine_that_does_not_sleep_is_sent_weights_only_when_they_changed(nano, prompts, events):
    rollout = ColocatedRollout(checkpoint="nano", sleep=False)
    for _ in range(2):
        rollout(*nano, prompts, SAMPLING, SEEDS)
    assert events.count("reload_weights") == 1
    train_a_step(nano[0])
    rollout(*nano, prompts, SAMPLING, SEEDS)
    assert events.count("reload_weights") == 2


def test_the_engine_is_opened_in_this_process_with_the_settings_asked_for(nano, prompts, events):
    rollout = ColocatedRollout(0.25, 512, checkpoint="some/checkpoint", engine={"enforce_eager": True})
    rollout(*nano, prompts, SAMPLING, SEEDS)
    assert events[0] == (
        "open",
        {
            "model": "some/checkpoint",
            "gpu_memory_utilization": 0.25,
            "max_model_len": 512,
            "enable_sleep_mode": True,
            "distributed_executor_backend": "external_launcher",
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "seed": 0,
            "enforce_eager": True,
        },
    )


def test_a_policy_that_came_from_no_checkpoint_needs_one_named(nano, prompts, events):
    with pytest.raises(UserError, match=r"name one as rollout\.checkpoint"):
        ColocatedRollout()(*nano, prompts, SAMPLING, SEEDS)


def test_a_prompt_has_one_placeholder_for_each_of_its_images(nano, prompts):
    _, processor = nano
    made = engine_prompts(processor, prompts)
    pixels, _ = processor.pixels([image for prompt in made for image in prompt["multi_modal_data"]["image"]])
    assert torch.equal(pixels, prompts.pixel_values)
    assert [p["prompt_token_ids"].count(processor.image_token_id) for p in made] == [1, 1, 1]


def test_without_vllm_the_package_to_install_is_named(nano, prompts, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'redaes-vllm\[vllm\]' on Linux with a GPU, or take the rollout"):
        ColocatedRollout()(*nano, prompts, SAMPLING, SEEDS)


def test_a_share_of_memory_out_of_range_is_refused():
    with pytest.raises(ValueError, match="gpu_memory_utilization is 40"):
        ColocatedRollout(gpu_memory_utilization=40)
