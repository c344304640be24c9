"""What a build will ask, read, write and cost, before anything is spent; eager beside lazy.

The numbers of calls are expectations (redaes.engine.expectation). Tokens of a call are those that a ledger has seen of
the same plug-in in the same role, else assumed: a prompt, the images by their model's rule (price table), a reply; at
most what the plug-in says it may be. Answers that have to be bought again because they cannot be used come on top.
All assumptions are ours.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redaes.calls import Role, Usage
from redaes.engine.config import EngineConfig
from redaes.engine.database import Total
from redaes.engine.expectation import Questions, Rates, group_questions, pair_questions
from redaes.engine.plan import Job
from redaes.engine.prices import FREE, Price, PriceTable
from redaes.engine.stages import Crew
from redaes.errors import UserError

# Images in a question.
_IMAGES: dict[Role, int] = {"score": 1, "instruct": 1, "diversify": 1, "edit": 1, "verify": 2, "compare": 2}


@dataclass(frozen=True)
class Talk:
    """What a call is assumed to take that no ledger has seen.

    Attributes:
        prompt: tokens of a question beside its images.
        reply: tokens of an answer, hidden reasoning included.
        image: tokens of an image of a model whose rule is not in the price table.

    Raises:
        UserError: fewer than none.
    """

    prompt: int = 700
    reply: int = 300
    image: int = 1000

    def __post_init__(self) -> None:
        if min(self.prompt, self.reply, self.image) < 0:
            raise UserError(f"a call of {self.prompt} tokens and an answer of {self.reply} cannot be; give 0 or more")


@dataclass(frozen=True)
class Spending:
    """Calls of one kind, or of all.

    Attributes:
        calls: expected.
        held: of them, answered in a ledger already; tokens and cost are of the others.
        input_tokens: read.
        output_tokens: written.
        images: made.
        cost: expected; None: a price is not known.
        cost_at_most: if every call were as large as it may be.
    """

    calls: float
    held: float
    input_tokens: float
    output_tokens: float
    images: float
    cost: float | None
    cost_at_most: float | None


@dataclass(frozen=True)
class Row:
    """One role of one plug-in.

    Attributes:
        measured: its tokens a call are from a ledger.
    """

    role: Role
    plugin: str
    model: str
    endpoint: str
    measured: bool
    eager: Spending
    lazy: Spending


@dataclass(frozen=True)
class Estimate:
    """What a build will take.

    Attributes:
        sources: to be scored; `pairs` and `groups` of them are for a pair, for a group.
        unpriced: models without a price.
    """

    currency: str
    rates: Rates
    sources: int
    pairs: int
    groups: int
    rows: tuple[Row, ...]
    eager: Spending
    lazy: Spending
    unpriced: tuple[str, ...]


class _Asked(NamedTuple):
    """Expected questions of one role to one plug-in."""

    role: Role
    plugin: Any
    eager: float
    lazy: float


def estimate(
    config: EngineConfig,
    jobs: Iterable[Job],
    rates: Rates,
    talk: Talk,
    seen: Sequence[Total] = (),
    held: Sequence[Total] = (),
) -> Estimate:
    """What a build of this configuration will take.

    Args:
        config: of the build.
        jobs: its sources.
        rates: it is expected to meet.
        talk: what a call takes that was not seen.
        seen: totals of a ledger whose calls had the sizes to expect.
        held: totals of the ledger that the build will go on with.

    Raises:
        UserError: a plug-in cannot be made, or the price table cannot be read.
    """
    sources = pairs = groups = 0
    for job in jobs:
        sources, pairs, groups = sources + 1, pairs + job.pair, groups + job.group
    prices = PriceTable(config.flow.prices)
    asked = list(_questions(Crew.from_config(config), config, rates, (sources, pairs, groups)))
    rows = tuple(_row(one, config, prices, talk, seen, held) for one in asked if one.eager)
    unpriced = sorted({row.model or row.plugin for row in rows if row.eager.cost is None})
    eager, lazy = _sum([row.eager for row in rows]), _sum([row.lazy for row in rows])
    return Estimate(prices.currency, rates, sources, pairs, groups, rows, eager, lazy, tuple(unpriced))


def _questions(crew: Crew, config: EngineConfig, rates: Rates, counts: tuple[int, int, int]) -> Iterator[_Asked]:
    """In the order of the stages."""
    sources, pairs, groups = counts
    sizes = (len(crew.editors), len(crew.verifiers), len(crew.judges))
    variants = (config.groups.instructions, sizes[2], config.groups.min_variants, config.groups.max_variants)
    of_pair: list[Questions] = []
    of_group: list[Questions] = []
    for lazy in (False, True):
        of_pair.append(pair_questions(*sizes, config.min_passing, rates, lazy))
        of_group.append(group_questions(*variants, rates, lazy))
    for judge in crew.judges:
        yield _Asked("score", judge, sources, sources)
    yield _Asked("instruct", crew.instructor, pairs, pairs)
    yield _Asked("diversify", crew.instructor, groups, groups)
    for editor in crew.editors:
        # In a random order, and drawn at random for a group: all editors get the same share.
        made = [(pairs * p.edits + groups * g.edits) / sizes[0] for p, g in zip(of_pair, of_group, strict=True)]
        yield _Asked("edit", editor, *made)
    for index, verifier in enumerate(crew.verifiers):
        yield _Asked("verify", verifier, *(pairs * p.verifies[index] for p in of_pair))
    for index, judge in enumerate(crew.judges):
        compared = [
            pairs * p.compares[index] + groups * g.compares[index] for p, g in zip(of_pair, of_group, strict=True)
        ]
        yield _Asked("compare", judge, *compared)


def _row(
    asked: _Asked,
    config: EngineConfig,
    prices: PriceTable,
    talk: Talk,
    seen: Sequence[Total],
    held: Sequence[Total],
) -> Row:
    role, plugin = asked.role, asked.plugin
    known = plugin.identity(role) if hasattr(plugin, "identity") else {}
    model, endpoint = str(known.get("model") or ""), getattr(plugin, "endpoint", "") or ""
    price = prices.find(model or plugin.name, endpoint) if endpoint else FREE
    largest: Usage | None = plugin.largest_usage(role) if hasattr(plugin, "largest_usage") else None
    usual = _seen_usage(role, plugin.name, seen)
    if usual is None:
        usual = _assumed_usage(role, price, talk, config.sources.size, largest) if endpoint else (0.0, 0.0, 0.0)
    done = sum(total.calls for total in held if _about(total, role, plugin.name))
    spendings = [_spend(calls, done, usual, price, largest) for calls in (asked.eager, asked.lazy)]
    measured = _seen_usage(role, plugin.name, seen) is not None
    return Row(role, plugin.name, model, endpoint, measured, *spendings)


def _about(total: Total, role: Role, plugin: str) -> bool:
    return total.role == role and total.plugin == plugin and total.status == "ok"


def _seen_usage(role: Role, plugin: str, seen: Sequence[Total]) -> tuple[float, float, float] | None:
    """Means of the calls that a ledger has seen."""
    rows = [total for total in seen if _about(total, role, plugin)]
    calls = sum(total.calls for total in rows)
    if not calls:
        return None
    sums = (sum(t.input_tokens for t in rows), sum(t.output_tokens for t in rows), sum(t.images_made for t in rows))
    return sums[0] / calls, sums[1] / calls, sums[2] / calls


def _assumed_usage(
    role: Role, price: Price | None, talk: Talk, size: int, largest: Usage | None
) -> tuple[float, float, float]:
    rule = price.image_tokens if price else None
    image = rule.count(size, size) if rule else talk.image
    made = 1 if role == "edit" else 0
    reply = (price.tokens_per_image if price else 0) if made else talk.reply
    usual = Usage(talk.prompt + _IMAGES[role] * image, reply, made)
    most = largest or usual
    return tuple(float(min(a, b)) for a, b in zip(usual, most, strict=True))  # type: ignore[return-value]


def _spend(
    calls: float, done: int, usual: tuple[float, float, float], price: Price | None, largest: Usage | None
) -> Spending:
    held = min(calls, done)
    left = calls - held
    cost = left * price.rate(*usual) if price else None
    if price and largest is not None:
        at_most: float | None = left * price.of(largest)
    else:
        at_most = 0.0 if price is FREE else None
    return Spending(calls, held, left * usual[0], left * usual[1], left * usual[2], cost, at_most)


def _sum(spendings: Sequence[Spending]) -> Spending:
    """All together; an unknown cost makes the sum unknown."""
    costs: list[float | None] = []
    for name in ("cost", "cost_at_most"):
        values = [getattr(spending, name) for spending in spendings]
        costs.append(None if None in values else sum(values))
    sums = [
        sum(getattr(spending, name) for spending in spendings)
        for name in ("calls", "held", "input_tokens", "output_tokens", "images")
    ]
    return Spending(*sums, *costs)
