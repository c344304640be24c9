"""Rewards: how good each sampled output is, seen together with the others of its comparison set.

`functional` holds the mathematics (tensors in, tensors out); the classes here hold its settings. Importing this package
does not import torch: a command that lists plug-ins starts as fast as one without them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from redaes.errors import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from redaes.rewards.functional import Weight


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

    @property
    def truths(self) -> "Tensor":
        """(N,) absolute scores the images stand for: S(x) + g, clipped to [0, 10]."""
        return (self.source_scores + self.g).clamp(0.0, 10.0)


@runtime_checkable
class Reward(Protocol):
    """The contract of the entry-point group `redaes.rewards`."""

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """Rewards of shape (N, K), finite."""
        ...


class RelativeRankingConsistency:
    """The paper's reward (Eq. 6): is each sampled score on the right side of the other images' means?

    Args:
        tau: temperature of the sigmoid in points of score, > 0 [ours].
        weight: gap-aware weight, `abs`, `tanh` or `uniform` [ours].
        across: where true differences come from: `g`, each image's difference from its own source, or `score`,
            S(x) + g clipped to [0, 10]. They differ in shuffled batches, and where the clip bites [ours].

    Raises:
        ValueError: a setting out of its range.

    Example:
        >>> import torch
        >>> scores, g = torch.tensor([[5.0, 6.0], [7.0, 8.0]]), torch.tensor([0.0, 2.0])
        >>> group = RewardInputs(scores, g, torch.tensor([5.0, 5.0]), [["", ""], ["", ""]])
        >>> RelativeRankingConsistency(tau=0.5)(group)
        tensor([[0.9933, 0.9526],
                [0.9526, 0.9933]])
    """

    def __init__(
        self, tau: float = 1.0, weight: Literal["abs", "tanh", "uniform"] = "abs", across: Literal["g", "score"] = "g"
    ) -> None:
        _require_positive("tau", tau)
        _require_one_of("weight", weight, ("abs", "tanh", "uniform"))
        _require_one_of("across", across, ("g", "score"))
        self.tau = tau
        self.weight: Weight = weight
        self.across = across

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """(N, K) in [0, 1]."""
        from redaes.rewards.functional import relative_ranking_consistency

        truths = inputs.g if self.across == "g" else inputs.truths
        return relative_ranking_consistency(inputs.scores, truths, self.tau, self.weight)


class ThurstoneFidelity:
    """VisualQuality-R1's reward: fidelity to the true order under Thurstone's model; needs K >= 2.

    Its paper adds the format reward with weight 1: `composite` of `thurstone_fidelity` and `format`.
    """

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """(N, K) in [0, 1.002]."""
        from redaes.rewards.functional import thurstone_fidelity

        return thurstone_fidelity(inputs.scores, inputs.truths)


class Rapo:
    """Aes-R1's reward: fidelity with ties as wins, plus a Gaussian of the absolute error, plus the format.

    Args:
        width: of the Gaussian in points of the 0-10 scale, > 0 (0.1 on Aes-R1's [0, 1] scale).

    Raises:
        ValueError: width is not positive.
    """

    def __init__(self, width: float = 1.0) -> None:
        _require_positive("width", width)
        self.width = width

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """(N, K) in [0, 3.002]."""
        from redaes.rewards.functional import gaussian_accuracy, thurstone_fidelity

        ranking = thurstone_fidelity(inputs.scores, inputs.truths, tie=1.0)
        return ranking + gaussian_accuracy(inputs.scores, inputs.truths, self.width) + Format()(inputs)


class ScoreHit:
    """Q-Insight's reward: 1 for a score closer than a threshold to the truth, both on a 1-5 scale.

    Args:
        threshold: on the 1-5 scale, > 0.

    Raises:
        ValueError: threshold is not positive.
    """

    def __init__(self, threshold: float = 0.35) -> None:
        _require_positive("threshold", threshold)
        self.threshold = threshold

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """(N, K), 0 or 1."""
        from redaes.rewards.functional import score_hit

        return score_hit(inputs.scores, inputs.truths, self.threshold)


class MeanAbsoluteError:
    """1 - |s - y| / 10: plain regression as a reward."""

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """(N, K) in [0, 1]."""
        from redaes.rewards.functional import absolute_accuracy

        return absolute_accuracy(inputs.scores, inputs.truths)


class Format:
    """1 for an output that is exactly one think tag and one answer tag with a readable score, else 0."""

    _INSIDE = r"(?:(?!</?(?:think|answer)>).)*"
    _SHAPE = re.compile(rf"\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL)

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """(N, K), 0 or 1."""
        shaped = [[self._SHAPE.fullmatch(text) is not None for text in row] for row in inputs.texts]
        return inputs.scores.new_tensor(shaped) * inputs.scores.isfinite()


class Composite:
    """A weighted sum of other rewards.

    Args:
        rewards: reward plug-ins, by name or with their settings.
        weights: one finite number for each.

    Raises:
        ValueError: no rewards, or not one finite weight for each.
        UserError: a reward that is not installed or refuses its settings.

    Example:
        >>> reward = Composite(["rrc", {"class_path": "format"}], weights=[1.0, 0.5])
        >>> [type(term).__name__ for term in reward.rewards]
        ['RelativeRankingConsistency', 'Format']
    """

    def __init__(self, rewards: "Sequence[str | dict[str, Any]]", weights: Sequence[float]) -> None:
        from redaes.registry import create

        if len(rewards) != len(weights) or not rewards:
            raise ValueError(f"{len(rewards)} rewards and {len(weights)} weights; give one weight for each reward")
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"weights are {list(weights)}; they must be finite")
        self.rewards: list[Reward] = [create("rewards", spec) for spec in rewards]
        self.weights = list(weights)

    def __call__(self, inputs: RewardInputs) -> "Tensor":
        """(N, K): the sum of weight times reward."""
        import torch

        terms = [weight * reward(inputs) for weight, reward in zip(self.weights, self.rewards, strict=True)]
        return torch.stack(terms).sum(0)


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be finite and above 0")


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r} ({nearest(value, known)})")
