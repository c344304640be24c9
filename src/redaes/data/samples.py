"""Training samples: what a record becomes when a model is to learn from it (Sec. 3.2, METHOD 3).

A sample is images, a question and an answer. Five kinds, one function each; a stage mixes the kinds it names:

    compare       PT-O1   (x, x_hat) -> reasoning and difference
    predict_edit  PT-O2   (x, instruction) -> difference, without seeing the edit
    calibrate     stage 2 x -> reasoning and S(x)
    absolute      Tab. 5  every image -> its absolute score, S(x) for sources and S(x) + delta for edits
    kept          ours    x -> what the model said of it before (`RehearsalData`)
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.prompts import format_answer, render
from redaes.records import Edit, Orientation, PairRecord, ScoreRecord, Source, Split

Objective = Literal["compare", "predict_edit", "calibrate", "absolute"]


@dataclass(frozen=True)
class Sample:
    """One supervised sample; `images` are paths inside the dataset."""

    objective: Objective | Literal["kept"]
    images: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True)
class JudgedEdit:
    """What a pair says, of an edit that may also be worse: an edit of a group (Eq. 4), with its consensus difference.

    Attributes:
        reasoning: of the verdict closest to `delta`, ties to the first judge; None without a verdict.
    """

    source: Source
    edit: Edit
    delta: float
    reasoning: str | None


Judged = PairRecord | JudgedEdit


def group_edits(manifest: Manifest, split: Split) -> Iterator[JudgedEdit]:
    """The edits of all groups of a split."""
    for group in manifest.groups(split):
        for member in group.members:
            if member.edit is not None:
                closest = min(member.edit.verdicts, key=lambda v: abs(v.value - member.g), default=None)
                yield JudgedEdit(group.source, member.edit, member.g, closest.reasoning if closest else None)


def compare(pair: Judged) -> Sample:
    """PT-O1: both images, the judges' reasoning and the difference."""
    images = (pair.source.image, pair.edit.image)
    return Sample("compare", images, render("compare"), format_answer(pair.delta, pair.reasoning))


def compare_swapped(pair: Judged) -> Sample:
    """PT-O1 with the two images exchanged: -delta, and no reasoning, since the judges' words were for the other way."""
    images = (pair.edit.image, pair.source.image)
    return Sample("compare", images, render("compare"), format_answer(-pair.delta))


def predict_edit(pair: Judged) -> Sample:
    """PT-O2: the source and the instruction alone."""
    question = render("predict_edit", pair.edit.instruction.text)
    return Sample("predict_edit", (pair.source.image,), question, format_answer(pair.delta))


def calibrate(record: ScoreRecord) -> Sample:
    """Stage 2: one image, the judges' reasoning and its consensus score."""
    return scored_sample(record.source.image, record.fused.value, record.reasoning)


def scored_sample(image: str, score: float, reasoning: str | None) -> Sample:
    """One image and its absolute score in [0, 10]."""
    return Sample("calibrate", (image,), render("score"), format_answer(score, reasoning))


def absolute(pair: PairRecord, reasoning: str | None) -> tuple[Sample, Sample]:
    """Plain SFT on absolute scores (Tab. 5, phase 1): the source at S(x), its edit at S(x) + delta clipped to [0, 10].

    Args:
        pair: the pre-training pair.
        reasoning: of the source's own score; an edit has none, so its answer is the score alone.
    """
    edited = min(10.0, pair.score + pair.delta)
    question = render("score")
    return (
        Sample("absolute", (pair.source.image,), question, format_answer(pair.score, reasoning)),
        Sample("absolute", (pair.edit.image,), question, format_answer(edited)),
    )


def kept(rows: Path, manifest: Manifest, split: Split) -> list[Sample]:
    """What a model says of the images of a split, as samples to learn again.

    Args:
        rows: JSON lines that `redaes score --output` wrote of the dataset's images; others, and those without a score,
            are passed over.
        manifest: the dataset.
        split: whose images.

    Raises:
        UserError: no such file, another one, or none of its images is the split's.
    """
    edits: list[Judged] = [*manifest.pairs(split), *group_edits(manifest, split)]
    named = {r.source.image for r in manifest.sources(split)}
    named |= {image for edit in edits for image in (edit.source.image, edit.edit.image)}
    files = {manifest.path(image): image for image in named}
    samples = []
    try:
        for line in rows.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            image = files.get(Path(row["path"]).resolve())
            if image is not None and row["score"] is not None:
                answer = format_answer(row["score"], row["reasoning"] or None)
                samples.append(Sample("kept", (image,), render("score"), answer))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{rows} is no JSON lines file written by `redaes score`: {error}") from error
    if not samples:
        raise UserError(f"{rows} has a score of no {split} image of {manifest.root}")
    return samples


def build_samples(
    manifest: Manifest,
    split: Split,
    objectives: Sequence[Objective],
    orientations: Sequence[Orientation] = ("quality", "content"),
) -> list[Sample]:
    """All samples of one split for the named objectives, in the dataset's order.

    Args:
        manifest: an open dataset.
        split: which photographs.
        objectives: which kinds of sample; every pair gives one sample per pair objective.
        orientations: keep only pairs whose edit is of these kinds (Tab. 3).
    """
    if "calibrate" in objectives:
        records = manifest.calibration() if split == "train" else manifest.sources(split)
        calibration = [calibrate(r) for r in records]
    else:
        calibration = []
    words = {r.source.id: r.reasoning for r in manifest.sources(split)} if "absolute" in objectives else {}
    makers: dict[str, Callable[[PairRecord], Sequence[Sample]]] = {
        "compare": lambda p: [compare(p)],
        "predict_edit": lambda p: [predict_edit(p)],
        "absolute": lambda p: absolute(p, words.get(p.source.id)),
    }
    chosen = [makers[o] for o in objectives if o in makers]
    pairs = [p for p in manifest.pairs(split) if p.edit.instruction.orientation in orientations] if chosen else []
    return calibration + [sample for pair in pairs for make in chosen for sample in make(pair)]
