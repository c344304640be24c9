"""A short stage 3 on a small dataset, whose rollouts are looked at."""

import copy
from dataclasses import replace

from lightning.pytorch import Trainer

from redaes.data.modules import GroupData
from redaes.engine.build import build
from redaes.engine.config import EngineConfig
from redaes.engine.runners import SerialRunner
from redaes.models.nano import build_nano
from redaes.models.vlm import Backbone, export
from redaes.training.base import Optimisation
from redaes.training.grpo import GRPO
from redaes_vllm.exchange import engine_seed

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


def write_dataset(root):
    """Two groups of images."""
    build(EngineConfig.model_validate(SMALL), root, SerialRunner())
    return root


def write_checkpoint(root):
    """A nano model that has learnt nothing."""
    model, processor = build_nano(["Detail is crisper."], hidden=64, layers=2, vision=64)
    return str(export(model, processor, root))


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


def trained(dataset, checkpoint, root, rollout, correction="none"):
    """A module after `STEPS` steps of stage 3."""
    module = GRPO(
        Backbone(checkpoint),
        reward="reference.Brevity",
        optimisation=Optimisation(lr=3e-3, schedule="constant", warmup=0.0),
        k=4,
        max_new_tokens=8,
        sampling_correction=correction,
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
