"""How many questions a build puts on average, as closed forms of a few rates (METHOD 2, "same dataset, fewer calls").

What is assumed, all of it ours: edits pass independently with one probability s; every judge says "better" of an edit
that passed independently with one probability p, so that two agree with p^2 + (1-p)^2. The paper publishes s = 63.7 %
(Tab. 8) and that agreement = 67.8 % (Tab. 9), hence p = 79.8 %. Judges of one image are surely not independent; what
the estimate needs is how often the first, the first two, ... agree.
"""

from dataclasses import dataclass
from math import comb, sqrt
from typing import NamedTuple

from redaes.errors import UserError


def better_from(agreement: float) -> float:
    """How often a judge says "better", from how often two agree: the larger of the two solutions.

    Args:
        agreement: in [0.5, 1]; independent judges agree on at least half.

    Raises:
        UserError: out of range.
    """
    if not 0.5 <= agreement <= 1:
        raise UserError(f"agreement is {agreement}; it is a share between 0.5 and 1")
    return (1 + sqrt(2 * agreement - 1)) / 2


@dataclass(frozen=True)
class Rates:
    """What a build meets.

    Attributes:
        edit_success: share of edits that the verifiers let pass.
        better: share of edits that passed of which a judge says that they are better than their source.
        settled: share of edits that a verifier's low value has failed before the next one is asked (lazy).

    Raises:
        UserError: a share out of range.
    """

    edit_success: float = 0.637
    better: float = better_from(0.678)
    settled: float = 0.0

    def __post_init__(self) -> None:
        for name in ("edit_success", "better", "settled"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"{name} is {value}; it is a share between 0 and 1")

    @property
    def agreement(self) -> float:
        """How often two judges say the same."""
        return self.better**2 + (1 - self.better) ** 2


class Questions(NamedTuple):
    """Expected questions about one source.

    Attributes:
        edits: of all editors together.
        verifies: of each verifier, in the order they are asked.
        compares: of each judge, likewise.
    """

    edits: float
    verifies: tuple[float, ...]
    compares: tuple[float, ...]


def pair_questions(
    editors: int, verifiers: int, judges: int, min_passing: int, rates: Rates, lazy: bool = True
) -> Questions:
    """Questions for the pair of a source.

    Eagerly everything is asked: M edits, all verified, and if `min_passing` pass, those are all judged. Lazily the
    edits are made in a random order until so many have passed or can no longer; then the passing ones are judged, each
    up to the first dissent, until one is better unanimously; only if none is, the remaining edits are made.

    Args:
        editors: M.
        verifiers: asked of every edit.
        judges: J.
        min_passing: k.
        rates: of success and agreement.
        lazy: leave out what cannot change the dataset.

    Example:
        >>> counts = pair_questions(5, 2, 3, 4, Rates(), lazy=False)
        >>> round(counts.edits + sum(counts.verifies) + sum(counts.compares), 1), round(sum(counts.compares), 1)
        (20.2, 5.2)
    """
    s, p = rates.edit_success, rates.better
    if not lazy:
        passing = sum(i * _binomial(i, editors, s) for i in range(min_passing, editors + 1))
        return Questions(float(editors), (float(editors),) * verifiers, (passing,) * judges)
    unanimous = p**judges
    edits = judged = 0.0
    for made in range(min_passing, editors + 1):
        chance = comb(made - 1, min_passing - 1) * s**min_passing * (1 - s) ** (made - min_passing)
        none_better = (1 - unanimous) ** min_passing
        more = none_better * _until(s * unanimous, editors - made)
        edits += chance * (made + more)
        judged += chance * (_until(unanimous, min_passing) + s * more)
    failures = editors - min_passing + 1
    for made in range(failures, editors + 1):
        edits += made * comb(made - 1, failures - 1) * (1 - s) ** failures * s ** (made - failures)
    verifies = tuple(edits * (1 - rates.settled if index else 1) for index in range(verifiers))
    return Questions(edits, verifies, tuple(judged * p**index for index in range(judges)))


def group_questions(
    instructions: int, judges: int, fewest: int, most: int, rates: Rates, lazy: bool = True
) -> Questions:
    """Questions for the group of a source; its edits are not verified.

    Lazily the variants are made one by one, each judged up to the first dissent, until there are `most`, or `fewest`
    can no longer be reached.

    Args:
        instructions: of a source, one edit each.
        judges: J.
        fewest: variants of a group.
        most: likewise.
        rates: of agreement.
        lazy: leave out what cannot change the dataset.
    """
    if not lazy:
        return Questions(float(instructions), (), (float(instructions),) * judges)
    p = rates.better
    unanimous = p**judges + (1 - p) ** judges
    made, kept = 0.0, {0: 1.0}
    for index in range(instructions):
        going_on = {n: mass for n, mass in kept.items() if n < most and n + instructions - index >= fewest}
        made += sum(going_on.values())
        kept = {}
        for n, mass in going_on.items():
            kept[n + 1] = kept.get(n + 1, 0.0) + mass * unanimous
            kept[n] = kept.get(n, 0.0) + mass * (1 - unanimous)
    asked = [1.0 if index == 0 else p**index + (1 - p) ** index for index in range(judges)]
    return Questions(made, (), tuple(made * share for share in asked))


def _binomial(successes: int, trials: int, chance: float) -> float:
    return comb(trials, successes) * chance**successes * (1 - chance) ** (trials - successes)


def _until(chance: float, at_most: int) -> float:
    """Expected trials up to the first success."""
    return sum((1 - chance) ** i for i in range(at_most))
