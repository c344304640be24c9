"""What training processes do; a module of its own, for a new process must be able to import it by name."""

import torch
from PIL import Image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from redaes.errors import UserError
from redaes.models.adapters import adapt
from redaes.models.nano import build_nano
from redaes.models.vlm import Lora, bare
from redaes.prompts import render
from redaes_vllm.server import ServerRollout
from redaes_vllm.weights import checkpoint_weights, fingerprint
from reference import SAMPLING, SEEDS

PROCESSES = 2


def policy(adapted=False):
    model, processor = build_nano(["Sharp detail."], "qwen3_vl", seed=1, hidden=64, layers=2, vision=64)
    if adapted:
        torch.manual_seed(0)
        model = adapt(model, Lora(r=4))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    return model, processor


def prompt(processor, rank):
    return processor.batch([[Image.new("RGB", (64, 64), ("red", "green")[rank])]], [render("score")])


def work(rank, url, folder, sharded):
    """One process: samples, and again after its weights changed; what it got is left in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    if sharded:
        torch.save([shard_and_gather(rank, adapted) for adapted in (False, True)], f"{folder}/{rank}.pt")
    else:
        model, processor = policy()
        ask = ServerRollout(url, pause=0.01, attempts=2)
        try:
            out = [ask(model, processor, prompt(processor, rank), SAMPLING, [SEEDS[rank]])]
            with torch.no_grad():
                if rank == 1:  # as if only this process's share had changed
                    model.lm_head.weight.mul_(1.0001)
            out.append(ask(model, processor, prompt(processor, rank), SAMPLING, [SEEDS[rank]]))
        except UserError as error:
            out = str(error)
        torch.save(out, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def shard_and_gather(rank, adapted):
    """What a sharded model sends, and whether this process finds it unchanged once a share of rank 1 has changed."""
    model = policy(adapted)[0]
    for layer in bare(model).model.language_model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (PROCESSES,)))
    weights = {name: weight.clone() for name, weight in checkpoint_weights(model)}
    before = fingerprint(model)
    shares = [p.to_local() for p in model.parameters() if isinstance(p, DTensor)]
    assert shares
    with torch.no_grad():
        if rank == 1:
            shares[0].add_(1.0)
    return weights, fingerprint(model).equal(before)
