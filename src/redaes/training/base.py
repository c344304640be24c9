"""What the three stages share: a backbone, its processor, an optimiser and the validation of rankings."""

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MetricCollection

from redaes.data.modules import GroupBatch
from redaes.errors import UserError
from redaes.models.adapters import import_bitsandbytes
from redaes.models.features import FeatureCache, tower_is_trained
from redaes.models.processor import VisionTextBatch, VisionTextProcessor
from redaes.models.sharding import clip_gradients, gathered, open_sharded
from redaes.models.vlm import Backbone, open_model
from redaes.prompts import parse_answer
from redaes.rollout import Sampling
from redaes.rollout.in_process import InProcessRollout
from redaes.training.metrics import ranking_metrics
from redaes.training.precision import check_precision
from redaes.training.strategies import data_parallel_mesh


@dataclass
class Optimisation:
    """AdamW and its schedule.

    Attributes:
        lr: peak learning rate (stages 1 and 2: 1e-5 in the paper; stage 3: 1e-6, ours).
        weight_decay: 0.01 in the paper.
        betas: AdamW's averaging coefficients; ours, the paper's values were lost.
        warmup: share of all steps in [0, 1] over which the rate rises linearly; ours.
        schedule: what follows the warm-up; ours.
        clip_grad_norm: largest gradient norm; 0 switches clipping off.
        optimizer: AdamW in float32 (8 bytes of state per trained parameter), or bitsandbytes' with states of 8 bits
            (2 bytes; arXiv 2110.02861), each also paged: states move to host memory where the card runs out.
    """

    lr: float = 1e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.03
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    clip_grad_norm: float = 1.0
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"


BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW", "paged_adamw_8bit": "PagedAdamW8bit"}


def make_optimizer(settings: Optimisation, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over some parameters; weight decay is on all of them, as in the paper.

    Raises:
        UserError: no parameter is left to train, or bitsandbytes is not installed.
    """
    if not parameters:
        raise UserError("nothing to train: every weight is frozen; set backbone.freeze_vision=false or backbone.lora")
    options: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        # One kernel for all parameters where they lie on a GPU.
        return torch.optim.AdamW(parameters, fused=True if parameters[0].is_cuda else None, **options)
    library = import_bitsandbytes(f"optimisation.optimizer={settings.optimizer}")
    optimizer: torch.optim.Optimizer = getattr(library.optim, BITSANDBYTES[settings.optimizer])(parameters, **options)
    return optimizer


class VisionLanguageModule(LightningModule):
    """A trainable vision-language model.

    The weights are opened in `configure_model`, that is, once the strategy is known.

    Args:
        backbone: which model and how it is used.
        optimisation: optimiser and schedule.
        max_new_tokens: of the greedy answers in validation.
    """

    processor: VisionTextProcessor
    model: Any

    def __init__(self, backbone: Backbone, optimisation: Optimisation, max_new_tokens: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.optimisation = optimisation
        self.max_new_tokens = max_new_tokens
        self.model = None
        self.feature_cache = FeatureCache(backbone.features)
        self.ranking: MetricCollection = ranking_metrics("val/")

    def configure_model(self) -> None:
        """Open the backbone, once."""
        if self.model is None:
            if self._trainer is not None:
                check_precision(self.backbone, self.trainer.precision, masters=self._is_deepspeed)
            self.model, self.processor = self.open_backbone()
            self.model.train()

    def open_backbone(self) -> tuple[Any, VisionTextProcessor]:
        """Open the backbone as the strategy holds it: whole, or in pieces. All processes must call this."""
        if self.device_mesh is None:
            return open_model(self.backbone)
        device, mixed = self.trainer.strategy.root_device, self.trainer.precision == "bf16-mixed"
        return open_sharded(self.backbone, data_parallel_mesh(self.device_mesh), device, bf16=mixed)

    def configure_optimizers(self) -> Any:
        """AdamW over what is trainable, with warm-up and the chosen schedule, stepped per optimiser step."""
        from transformers import get_scheduler

        o = self.optimisation
        optimizer = make_optimizer(o, [p for p in self.parameters() if p.requires_grad])
        steps = self._planned_steps()
        name = "constant_with_warmup" if o.schedule == "constant" else o.schedule
        scheduler = get_scheduler(name, optimizer, round(o.warmup * steps), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on a batch, before accumulation."""
        return 1

    def _planned_steps(self) -> int:
        """Optimiser steps of the whole training, which Lightning takes to be one for each batch."""
        trainer = self.trainer
        batches = trainer.estimated_stepping_batches  # also makes the loaders
        if self.steps_per_batch > 1 and trainer.max_epochs is not None and trainer.max_epochs > 0:
            steps = trainer.num_training_batches * trainer.max_epochs * self.steps_per_batch
            return int(min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps)
        return int(batches)

    def gathered_weights(self) -> AbstractContextManager[None]:
        """A `with` for rollouts: weights in pieces are whole inside. All processes must enter it."""
        return gathered(self.model, getattr(self.trainer.strategy, "deepspeed_engine", None))

    @property
    def _is_deepspeed(self) -> bool:
        """DeepSpeed clips by itself, and trains float32 copies of the bfloat16 weights that the model holds."""
        return bool(getattr(self.trainer.strategy, "strategy_name", "") == "deepspeed")

    def clip_gradients_and_log(self) -> None:
        """Clip to the norm of `optimisation.clip_grad_norm`, and log the norm before."""
        if not self._is_deepspeed:
            trained = [p for p in self.parameters() if p.grad is not None]
            self.log("train/grad_norm", clip_gradients(trained, self.optimisation.clip_grad_norm))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are dataclasses with their own `to`."""
        return batch.to(device)

    def features(self, batch: VisionTextBatch) -> Any | None:
        """Image features of a batch, to be shared by all passes over it; None while the tower is trained."""
        if tower_is_trained(self.model):
            return None
        cache = self.feature_cache
        hits, misses = cache.hits, cache.misses
        features = cache.features(self.model, batch)
        asked = cache.hits + cache.misses - hits - misses
        if self.training and asked:
            self.log("train/feature_cache_hits", (cache.hits - hits) / asked, batch_size=1)
        return features

    def validate_groups(self, batch: GroupBatch) -> None:
        """Score whole groups greedily and add them to the ranking metrics."""
        sampling = Sampling(temperature=0.0, max_new_tokens=self.max_new_tokens)
        features = self.features(batch.prompts)
        with self.gathered_weights():
            completions = InProcessRollout()(self.model, self.processor, batch.prompts, sampling, features=features)
        numbers = [(m.g, m.truth) for m in batch.members]
        g, truths = torch.tensor(numbers, dtype=torch.float32, device=self.device).unbind(1)
        scores = scores_of(completions.texts).to(self.device)
        sets = torch.tensor([_number(name) for name in batch.sets], device=self.device)
        readable = ~batch.unreadable
        self.ranking.update(scores[readable], truths[readable], g[readable], sets[readable])

    def log_ranking(self) -> None:
        """Log the ranking metrics of a whole validation epoch."""
        if self.ranking["srcc"].update_called:
            self.log_dict(self.ranking.compute(), prog_bar=True, sync_dist=True)
            self.ranking.reset()


def _number(name: str) -> int:
    """The same number for the same group on every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def scores_of(texts: list[str]) -> Tensor:
    """Parsed scores of completions, (len(texts),) float; NaN where the parser finds none."""
    parsed = [parse_answer(t) for t in texts]
    # By name: the default is bfloat16 in the steps of a trainer with `bf16-true`.
    return torch.tensor([float("nan") if p is None else p for p in parsed], dtype=torch.float32)
