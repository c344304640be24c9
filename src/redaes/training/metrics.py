"""Ranking metrics for validation during training, as torchmetrics.

The evaluation (`redaes.evaluation`) has the same measures with confidence intervals; these are for curves.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional import spearman_corrcoef


class _OverScores(Metric):
    """Collects (prediction, truth, g, set) of every image; predictions are NaN where an answer could not be parsed."""

    full_state_update = False
    predictions: list[Tensor]
    truths: list[Tensor]
    differences: list[Tensor]
    sets: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("predictions", "truths", "differences", "sets"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, truths: Tensor, differences: Tensor, sets: Tensor) -> None:
        """Add a batch: all (N,); images of one group have the same number in `sets`, in whatever batch and process."""
        self.predictions.append(predictions)
        self.truths.append(truths)
        self.differences.append(differences)
        self.sets.append(sets)

    def _gathered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        predictions, truths, differences, sets = (
            # One tensor after a distributed reduction, a list before.
            torch.cat(list(s)) if isinstance(s, list) else s
            for s in (self.predictions, self.truths, self.differences, self.sets)
        )
        return predictions, truths, differences, sets


def _spearman(a: Tensor, b: Tensor) -> Tensor:
    if len(a) < 3 or a.unique().numel() < 2 or b.unique().numel() < 2:
        return torch.tensor(float("nan"), device=a.device)
    correlation: Tensor = spearman_corrcoef(a.float(), b.float())
    return correlation


class OverallSpearman(_OverScores):
    """Spearman's correlation of parsed predictions and absolute truths over all images; NaN if either is constant."""

    def compute(self) -> Tensor:
        """A scalar in [-1, 1] or NaN."""
        predictions, truths, _, _ = self._gathered()
        parsed = predictions.isfinite()
        return _spearman(predictions[parsed], truths[parsed])


class WithinGroupSpearman(_OverScores):
    """Mean over groups of Spearman's correlation with g; a group predicted constant counts 0."""

    def compute(self) -> Tensor:
        """A scalar in [-1, 1], NaN without a group of three parsed images."""
        predictions, _, differences, sets = self._gathered()
        parsed = predictions.isfinite()
        values = []
        for index in sets.unique():
            chosen = parsed & (sets == index)
            if int(chosen.sum()) >= 3 and differences[chosen].unique().numel() > 1:
                values.append(_spearman(predictions[chosen], differences[chosen]).nan_to_num(0.0))
        return torch.stack(values).mean() if values else torch.tensor(float("nan"))


class ParseFailureRate(_OverScores):
    """Share of answers in which the parser finds no score."""

    def compute(self) -> Tensor:
        """A scalar in [0, 1]."""
        predictions, *_ = self._gathered()
        return 1 - predictions.isfinite().float().mean()


def ranking_metrics(prefix: str) -> MetricCollection:
    """Overall and within-group Spearman and the parse-failure rate."""
    metrics = {
        "srcc": OverallSpearman(),
        "srcc_within": WithinGroupSpearman(),
        "parse_failure_rate": ParseFailureRate(),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
