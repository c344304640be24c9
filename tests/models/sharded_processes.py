"""What each of two processes does for tests/models/test_sharding.py (`torchrun` starts it), on CPUs over gloo.

Arguments: a checkpoint, a folder with `batch.pt` (prompts with answers) and `prompts.pt`, and `lora` or `full`.
Every process leaves what it found in `rank<n>.pt`.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from redaes.models.forward import answer_logprobs, image_features
from redaes.models.sharding import clip_gradients, full_state, gathered, open_sharded
from redaes.models.vlm import Backbone, Lora, bare, export, open_model
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout


def hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def main(checkpoint: str, folder: Path, kind: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(rank)  # what a process draws must not matter: the first one's adapter is everybody's
    lora = Lora(r=4, alpha=8) if kind == "lora" else None
    backbone = Backbone(checkpoint, freeze_vision=kind == "lora", lora=lora)
    model, processor = open_sharded(backbone, mesh, torch.device("cpu"), bf16=False)
    batch = torch.load(folder / "batch.pt", weights_only=False)
    prompts = torch.load(folder / "prompts.pt", weights_only=False)
    found = {"local": sum(p.to_local().numel() for p in model.parameters())}

    with torch.no_grad():
        found["logprobs"] = answer_logprobs(model.eval(), batch)[0]
        found["features"] = image_features(model, batch).pooler_output[0]
    # Different lengths on every process: without `gathered` they would wait for each other for ever.
    sampling = Sampling(k=2, temperature=1.0, max_new_tokens=3 + 9 * rank)
    with gathered(model):
        found["whole"] = bare(model).lm_head.weight.shape == bare(model).lm_head.weight.data.shape
        found["hooks_inside"] = hooks(model)
        found["completions"] = InProcessRollout()(model, processor, prompts, sampling, [7]).tokens
    found["hooks_after"] = hooks(model)
    found["sharded_again"] = all(hasattr(p, "to_local") for p in model.parameters())

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logps, _, mask = answer_logprobs(model.train(), batch.rows(torch.tensor([rank])))
        (-(logps * mask).sum() / mask.sum()).backward()
        norm = clip_gradients(list(model.parameters()), 0.5)
        optimizer.step()
    found["grad_norm"] = norm
    found["state"] = full_state(bare(model))
    export(model, processor, folder / "exported")
    dist.barrier()
    reopened, _ = open_model(Backbone(str(folder / "exported")))
    with torch.no_grad():
        found["after"] = answer_logprobs(model.eval(), batch)[0]
        found["exported"] = answer_logprobs(reopened.eval(), batch)[0]
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
