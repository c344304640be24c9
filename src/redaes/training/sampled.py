"""A rollout on its way to the optimiser: cut by images into mini-batches, and these into parts that fit into memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redaes.models.features import join_features, split_features
from redaes.models.processor import VisionTextBatch


@dataclass
class Sampled:
    """What optimiser steps need of a rollout: N images with one prompt each, K completions of at most T tokens each.

    Attributes:
        prompts: N prompts.
        features: of their images; None while the tower is trained.
        tokens: (N*K, T).
        mask: (N*K, T), 1 on completion tokens.
        learned: (N*K, T), 1 on those that enter the loss.
        counted: (N*K,) bool, whether an output counts where the loss is a mean over outputs.
        advantages: (N, K).
        old: (N*K, T) log-probabilities of the policy that sampled; None if it is the policy that takes the step.
        reference: (N*K, T) log-probabilities of the reference; None without a penalty.
        weights: (N*K, T) or (N*K, 1) for another engine's sampling; None without.
    """

    prompts: VisionTextBatch
    features: Any
    tokens: Tensor
    mask: Tensor
    learned: Tensor
    counted: Tensor
    advantages: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    weights: Tensor | None = None

    def of(self, images: Tensor) -> "Sampled":
        """The same of some of the images."""
        if len(images) == len(self.advantages):
            return self
        images = images.to(self.tokens.device)
        k = self.advantages.shape[1]
        rows = (images[:, None] * k + torch.arange(k, device=images.device)).flatten()

        def taken(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows]

        return Sampled(
            prompts=self.prompts.rows(images),
            features=features_of(self.features, images),
            tokens=self.tokens[rows],
            mask=self.mask[rows],
            learned=self.learned[rows],
            counted=self.counted[rows],
            advantages=self.advantages[images],
            old=taken(self.old),
            reference=taken(self.reference),
            weights=taken(self.weights),
        )


def features_of(features: Any, images: Tensor) -> Any:
    """Image features of some of the images of a batch."""
    if features is None:
        return None
    parts = split_features(features)
    return join_features([parts[i] for i in images.tolist()])


def split(images: int, count: int) -> Iterator[Tensor]:
    """The numbers of some images in parts of nearly equal size."""
    yield from torch.arange(images).tensor_split(count)
