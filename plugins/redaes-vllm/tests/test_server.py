"""The server rollout against a server on loopback that speaks vLLM's protocol with a real model behind it."""

import socket
from pathlib import Path

import pytest
import torch
from nano_vllm import NanoServer

from redaes.errors import UserError
from redaes.models.forward import branch_logprobs
from redaes.rollout import Rollout, Sampling
from redaes.rollout.in_process import suppressed_tokens
from redaes_vllm.server import ServerRollout
from reference import SAMPLING, SEEDS, assert_same, engine_logprobs, in_process, train_a_step


@pytest.fixture
def server(nano):
    with NanoServer(*nano) as server:
        yield server


def rollout(server, **settings):
    return ServerRollout(server.url, **{"pause": 0.01, "attempts": 3, "timeout": 20.0, **settings})


def test_it_is_a_rollout():
    assert isinstance(ServerRollout(), Rollout)


def test_tokens_and_logprobs_are_those_of_the_rollout_in_process(nano, prompts, server):
    out = rollout(server)(*nano, prompts, SAMPLING, SEEDS)
    assert_same(out, in_process(nano, prompts))
    assert out.logprobs.dtype == torch.float32
    logps, _ = branch_logprobs(nano[0].eval(), prompts, out.tokens, out.mask, temperature=0.8)
    on = out.mask.bool()
    torch.testing.assert_close(logps[on], engine_logprobs(nano, prompts, out, 0.8, whole=True)[on], atol=1e-5, rtol=0)
    # The trainer's are lower by what vision tokens have of the whole: 4 of 400 tokens in a model that knows nothing.
    left_out = (out.logprobs - logps)[on]
    assert float(left_out.min()) > -1e-5
    assert float(left_out.max()) < 0.1


def test_a_prompt_s_completions_do_not_depend_on_the_others(nano, prompts, server):
    ask = rollout(server, concurrency=2)
    whole = ask(*nano, prompts, SAMPLING, SEEDS)
    alone = ask(*nano, prompts.rows(torch.tensor([1])), SAMPLING, SEEDS[1:2])
    assert alone.texts == whole.texts[4:8]


def test_other_seeds_give_other_completions_and_no_seeds_fresh_ones(nano, prompts, server):
    ask = rollout(server)
    first, other = (ask(*nano, prompts, SAMPLING, seeds).texts for seeds in (SEEDS, [1, 2, 3]))
    fresh, again = (ask(*nano, prompts, SAMPLING).texts for _ in range(2))
    assert len({tuple(texts) for texts in (first, other, fresh, again)}) == 4


def test_greedy_is_asked_once_and_given_k_times(nano, prompts, server):
    greedy = Sampling(k=3, temperature=0.0, max_new_tokens=6)
    assert_same(rollout(server)(*nano, prompts, greedy, SEEDS), in_process(nano, prompts, greedy))


def test_image_tokens_are_never_sampled_even_when_they_are_certain(nano, prompts, server):
    model, processor = nano
    with torch.no_grad():
        model.get_input_embeddings().weight[processor.image_token_id] *= 1000
    out = rollout(server)(model, processor, prompts, SAMPLING, SEEDS)
    assert not torch.isin(out.tokens, torch.tensor(suppressed_tokens(model))).any()


def test_a_training_step_changes_what_is_sampled(nano, prompts, server):
    ask = rollout(server)
    before = ask(*nano, prompts, SAMPLING, SEEDS)
    train_a_step(nano[0])
    after = ask(*nano, prompts, SAMPLING, SEEDS)
    assert after.texts != before.texts
    assert_same(after, in_process(nano, prompts))
    assert server.engine.reloads == 2


def test_a_head_tied_to_the_embedding_follows_it_on_a_cpu_too(nano, prompts):
    with NanoServer(*nano, device="cpu") as server:
        ask = rollout(server)
        ask(*nano, prompts, SAMPLING, SEEDS)
        train_a_step(nano[0])
        assert_same(ask(*nano, prompts, SAMPLING, SEEDS), in_process(nano, prompts))


def test_a_server_that_keeps_what_it_computed_by_old_weights_is_refused(nano, prompts, server):
    server.caches_are_free = False
    with pytest.raises(UserError, match="refused /reset_prefix_cache: something else is using it"):
        rollout(server)(*nano, prompts, SAMPLING, SEEDS)
    assert not server.paused


def test_weights_are_sent_once_for_as_long_as_they_stay_the_same(nano, prompts, server):
    ask = rollout(server)
    for _ in range(3):
        ask(*nano, prompts, SAMPLING, SEEDS)
    assert server.engine.reloads == 1


def test_generation_is_paused_and_caches_are_emptied_around_new_weights(nano, prompts, server):
    rollout(server)(*nano, prompts, SAMPLING, SEEDS)
    assert server.calls[2:7] == ["/pause", "/collective_rpc", "/reset_prefix_cache", "/reset_encoder_cache", "/resume"]


def test_weights_leave_nothing_behind_in_a_shared_folder(nano, prompts, server, tmp_path):
    ask = rollout(server, folder=str(tmp_path / "hand-over"), dtype="bfloat16")
    ask(*nano, prompts, SAMPLING, SEEDS)
    assert list((tmp_path / "hand-over").iterdir()) == []
    there, here = server.engine.model.parameters(), nano[0].parameters()
    assert all(torch.equal(a, b.bfloat16().float()) for a, b in zip(there, here, strict=True))


def test_two_runs_may_hand_over_in_one_folder_and_another_user_may_read_it(nano, prompts, server, tmp_path):
    modes = []
    reload = server.collective_rpc

    def watched(body):
        folder = Path(body["kwargs"]["weights_path"])
        modes.extend(path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir()))
        return reload(body)

    server.collective_rpc = watched
    for _ in range(2):
        rollout(server, folder=str(tmp_path))(*nano, prompts, SAMPLING, SEEDS)
    assert modes == [0o755, 0o644] * 2


def test_many_files_of_weights_are_as_good_as_one(nano, prompts, server, monkeypatch):
    monkeypatch.setattr("redaes_vllm.server.SHARD_BYTES", 50_000)
    train_a_step(nano[0])
    assert_same(rollout(server)(*nano, prompts, SAMPLING, SEEDS), in_process(nano, prompts))
    assert server.files > 3


@pytest.mark.parametrize("failure", [500, 503, 429, "disconnect", "hang"])
def test_a_passing_failure_is_survived(nano, prompts, server, failure):
    ask = rollout(server, timeout=2.5)  # shorter than the server hangs, longer than an answer takes on a busy machine
    expected = ask(*nano, prompts, SAMPLING, SEEDS)
    server.failures = [failure]
    assert_same(ask(*nano, prompts, SAMPLING, SEEDS), expected)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (500, r"failed at /v1/chat/completions: 500 CUDA out of memory \(3 attempts\)$"),
        ("disconnect", r"broke off at /v1/chat/completions \(RemoteProtocolError\): see its log \(3 attempts\)$"),
        ("hang", r"gave no answer to /v1/chat/completions within 0.3 s: raise rollout.timeout.* \(3 attempts\)$"),
        (400, r"refused /v1/chat/completions: 400 CUDA out of memory$"),
    ],
)
def test_a_lasting_failure_is_one_line(nano, prompts, server, failure, message):
    ask = rollout(server)
    one = prompts.rows(torch.tensor([0]))
    ask(*nano, one, SAMPLING, SEEDS[:1])
    ask._client = type(ask._client)(server.url, 0.3, 3, 0.01)
    server.failures = [failure] * 3
    with pytest.raises(UserError, match=message) as refused:
        ask(*nano, one, SAMPLING, SEEDS[:1])
    assert "\n" not in str(refused.value)


def test_a_missing_server_says_how_to_start_it(nano, prompts):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=rf"^no vLLM server answers at {url}: start one with `VLLM_SERVER_DEV_MODE=1 "):
        ServerRollout(url, attempts=2, pause=0.01)(*nano, prompts, SAMPLING, SEEDS)


def test_a_server_without_development_endpoints_says_how_to_start_it(nano, prompts, server):
    server.development = False
    with pytest.raises(UserError, match="has no /server_info, by which it takes weights: start one with"):
        rollout(server)(*nano, prompts, SAMPLING, SEEDS)


def test_a_server_that_tells_other_probabilities_than_it_samples_by_is_refused(nano, prompts):
    with (
        NanoServer(*nano, logprobs_mode="raw_logprobs") as server,
        pytest.raises(UserError, match="gives raw_logprobs, not the probabilities it samples by: start one with"),
    ):
        rollout(server)(*nano, prompts, SAMPLING, SEEDS)


def test_a_server_that_makes_other_tokens_of_a_prompt_is_refused(nano, prompts, server):
    server.change_answer = lambda answer: {**answer, "prompt_token_ids": answer["prompt_token_ids"][1:]}
    with pytest.raises(UserError, match=r"made \d+ tokens of a prompt of \d+: it must serve the checkpoint"):
        rollout(server)(*nano, prompts, SAMPLING, SEEDS)


def test_an_answer_without_logprobs_is_refused(nano, prompts, server):
    def bare(answer):
        return {**answer, "choices": [{**choice, "logprobs": None} for choice in answer["choices"]]}

    server.change_answer = bare
    with pytest.raises(UserError, match="it must give token ids and logprobs"):
        rollout(server)(*nano, prompts, SAMPLING, SEEDS)


def test_weights_that_the_server_refuses_end_the_run_and_are_sent_again_by_the_next(nano, prompts, server):
    ask = rollout(server)
    server.failures = [None, None, None, 400]
    with pytest.raises(UserError, match="refused /collective_rpc: 400"):
        ask(*nano, prompts, SAMPLING, SEEDS)
    assert not server.paused
    assert server.engine.reloads == 0
    assert_same(ask(*nano, prompts, SAMPLING, SEEDS), in_process(nano, prompts))


def test_a_folder_that_cannot_be_written_is_one_line(nano, prompts, server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write weights to .*file.*\(rollout.folder\)"):
        rollout(server, folder=str(tmp_path / "file"))(*nano, prompts, SAMPLING, SEEDS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attempts": 0}, "attempts is 0"),
        ({"timeout": 0.0}, r"timeout 0\.0"),
        ({"url": "localhost:8000"}, "url is 'localhost:8000'; it must be an address as http://localhost:8000"),
        ({"url": "http://"}, "url is 'http://'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ServerRollout(**settings)
