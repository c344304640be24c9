"""What flows through the engine: one immutable record per thing that happened to a photograph.

Records are pydantic models; they travel as JSON lines beside an `images/` folder (see `redaes.data.manifest`).
Images are referred to by a path relative to the dataset's root; the pixels never live in a record.
Scores `s` are in [0, 10], differences `delta` in [-10, 10] (METHOD: scales).
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Score = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
Delta = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Orientation = Literal["quality", "content"]
Split = Literal["train", "validation", "test"]


class Record(BaseModel):
    """Base of all records: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Record):
    """A source image: a crop of one photograph."""

    id: str = Field(description="unique, stable for a seed: '<photograph>-<index>'")
    image: str = Field(description="path of the image file, relative to the dataset's root")
    photograph: str = Field(description="the photograph it was cut from; the unit of the split")
    split: Split
    license: str = ""


class Verdict(Record):
    """One judge's answer: a score of one image, or the difference between two."""

    judge: str
    value: float = Field(allow_inf_nan=False, description="score in [0, 10] or difference in [-10, 10]")
    reasoning: str


class Fused(Record):
    """The consensus of several verdicts, with everything needed to audit it (App. A)."""

    value: float = Field(allow_inf_nan=False)
    level: Literal["high", "medium", "low"]
    outliers: tuple[int, ...] = Field(description="indices into the fused scores, ascending")
    method: str = Field(description="the cell of the strategy matrix, e.g. 'weighted_average'")


class ScoreRecord(Record):
    """A source with its consensus score S(x)."""

    source: Source
    verdicts: tuple[Verdict, ...]
    fused: Fused
    reasoning: str = Field(description="of the verdict closest to the fused score, ties to the first judge")


class Instruction(Record):
    """What an instructor asks an editor to do."""

    text: str
    category: str = Field(description="edit category, e.g. 'exposure'")
    orientation: Orientation
    analysis: str = Field(default="", description="the deficiency the instruction addresses")


class Verification(Record):
    """One verifier's VIEScore sub-scores of one edit, each in [0, 10]."""

    verifier: str
    success: Score
    over_editing: Score = Field(description="10 = nothing touched that should not be")
    perceptual_quality: Score | None = Field(None, description="min(naturalness, artifacts), where it was asked for")

    @property
    def value(self) -> float:
        """VIEScore: min(success, over_editing) = SC, semantic consistency; sqrt(SC * PQ) with perceptual quality.

        Example:
            >>> Verification(verifier="v", success=9, over_editing=8).value
            8.0
            >>> Verification(verifier="v", success=9, over_editing=8, perceptual_quality=2).value
            4.0
        """
        consistency = min(self.success, self.over_editing)
        return consistency if self.perceptual_quality is None else math.sqrt(consistency * self.perceptual_quality)


class Edit(Record):
    """One editor's answer to one instruction, with its verification and its judgement as far as they were made."""

    id: str
    source_id: str
    editor: str
    instruction: Instruction
    image: str
    verifications: tuple[Verification, ...] = ()
    passed: bool | None = None
    verdicts: tuple[Verdict, ...] = ()
    fused: Fused | None = None


class PairRecord(Record):
    """A pre-training sample (x, x_hat, e, delta, reasoning), Eq. 3."""

    id: str
    source: Source
    score: Score = Field(description="S(x), the source's consensus score")
    edit: Edit
    delta: Annotated[float, Field(gt=0, le=10)]
    reasoning: str


class GroupMember(Record):
    """One image of an RL group; `g` is its consensus difference from the source, 0 for the source itself."""

    image: str
    g: Delta
    edit: Edit | None = None


class GroupRecord(Record):
    """An RL group: the source first, then its kept variants (Eq. 4). True differences are g_i - g_j."""

    id: str
    source: Source
    score: Score = Field(description="S(x)")
    members: Annotated[tuple[GroupMember, ...], Field(min_length=1)]
