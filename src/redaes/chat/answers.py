"""What an answer is, question by question: the form a model is kept to and the values that are accepted."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from redaes.chat.reading import Answer, DeltaNumber, ScoreNumber, Text


def _version(value: object) -> object:
    """`Version B`, `b` and `B` are one word."""
    if not isinstance(value, str):
        return value
    word = value.strip().casefold().removeprefix("version").strip()
    return word if word == "neither" else word.upper()


class ScoreAnswer(Answer):
    """A judge on one photograph."""

    reasoning: Text
    score: ScoreNumber


class CompareAnswer(Answer):
    """A judge on two versions; the number and the name of the better one must say the same."""

    reasoning: Text
    better: Annotated[Literal["A", "B", "neither"], BeforeValidator(_version)]
    difference: DeltaNumber

    @model_validator(mode="after")
    def _one_direction(self) -> Self:
        said = "B" if self.difference > 0 else "A" if self.difference < 0 else "neither"
        if said != self.better:
            raise ValueError("better and difference contradict each other: positive exactly when B is better")
        return self


class InstructAnswer(Answer):
    """An instructor on one photograph."""

    analysis: Text
    score: ScoreNumber
    category: Text
    instruction: Text


class EditRequest(BaseModel):
    """One of several instructions."""

    model_config = ConfigDict(frozen=True, extra="ignore", json_schema_extra={"additionalProperties": False})

    category: Text
    instruction: Text


class DiversifyAnswer(Answer):
    """An instructor that was asked for several edits."""

    edits: tuple[EditRequest, ...]


class VerifyAnswer(Answer):
    """VIEScore's semantic consistency."""

    reasoning: Text
    success: ScoreNumber
    over_editing: ScoreNumber


class PerceptualQualityAnswer(Answer):
    """VIEScore's perceptual quality."""

    reasoning: Text
    naturalness: ScoreNumber
    artifacts: ScoreNumber
