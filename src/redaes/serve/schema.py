"""What goes in and out, for pydantic and the OpenAPI schema."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from redaes.inference import Difference, Score

FIELD = "images"

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAGUlEQVR42mNkYGiQY2DARCwMcgxYweCUAABY2QJCTFxbywAAAABJRU5ErkJggg=="
)
"""A picture for examples, base64 of a PNG."""


class ImagesInJson(BaseModel):
    """Images in a JSON body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[str]


class ImageScore(BaseModel):
    """What the model says of one image."""

    index: int = Field(ge=0, description="place of the image in the request, from 0")
    name: str | None = Field(description="its file name as sent; null in JSON")
    score: float | None = Field(ge=0, le=10, description="null where the model's answer holds no number")
    reasoning: str = Field(description="the model's words; of foreign origin: escape them wherever they are shown")
    status: Literal["ok", "unparsed"]
    std: float | None = Field(ge=0, description="of several samples, in points; null of a single one")

    @classmethod
    def of(cls, index: int, name: str | None, score: Score) -> "ImageScore":
        """From what a scorer says."""
        said = {"score": score.value, "reasoning": score.reasoning, "status": score.status, "std": score.std}
        return cls(index=index, name=name, **said)


class Scores(BaseModel):
    """One score per image, in the order of the request."""

    model: str = Field(description="fingerprint of the model")
    scores: list[ImageScore]


class Ranking(BaseModel):
    """The images, best first; equal ones in the order of the request, those without a score last."""

    model: str = Field(description="fingerprint of the model")
    ranking: list[ImageScore]


class Comparison(BaseModel):
    """Two images, seen together."""

    model: str = Field(description="fingerprint of the model")
    difference: float | None = Field(
        ge=-10, le=10, description="above 0: the second is better; null where the model's answer holds no number"
    )
    better: Annotated[int, Field(ge=0, le=1)] | None = Field(description="index of the better one; null if neither is")
    reasoning: str = Field(description="the model's words; of foreign origin: escape them wherever they are shown")
    status: Literal["ok", "unparsed"]
    disagreement: float | None = Field(
        ge=0, description="how far, in points, each order of the two is from `difference`; null if one order was asked"
    )

    @classmethod
    def of(cls, model: str, difference: Difference) -> "Comparison":
        """From what a scorer says."""
        value = difference.value
        return cls(
            model=model,
            difference=value,
            better=None if not value else int(value > 0),
            reasoning=difference.reasoning,
            status=difference.status,
            disagreement=difference.disagreement,
        )


class State(BaseModel):
    """Whether the server is well."""

    status: Literal["ok"] = "ok"
    model: str = Field(description="fingerprint of the model")


def body(least: int, most: int) -> dict[str, Any]:
    """The body of a request with so many images, for an OpenAPI schema."""
    many = {"type": "array", "minItems": least, "maxItems": most}
    files = {**many, "items": {"type": "string", "format": "binary"}}
    words = {**many, "items": {"type": "string", "format": "byte", "description": "an image file in base64"}}

    def fields(images: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {FIELD: images},
            "required": [FIELD],
            "additionalProperties": False,
        }

    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": fields(files), "encoding": {FIELD: {"contentType": "image/*"}}},
                "application/json": {"schema": fields(words), "example": {FIELD: [PICTURE] * least}},
            },
        }
    }
