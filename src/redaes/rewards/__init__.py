"""Rewards: how good each sampled output is, seen together with the others of its comparison set.

`functional` holds the mathematics (tensors in, tensors out); the classes here hold its settings.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RewardInputs:
    """Everything a reward may look at, for one comparison set of N images with K outputs each.

    A comparison set is a whole group (the paper), or a shuffled batch (the ablation of Tab. 2).

    Attributes:
        scores: (N, K) float, predicted scores in [0, 10]; NaN where an output could not be parsed.
        g: (N,) float, each image's consensus difference from its own group's source, in [-10, 10].
        source_scores: (N,) float, S(x) of the source of each image's group, in [0, 10].
        texts: N lists of K decoded completions.
    """

    scores: "Tensor"
    g: "Tensor"
    source_scores: "Tensor"
    texts: list[list[str]]


@runtime_checkable
class Reward(Protocol):
    """The contract of the entry-point group `redaes.rewards`."""

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """Rewards of shape (N, K), finite."""
        ...
