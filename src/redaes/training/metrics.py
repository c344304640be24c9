"""Agreement with the truth during training, as torchmetrics: for curves, without the evaluation's intervals.

Every number is computed in double precision by the statistics of `redaes.agreement`, so it is the one that `redaes
evaluate` would print (and scipy's, where scipy has it). The states are lists of every image seen; several processes
gather them, so that a correlation is over all images and no mean of correlations.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from redaes.agreement.weighting import (
    Statistic,
    pairwise_statistic,
    weighted_krcc,
    weighted_plcc,
    weighted_srcc,
    within_srcc_statistic,
)


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

    def update(
        self, predictions: Tensor, truths: Tensor, differences: Tensor | None = None, sets: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            predictions: (N,) scores, NaN where an answer could not be parsed.
            truths: (N,) true scores.
            differences: (N,) g, which orders images inside a group; None: the truths.
            sets: (N,) long, the same number for images of one group, in whatever batch and process; None: one group.
        """
        self.predictions.append(predictions)
        self.truths.append(truths)
        self.differences.append(truths if differences is None else differences)
        self.sets.append(torch.zeros_like(truths, dtype=torch.long) if sets is None else sets)

    def _gathered(self, name: str) -> Any:
        state = getattr(self, name)  # one tensor after a distributed reduction, a list before
        return (torch.cat(list(state)) if isinstance(state, list) else state).cpu().numpy()

    def _parsed(self, *names: str) -> list[Any]:
        """These states, of the images whose answer could be parsed."""
        parsed = ~np.isnan(self._gathered("predictions"))
        return [self._gathered(name)[parsed] for name in names]

    def _value(self, statistic: Statistic, *states: str) -> Tensor:
        prediction, truth = (values.astype(np.float64) for values in self._parsed(*states))
        return torch.tensor(statistic(prediction, truth)(np.ones((1, len(truth))))[0], dtype=torch.float32).to(
            self.device
        )


class Plcc(_OverScores):
    """Pearson's correlation with the absolute truths over all images."""

    def compute(self) -> Tensor:
        """A scalar in [-1, 1]; NaN if predictions or truths are constant, or fewer than two."""
        return self._value(weighted_plcc, "predictions", "truths")


class Srcc(_OverScores):
    """Spearman's correlation with the absolute truths over all images, average ranks on ties."""

    def compute(self) -> Tensor:
        """As of `Plcc`."""
        return self._value(weighted_srcc, "predictions", "truths")


class Krcc(_OverScores):
    """Kendall's tau-b with the absolute truths over all images."""

    def compute(self) -> Tensor:
        """As of `Plcc`."""
        return self._value(weighted_krcc, "predictions", "truths")


class WithinSrcc(_OverScores):
    """Mean over groups of three parsed images or more of Spearman's correlation with g; 0 in one predicted constant."""

    def compute(self) -> Tensor:
        """A scalar in [-1, 1]; NaN without a group that counts."""
        (sets,) = self._parsed("sets")
        return self._value(within_srcc_statistic(sets), "predictions", "differences")


class PairwiseAccuracy(_OverScores):
    """The share of pairs of one group and different g that are ordered rightly; a predicted tie is half right."""

    def compute(self) -> Tensor:
        """A scalar in [0, 1]; NaN without a pair of different g."""
        (sets,) = self._parsed("sets")
        return self._value(pairwise_statistic(sets), "predictions", "differences")


class ParseFailureRate(_OverScores):
    """Share of answers in which the parser finds no score."""

    def compute(self) -> Tensor:
        """A scalar in [0, 1]."""
        return torch.tensor(float(np.isnan(self._gathered("predictions")).mean()), device=self.device)


def ranking_metrics(prefix: str) -> MetricCollection:
    """Correlations over all images, order inside groups, and the parse-failure rate; the states are held once."""
    metrics = {
        "srcc": Srcc(),
        "plcc": Plcc(),
        "krcc": Krcc(),
        "srcc_within": WithinSrcc(),
        "pairwise_accuracy": PairwiseAccuracy(),
        "parse_failure_rate": ParseFailureRate(),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=[list(metrics)])
