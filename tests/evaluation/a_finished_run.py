"""A finished run in a folder, written by the code that writes real ones: records, CSV logger, evaluation files.

The photographs are real; edits are simple tone changes whose effect on the score is known; predictions are the truth
with noise that shrinks from stage to stage.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from redaes.data.manifest import Manifest, canonical_json, write_atomically, write_records
from redaes.engine.statistics import Statistics
from redaes.evaluation.runner import Prediction, evaluation_document, write_evaluation
from redaes.records import (
    SCHEMA_VERSION,
    Edit,
    Fused,
    GroupMember,
    GroupRecord,
    Instruction,
    PairRecord,
    ScoreRecord,
    Source,
    Split,
    Verdict,
    Verification,
)

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
JUDGES = ("pixel/detail", "pixel/tone", "pixel/colour")
EDITORS = ("procedural/tone", "procedural/colour")
FACTORS = (0.35, 0.6, 0.8, 1.25, 1.6)
NOISE = {"initial": 3.0, "sft": 1.6, "calibration": 1.2, "grpo": 0.5}
HOSTILE = "Flat light <script>alert('x')</script> & dull \"tones\"."


def _write_dataset(root: Path, crops: int) -> Manifest:
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    sources, edits, pairs, groups, statistics = [], [], [], [], Statistics()
    for photograph, split in zip(PHOTOGRAPHS, ("train", "train", "test", "test"), strict=True):
        for crop in range(crops):
            source, picture = _write_source(root, photograph, split, crop)
            score = float(np.clip(5 + rng.normal(), 0, 10))
            sources.append(_scored(source, score))
            members = [GroupMember(image=source.image, g=0.0)]
            for index, factor in enumerate(FACTORS):
                edit, delta = _write_edit(root, source, picture, index, factor, rng)
                edits.append(edit)
                members.append(GroupMember(image=edit.image, g=delta, edit=edit))
                if delta > 0:
                    pairs.append(
                        PairRecord(
                            id=f"pair-{edit.id}", source=source, score=score, edit=edit, delta=delta,
                            reasoning=edit.verdicts[0].reasoning,
                        )
                    )  # fmt: skip
            groups.append(GroupRecord(id=f"group-{source.id}", source=source, score=score, members=tuple(members)))
            pair = next((pair for pair in reversed(pairs) if pair.source == source), None)
            statistics.add(sources[-1], edits[-len(FACTORS) :], pair, groups[-1])
    for name, records in [("sources", sources), ("edits", edits), ("pairs", pairs), ("groups", groups)]:
        write_records(root / f"{name}.jsonl", records)
    write_records(root / "calibration.jsonl", sources[:4])
    info = {
        "schema_version": SCHEMA_VERSION,
        "seed": 7,
        "statistics": statistics.as_dict(),
    }
    write_atomically(root / "manifest.json", canonical_json(info))
    return Manifest(root)


def _write_source(root: Path, photograph: str, split: Split, crop: int) -> tuple[Source, Image.Image]:
    from skimage import data

    whole = Image.fromarray(getattr(data, photograph)()).convert("RGB")
    left = (whole.width - 280) * crop // 8
    picture = whole.crop((left, 10, left + 280, 220)).resize((160, 120))
    source = Source(
        id=f"{photograph}-{crop}", image=f"images/{photograph}-{crop}.png", photograph=photograph, split=split
    )
    picture.save(root / source.image)
    return source, picture


def _scored(source: Source, score: float) -> ScoreRecord:
    verdicts = tuple(
        Verdict(judge=judge, value=float(np.clip(score + offset, 0, 10)), reasoning=f"Judged by {judge}: {HOSTILE}")
        for judge, offset in zip(JUDGES, (-0.3, 0.0, 0.3), strict=True)
    )
    fused = Fused(value=score, level="high", outliers=(), method="weighted_average")
    return ScoreRecord(source=source, verdicts=verdicts, fused=fused, reasoning=verdicts[1].reasoning)


def _write_edit(
    root: Path, source: Source, picture: Image.Image, index: int, factor: float, rng: np.random.Generator
) -> tuple[Edit, float]:
    image = f"images/{source.id}-{index}.png"
    ImageEnhance.Contrast(picture).enhance(factor).save(root / image)
    delta = float(np.clip(4 * np.log(factor) + 0.3 * rng.normal(), -10, 10))
    words = "Contrast is stronger and forms read more clearly." if delta > 0 else "The picture lost contrast."
    verdicts = tuple(
        Verdict(judge=judge, value=float(np.clip(delta + 0.8 * rng.normal(), -10, 10)), reasoning=words)
        for judge in JUDGES
    )
    edit = Edit(
        id=f"{source.id}-{index}",
        source_id=source.id,
        editor=EDITORS[index % 2],
        instruction=Instruction(
            text=f"Change the contrast by {factor:g}.", category="contrast", orientation="quality", analysis=HOSTILE
        ),
        image=image,
        verifications=(Verification(verifier="pixel/success", success=7 + index / 2, over_editing=9.0),),
        passed=7 + index / 2 >= 7.5,
        verdicts=verdicts,
        fused=Fused(value=delta, level="medium", outliers=(2,), method="normal_average"),
    )
    return edit, delta


def _predictions(dataset: Manifest, noise: float, failures: float) -> list[Prediction]:
    rng = np.random.default_rng(1)
    rows = []
    for group in dataset.groups("test"):
        for member in group.members:
            truth = float(np.clip(group.score + member.g, 0, 10))
            failed = rng.random() < failures
            score = None if failed else round(float(np.clip(truth + noise * rng.normal(), 0, 10)), 1)
            rows.append(
                Prediction(
                    image=member.image, group=group.id, photograph=group.source.photograph, g=member.g, truth=truth,
                    score=score, reasoning="" if failed else HOSTILE,
                    text="no tags" if failed else f"<think>{HOSTILE}</think><answer>{score}</answer>",
                )
            )  # fmt: skip
    return rows


def _write_curves(folder: Path, steps: int, grpo: bool) -> None:
    from lightning.pytorch.loggers.csv_logs import ExperimentWriter

    rng = np.random.default_rng(2)
    writer = ExperimentWriter(str(folder))
    for step in range(0, steps, 5):
        progress = step / steps
        values = {"train/loss": 3 * np.exp(-3 * progress) + 0.2 * rng.random(), "epoch": 0, "lr-AdamW": 1e-5}
        if grpo:
            values = {
                "train/loss": 1e-3 * rng.normal(),
                "train/reward": 0.5 + 0.2 * progress + 0.06 * rng.normal(),
                "train/kl": 0.02 * progress,
                "train/parse_failure_rate": 0.1 * (1 - progress),
                "train/frac_zero_std": 0.1 * rng.random(),
                "train/entropy": 1.2 - 0.4 * progress,
                "epoch": 0,
            }
        writer.log_metrics(values, step)
        if step % 50 == 45:
            writer.log_metrics({"val/srcc_within": 0.3 + 0.5 * progress, "val/srcc": 0.2, "epoch": 0}, step)
    writer.save()


def _write_completions(path: Path, dataset: Manifest) -> None:
    rng = np.random.default_rng(3)
    group = dataset.groups("train")[0]
    with path.open("w", encoding="utf-8") as file:
        for step in (1, 26, 51):
            for member in group.members:
                row = {
                    "step": step, "group": group.id, "image": member.image, "g": member.g,
                    "score": None if member.g < -3 else round(5 + member.g / 2, 1),
                    "reward": float(rng.random()), "advantage": float(rng.normal()),
                    "text": f"<think>{HOSTILE}</think><answer>5.0</answer>",
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")


def write_run(root: Path, crops: int = 4) -> Path:
    """A whole run folder."""
    dataset = _write_dataset(root / "data", crops)
    (root / "evaluation").mkdir()
    for stage, noise in NOISE.items():
        document = evaluation_document(
            _predictions(dataset, noise, 0.3 if stage == "initial" else 0.02 * (stage == "sft")),
            model=f"{stage}@0123456789ab", split="test", dataset=dataset, seconds=3.0,
        )  # fmt: skip
        write_evaluation(root / "evaluation" / f"{stage}.json", document)
    for stage, steps in [("sft", 400), ("calibration", 40), ("grpo", 300)]:
        (root / stage).mkdir()
        _write_curves(root / stage, steps, stage == "grpo")
    _write_completions(root / "grpo" / "completions.jsonl", dataset)
    steps = {"data": 65.2, "sft": 180.0, "calibration": 12.5, "grpo": 240.3, "evaluation": 20.0}
    write_atomically(root / "run.json", json.dumps({"steps": {k: {"seconds": v} for k, v in steps.items()}}))
    return root
