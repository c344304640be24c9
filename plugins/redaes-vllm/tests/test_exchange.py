"""What is asked, and what becomes of answers."""

import math
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from redaes.errors import UserError
from redaes.registry import create
from redaes.rollout import Sampling
from redaes_vllm.exchange import Answer, answers_of_engine, completions, engine_seed, sampling_parameters


class TestQuestions:
    @given(seed=st.integers(0, 2**70), k=st.integers(1, 64))
    def test_any_seed_fits_vllms_with_room_for_every_row(self, seed, k):
        assert 0 <= engine_seed(seed) <= engine_seed(seed) + k < 2**63

    def test_different_seeds_of_a_run_stay_different(self):
        assert len({engine_seed(seed) for seed in range(1000)}) == 1000

    def test_no_seed_is_asked_for_as_none(self):
        assert sampling_parameters(Sampling(), [1], 2, None)["seed"] is None

    def test_temperature_and_length_are_as_asked(self):
        asked = sampling_parameters(Sampling(k=6, temperature=0.7, max_new_tokens=33), [5, 9], 2, 1)
        assert (asked["n"], asked["temperature"], asked["max_tokens"]) == (6, 0.7, 33)
        assert asked["logit_bias"] == {5: -100.0, 9: -100.0}


def _output(*completions):
    return SimpleNamespace(
        outputs=[
            SimpleNamespace(
                index=i,
                token_ids=tokens,
                finish_reason=reason,
                logprobs=[{t: SimpleNamespace(logprob=-float(t)), 0: SimpleNamespace(logprob=-0.1)} for t in tokens],
            )
            for i, (tokens, reason) in enumerate(completions)
        ]
    )


class TestAnswers:
    def test_the_sampled_token_s_logprob_is_taken_and_not_the_likeliest_s(self):
        (answer,) = answers_of_engine(_output(([3, 7], "stop")))
        assert answer == Answer([3, 7], [-3.0, -7.0], finished=True)

    def test_a_completion_that_was_aborted_is_refused(self):
        with pytest.raises(UserError, match="ended a completion with 'abort'"):
            answers_of_engine(_output(([3], "abort")))

    def test_rows_are_padded_on_the_right_and_cut_ones_flagged(self, nano):
        _, processor = nano
        answers = [[Answer([5, 6, 7], [-1.0, -2.0, -3.0], finished=False), Answer([8], [math.nan], finished=True)]]
        out = completions(answers, Sampling(k=2), processor, torch.device("cpu"))
        assert out.tokens.tolist() == [[5, 6, 7], [8, processor.pad_id, processor.pad_id]]
        assert out.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
        assert out.logprobs[0].tolist() == [-1, -2, -3]
        assert out.logprobs[1].isnan().tolist() == [True, False, False]
        assert out.truncated.tolist() == [True, False]
        assert len(out.texts) == 2

    def test_too_few_completions_are_refused(self, nano):
        with pytest.raises(UserError, match="gave 1 completions of a prompt; 2 were asked for"):
            completions([[Answer([5], [-1.0], True)]], Sampling(k=2), nano[1], torch.device("cpu"))


@pytest.mark.parametrize("name", ["vllm", "vllm_server"])
def test_both_rollouts_are_declared_and_made_with_settings(name):
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    class_path = declared["project"]["entry-points"]["redaes.rollouts"][name].replace(":", ".")
    assert create("rollouts", class_path)
    setting = {"vllm": "gpu_memory_utilization", "vllm_server": "timeout"}[name]
    assert getattr(create("rollouts", {"class_path": class_path, "init_args": {setting: 0.5}}), setting) == 0.5
    with pytest.raises(UserError, match="no setting"):
        create("rollouts", {"class_path": class_path, "init_args": {"colour": 1}})
