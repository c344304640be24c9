"""What calls cost: a table of list prices as a data file, and the reader's own over it.

The built-in table is `prices.yaml` beside this file; its head explains the form. `flow.prices` names another of the
same form that is looked through first. With a currency of its own it stands alone: two currencies do not add up.
"""

import math
from datetime import date
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from redaes.calls import Usage
from redaes.errors import UserError

BUILT_IN = Path(__file__).with_name("prices.yaml")

_MILLION = 1_000_000


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageTokens(_Row):
    """What one image in a question counts as, by the provider's published rule; for estimates only."""

    patch: int | None = Field(None, ge=1, description="one token per patch of this side in pixels")
    times: float = Field(1.0, gt=0, description="a factor on the patches")
    tile: int | None = Field(None, ge=1, description="so many tokens per started tile of this side in pixels")
    each: int = Field(0, ge=0, description="tokens a tile")
    base: int = Field(0, ge=0, description="tokens an image beside its tiles")
    pixels: int | None = Field(None, ge=1, description="one token per so many pixels")
    fixed: int | None = Field(None, ge=0, description="tokens, whatever the size")

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if sum(rule is not None for rule in (self.patch, self.tile, self.pixels, self.fixed)) != 1:
            raise ValueError("give one of patch, tile, pixels, fixed")
        return self

    def count(self, width: int, height: int) -> int:
        """Tokens of an image of this size in pixels."""
        if self.patch:
            return math.ceil(math.ceil(width / self.patch) * math.ceil(height / self.patch) * self.times)
        if self.tile:
            return self.base + self.each * math.ceil(width / self.tile) * math.ceil(height / self.tile)
        return math.ceil(width * height / self.pixels) if self.pixels else self.fixed or 0


class Price(_Row):
    """One row of a table: per million tokens, per image made."""

    models: tuple[str, ...] = Field(min_length=1)
    endpoints: tuple[str, ...] = ("*",)
    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    image: float = Field(0.0, ge=0, allow_inf_nan=False)
    as_of: str | date
    source: str = ""
    note: str = ""
    image_tokens: ImageTokens | None = None
    tokens_per_image: int = Field(0, ge=0, description="output tokens of an image made, for estimates")

    def of(self, usage: Usage) -> float:
        """The cost of what a call took."""
        return self.rate(*usage)

    def rate(self, input_tokens: float, output_tokens: float, images: float) -> float:
        """The cost of so much, or of as much on average."""
        return (input_tokens * self.input + output_tokens * self.output) / _MILLION + images * self.image

    def fits(self, model: str, endpoint: str) -> bool:
        """Whether this row is about the model there."""
        return any(fnmatchcase(model.lower(), name.lower()) for name in self.models) and any(
            fnmatchcase(endpoint.lower(), name.lower()) for name in self.endpoints
        )


FREE = Price(models=("*",), input=0, output=0, as_of="", note="computed here")
"""Of a plug-in without an endpoint."""


class _File(_Row):
    currency: str = ""
    prices: tuple[Price, ...] = ()


class PriceTable:
    """Rows to look through, the reader's own first.

    Args:
        own: a file; empty: the built-in table alone.

    Raises:
        UserError: the file cannot be read or is no price table.
    """

    def __init__(self, own: str = "") -> None:
        built_in, mine = _read(BUILT_IN), _read(Path(own)) if own else _File()
        alone = mine.currency not in ("", built_in.currency)
        self.currency = mine.currency or built_in.currency
        self.rows = mine.prices if alone else mine.prices + built_in.prices

    def find(self, model: str, endpoint: str) -> Price | None:
        """The first row about this model at this endpoint."""
        return next((row for row in self.rows if row.fits(model, endpoint)), None)


def how_to_add(model: str) -> str:
    """What to do about a model without a price, for messages."""
    row = f"{{prices: [{{models: [{model}], input: 1.0, output: 2.0, as_of: 2026-01}}]}}"
    return f"name a YAML file in flow.prices with {row} (per million tokens; image: per image made)"


@lru_cache(maxsize=8)
def _read(path: Path) -> _File:
    import yaml

    try:
        return _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the price table {path}: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"price table {path}: {where}: {problem['msg']} (got {problem['input']!r:.80})") from error
