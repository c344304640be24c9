"""Training of NIMA on the votes of a benchmark, the aesthetic baseline of 2018 (Talebi & Milanfar, arXiv 1709.05424).

    loss = mean over photographs of ( 1/10 sum_k |P(k) - Q(k)|^2 )^(1/2)     P, Q: cumulative shares of the scores 1..10

As in the paper: ten bins, r = 2, dropout 0.75 before the head, a head that learns ten times as fast as the backbone,
random crop and flip. Ours: AdamW in place of momentum SGD, so that the defaults hold for other backbones; votes made
of a mean alone where a set tells no more (`redaes.data.votes`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from redaes.data.votes import VoteBatch
from redaes.models.nima import Nima, NimaConfig, moments
from redaes.training.objectives import emd_loss


@dataclass
class NimaOptimisation:
    """AdamW with two learning rates.

    Attributes:
        lr: of the head, > 0.
        backbone_lr: of the backbone, >= 0; 0 freezes it.
        weight_decay: of both.
    """

    lr: float = 1e-3
    backbone_lr: float = 1e-4
    weight_decay: float = 0.01


class NimaTraining(LightningModule):
    """NIMA under the earth mover's distance.

    Args:
        network: the backbone and how it is used.
        pretrained: begin with the backbone's published weights.
        optimisation: AdamW and its rates.
        export: folder of the trained model; None is `model/` in the trainer's root folder.
    """

    def __init__(
        self,
        network: NimaConfig = NimaConfig(),  # noqa: B008 (jsonargparse shows and copies the default)
        pretrained: bool = True,
        optimisation: NimaOptimisation = NimaOptimisation(),  # noqa: B008
        export: str | None = None,
    ) -> None:
        super().__init__()
        self.model = Nima(network, pretrained)
        self.optimisation = optimisation
        self.export = export
        self.srcc = SpearmanCorrCoef()
        self.plcc = PearsonCorrCoef()

    def training_step(self, batch: VoteBatch, batch_idx: int) -> Tensor:
        """The distance of the predicted from the given votes."""
        loss = emd_loss(self.model(batch.pixels).softmax(-1), batch.votes)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.votes))
        return loss

    def validation_step(self, batch: VoteBatch, batch_idx: int) -> None:
        """The same distance, and the means for the correlations."""
        logits = self.model(batch.pixels)
        loss = emd_loss(logits.softmax(-1), batch.votes)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.votes), sync_dist=True)
        mean, _ = moments(logits)
        self.srcc.update(mean, batch.means)
        self.plcc.update(mean, batch.means)

    def on_validation_epoch_end(self) -> None:
        """Correlations with the mean opinion scores of the whole validation part."""
        self.log("val/srcc", self.srcc.compute(), prog_bar=True)
        self.log("val/plcc", self.plcc.compute())
        self.srcc.reset()
        self.plcc.reset()

    def configure_optimizers(self) -> Any:
        """AdamW; a backbone whose rate is 0 is frozen."""
        o = self.optimisation
        groups = [{"params": list(self.model.head.parameters()), "lr": o.lr}]
        if o.backbone_lr > 0:
            groups.append({"params": list(self.model.backbone.parameters()), "lr": o.backbone_lr})
        else:
            self.model.backbone.requires_grad_(False)
        return torch.optim.AdamW(groups, weight_decay=o.weight_decay)

    def transfer_batch_to_device(self, batch: VoteBatch, device: torch.device, dataloader_idx: int) -> VoteBatch:
        """Batches are dataclasses with their own `to`."""
        return batch.to(device)

    def on_fit_end(self) -> None:
        """Write the trained model as `NimaScorer` opens it, unless training was interrupted."""
        if not self.trainer.interrupted and self.trainer.is_global_zero:
            self.model.save(self.export or Path(self.trainer.default_root_dir) / "model")
