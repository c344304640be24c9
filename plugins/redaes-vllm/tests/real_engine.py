"""vLLM itself, in a process of its own: as a server, and in the process that trains; and what they are asked."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image
from stage3 import Watched, trained

from redaes.models.forward import branch_logprobs
from redaes.models.vlm import Backbone, open_model
from redaes.prompts import render
from redaes.rollout import Sampling
from redaes_vllm.colocated import ColocatedRollout
from redaes_vllm.server import ServerRollout
from reference import engine_logprobs, in_process, train_a_step

SEEDS = [11, 2**64 - 5, 0, 7]
GREEDY = Sampling(k=2, temperature=0.0, max_new_tokens=12)
DRAWN = Sampling(k=4, temperature=0.8, max_new_tokens=10)
STARTS_WITHIN = 300.0
# The engine computes in float32, as the trainer does, and takes a GiB for keys and values on a CPU.
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
ENGINE = {"dtype": "float32", "enforce_eager": True}


@contextmanager
def serving(checkpoint, log):
    """The address of a vLLM server of a checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs; that command itself asks for a package of the very name vllm, which builds for CPUs lack.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint]
    command += ["--host", "127.0.0.1", "--port", str(port), "--logprobs-mode", "processed_logprobs"]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--gpu-memory-utilization", "0.2"]
    with Path(log).open("w") as output:
        # A group of its own: the server starts further processes.
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"},
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(server, url, log)
            yield url
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def _wait(server, url, log):
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until:
        assert server.poll() is None, Path(log).read_text()[-3000:]
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise TimeoutError(f"no server after {STARTS_WITHIN:g} s: {Path(log).read_text()[-3000:]}")


def photographs(processor):
    """Four prompts, the last of which is about two images."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(5)]
    questions = [render("score"), render("predict_edit", "Blur it."), "Score?", render("compare")]
    return processor.batch([[images[0]], [images[1]], [images[2]], images[3:]], questions)


def asked(rollout, checkpoint):
    """What a rollout gives and what it should: greedy and drawn, before and after a step of training."""
    nano = open_model(Backbone(checkpoint, freeze_vision=False))
    model, processor = nano
    model.eval()
    prompts, found = photographs(processor), {}
    for name in ("before", "after"):
        out = rollout(*nano, prompts, GREEDY, SEEDS)
        found[name] = out, in_process(nano, prompts, GREEDY, SEEDS)
        train_a_step(model)
    drawn = rollout(*nano, prompts, DRAWN, SEEDS)
    found["drawn"] = drawn, replace(drawn, logprobs=engine_logprobs(nano, prompts, drawn, DRAWN.temperature))
    found["again"] = rollout(*nano, prompts, DRAWN, SEEDS)
    found["other"] = rollout(*nano, prompts, DRAWN, [seed + 100 for seed in SEEDS])
    found["shifted"] = rollout(*nano, prompts, replace(DRAWN, k=1), [seed + 3 for seed in SEEDS])
    # Tied to the head: every other hidden state makes these nearly certain.
    tempting = [processor.image_token_id, processor.tokenizer.convert_tokens_to_ids("</answer>")]
    model.load_state_dict(open_model(Backbone(checkpoint, freeze_vision=False))[0].state_dict())
    with torch.no_grad():
        model.get_input_embeddings().weight[tempting] *= 50
    found["tempted"] = rollout(*nano, prompts, DRAWN, SEEDS)
    found["ids"] = tempting
    return found


def learned(rollout, dataset, checkpoint, root):
    """For each step of a stage 3 the engine's log-probabilities, the trainer's, and those the engine should give."""
    watched = Watched(rollout)
    module = trained(dataset, checkpoint, root, watched, correction="token_truncate")
    rows = []
    for (policy, processor), prompts, out in watched.seen:
        with torch.no_grad():
            ours, _ = branch_logprobs(policy, prompts, out.tokens, out.mask)
        rows.append((out.mask, out.logprobs, ours, engine_logprobs((policy, processor), prompts, out, 1.0)))
    start = open_model(Backbone(checkpoint))[0].parameters()
    moved = sum(not torch.equal(a, b) for a, b in zip(module.model.parameters(), start, strict=True))
    return {"rows": rows, "moved": moved, "metrics": {k: float(v) for k, v in module.trainer.callback_metrics.items()}}


def by_server(url, checkpoint, dataset, root):
    """Both of the above by a server."""
    return asked(ServerRollout(url), checkpoint), learned(ServerRollout(url), dataset, checkpoint, root)


def colocated(_, checkpoint, dataset, root):
    """Both by an engine in this process, which is left in a file."""
    rollout = ColocatedRollout(0.2, 2048, sleep=torch.cuda.is_available(), engine=ENGINE)
    torch.save((asked(rollout, checkpoint), learned(rollout, dataset, checkpoint, root)), f"{root}/found.pt")
