"""What is the same for every question of one role to one plug-in: who it is, where it is, what a call costs at most."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from redaes.calls import Role, Usage
from redaes.data.manifest import canonical_json
from redaes.engine.config import FlowSettings
from redaes.engine.limits import NANO
from redaes.engine.prices import FREE, Price, PriceTable, how_to_add
from redaes.errors import UserError

log = logging.getLogger(__name__)


class Named(Protocol):
    """A plug-in, as far as calls care; the other members are optional (redaes.calls)."""

    name: str


@dataclass(slots=True)
class Line:
    """One role of one plug-in.

    Attributes:
        label: for messages, such as `compare of gpt-5`.
        known: its identity; `identity` is the same as text.
        tokens: of a call at most, read and written; if the plug-in does not say, the most seen so far.
        most: tokens that a call can be granted.
        cost: of a call at most, in billionths of the currency.
    """

    role: Role
    plugin: str
    label: str
    known: Mapping[str, Any]
    identity: str
    endpoint: str
    price: Price
    says: bool
    tokens: int
    most: float
    cost: int

    @classmethod
    def of(cls, role: Role, plugin: Named, known: Mapping[str, Any], flow: FlowSettings, prices: PriceTable) -> Self:
        """What a plug-in says of itself, held against limits and budget.

        Raises:
            UserError: there is a budget, and nobody knows what a call costs; or a call is larger than its limit.
        """
        label = f"{role} of {plugin.name}"
        endpoint: str = getattr(plugin, "endpoint", "") or ""
        price = FREE
        if endpoint:
            price = _price(label, str(known.get("model") or plugin.name), endpoint, flow, prices)
        largest: Usage | None = plugin.largest_usage(role) if hasattr(plugin, "largest_usage") else None
        if flow.budget is not None and largest is None and price.of(Usage(1, 1, 1)) > 0:
            raise UserError(f"{label} does not say what a call costs at most (largest_usage); a budget cannot be kept")
        usage = largest or Usage()
        tokens = usage.input_tokens + usage.output_tokens
        limits = flow.limits.get(endpoint) if endpoint else None
        most = (limits.tokens_per_minute if limits else None) or math.inf
        if tokens > most:
            raise UserError(
                f"{label} may take {tokens} tokens a call; flow.limits of {endpoint!r} allow {most:g} a minute"
            )
        cost = math.ceil(price.of(usage) * NANO)
        says = largest is not None
        return cls(role, plugin.name, label, known, canonical_json(known), endpoint, price, says, tokens, most, cost)

    def saw(self, tokens: int) -> None:
        """A call took so many tokens."""
        if not self.says:
            self.tokens = int(min(max(self.tokens, tokens), self.most))


def _price(label: str, model: str, endpoint: str, flow: FlowSettings, prices: PriceTable) -> Price:
    price = prices.find(model, endpoint)
    if price is not None:
        return price
    if flow.budget is not None:
        raise UserError(f"{label}: no price is known of {model!r}, so no budget can be kept; {how_to_add(model)}")
    log.warning("%s: no price is known of %r, so its calls count as free; %s", label, model, how_to_add(model))
    return FREE
