"""Several training processes with one server: one of them sends the weights, whole, and all wait for it."""

from itertools import product

import pytest
import torch
from nano_vllm import NanoServer
from workers import PROCESSES, policy, prompt, work

from redaes_vllm.weights import checkpoint_weights
from reference import SEEDS, assert_same, in_process

pytestmark = pytest.mark.slow


def run(url, folder, sharded=False):
    torch.multiprocessing.spawn(work, (url, str(folder), sharded), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


def test_each_process_gets_its_own_completions_and_weights_are_sent_once_for_all(tmp_path):
    model, processor = policy()
    with NanoServer(model, processor) as server:
        found = run(server.url, tmp_path)
        assert server.calls.count("/collective_rpc") == 2
    for rank, (first, _) in enumerate(found):
        assert_same(first, in_process((model, processor), prompt(processor, rank), seeds=[SEEDS[rank]]))


def test_weights_that_the_server_refuses_end_every_process(tmp_path):
    model, processor = policy()
    with NanoServer(model, processor) as server:
        server.reset_prefix_cache = lambda _: 1 / 0
        first, second = run(server.url, tmp_path)
    assert "refused /reset_prefix_cache: 418 ZeroDivisionError" in first
    assert second == "another process could not hand the weights to the vLLM server"


def test_sharded_weights_are_gathered_and_a_change_of_a_share_is_seen_where_it_is(tmp_path):
    processes = run("", tmp_path, sharded=True)
    for rank, adapted in product(range(PROCESSES), (False, True)):
        whole = dict(checkpoint_weights(policy(adapted)[0]))
        weights, unchanged = processes[rank][adapted]
        assert set(weights) == set(whole)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, whole[name], atol=1e-6, rtol=0)
        assert unchanged == (rank == 0)
