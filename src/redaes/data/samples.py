"""Training samples: what a record becomes when a model is to learn from it (Sec. 3.2, METHOD 3).

A sample is images, a question and an answer. Four kinds, one function each; a stage mixes the kinds it names:

    compare       PT-O1   (x, x_hat) -> reasoning and difference
    predict_edit  PT-O2   (x, instruction) -> difference, without seeing the edit
    calibrate     stage 2 x -> reasoning and S(x)
    absolute      Tab. 5  every image -> its absolute score, S(x) for sources and S(x) + delta for edits
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from redaes.data.manifest import Manifest
from redaes.prompts import format_answer, render
from redaes.records import Orientation, PairRecord, ScoreRecord, Split

Objective = Literal["compare", "predict_edit", "calibrate", "absolute"]


@dataclass(frozen=True)
class Sample:
    """One supervised sample; `images` are paths inside the dataset."""

    objective: Objective
    images: tuple[str, ...]
    question: str
    answer: str


def compare(pair: PairRecord) -> Sample:
    """PT-O1: both images, the judges' reasoning and the difference."""
    images = (pair.source.image, pair.edit.image)
    return Sample("compare", images, render("compare"), format_answer(pair.delta, pair.reasoning))


def compare_swapped(pair: PairRecord) -> Sample:
    """PT-O1 with the two images exchanged: -delta, and no reasoning, since the judges' words were for the other way."""
    images = (pair.edit.image, pair.source.image)
    return Sample("compare", images, render("compare"), format_answer(-pair.delta))


def predict_edit(pair: PairRecord) -> Sample:
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
    pairs = [p for p in manifest.pairs(split) if p.edit.instruction.orientation in orientations]
    words = {r.source.id: r.reasoning for r in manifest.sources(split)} if "absolute" in objectives else {}
    makers: dict[str, Callable[[PairRecord], Sequence[Sample]]] = {
        "compare": lambda p: [compare(p)],
        "predict_edit": lambda p: [predict_edit(p)],
        "absolute": lambda p: absolute(p, words.get(p.source.id)),
    }
    chosen = [makers[o] for o in objectives if o in makers]
    return calibration + [sample for pair in pairs for make in chosen for sample in make(pair)]
