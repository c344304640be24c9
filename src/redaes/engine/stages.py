"""The stages of the data engine as pure functions over records (Sec. 3.1, App. B-C).

    photograph -> source            cut, maybe with a fault
    source -> ScoreRecord           every judge scores, fused: S(x)
    source -> Instruction           one targeted edit
    Instruction -> edits            every editor carries it out
    edit -> passed                  verifiers averaged, threshold; x stays if enough edits pass
    (x, edit) -> Fused              every judge compares; a pair stays only if all say better
    kept variants -> PairRecord     one, uniformly at random
    source -> GroupRecord           diverse instructions, one random editor each; direction must be unanimous

Every random choice derives from (run seed, source id, purpose), never from the order in which answers arrive.
Images come in and go out as Pillow images; records name them by id.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from redaes.editors import Editor
from redaes.engine.config import EngineConfig, FaultSettings, SourceSettings
from redaes.errors import UserError
from redaes.fusion import Fusion
from redaes.instructors import Instructor
from redaes.judges import Judge
from redaes.records import (
    Edit,
    Fused,
    GroupMember,
    GroupRecord,
    Instruction,
    PairRecord,
    ScoreRecord,
    Source,
    Verdict,
    Verification,
)
from redaes.registry import PluginSpec, create
from redaes.verifiers import Verifier

if TYPE_CHECKING:
    from PIL.Image import Image


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit number from the run's seed and what it is for; equal parts, equal number, on any machine."""
    text = "/".join(str(p) for p in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *parts: str | int) -> random.Random:
    """A random stream of its own for one purpose."""
    return random.Random(derive(seed, *parts))


@dataclass(frozen=True)
class Crew:
    """The plug-ins a build works with, made once per process."""

    editors: tuple[Editor, ...]
    judges: tuple[Judge, ...]
    verifiers: tuple[Verifier, ...]
    instructor: Instructor
    fusion: Fusion

    @classmethod
    def from_config(cls, config: EngineConfig) -> "Crew":
        """Create every plug-in that the configuration names.

        Raises:
            UserError: an unknown plug-in or setting, or two of a kind with the same name: the records and Tab. 8 and 9
                could not tell them apart.
        """
        return cls(
            editors=_distinct("editors", config.editors),
            judges=_distinct("judges", config.judges),
            verifiers=_distinct("verifiers", config.verifiers),
            instructor=create("instructors", config.instructor),
            fusion=create("fusion", config.fusion),
        )


def _distinct(kind: str, specs: Sequence[PluginSpec]) -> tuple[Any, ...]:
    """The plug-ins of one kind, each with a name of its own."""
    made = tuple(create(kind, spec) for spec in specs)
    for name, count in Counter(plugin.name for plugin in made).items():
        if count > 1:
            raise UserError(
                f"{kind}: {count} are called {name!r}; give each a name: {{class_path: ..., init_args: {{name: ...}}}}"
            )
    return made


@dataclass(frozen=True)
class Variant:
    """An edit with its pixels, on its way through the stages."""

    record: Edit
    image: "Image"


def cut_source(photograph: "Image", settings: SourceSettings, rng: random.Random) -> "Image":
    """A random square crop of a photograph, resized with antialiasing, maybe with one fault."""
    from PIL import Image as PILImage

    shorter = min(photograph.size)
    side = max(1, round(shorter * rng.uniform(*settings.crop)))
    left = rng.randint(0, photograph.width - side)
    top = rng.randint(0, photograph.height - side)
    box = (left, top, left + side, top + side)
    source = photograph.resize((settings.size, settings.size), PILImage.Resampling.LANCZOS, box=box)
    return add_fault(source, settings.faults, rng)


def vary(source: "Image", rng: random.Random) -> "Image":
    """One of the 48 pictures that mirroring, quarter turns and exchanged colour channels make of one."""
    from PIL import Image as PILImage
    from PIL import ImageOps

    turned = source.rotate(90 * rng.randrange(4))
    mirrored = ImageOps.mirror(turned) if rng.random() < 0.5 else turned
    return PILImage.merge("RGB", rng.sample(mirrored.split(), 3))


def add_fault(image: "Image", faults: FaultSettings, rng: random.Random) -> "Image":
    """With the configured probability, one fault of exposure, focus, noise or colour."""
    if rng.random() >= faults.share:
        return image
    from redaes.editors.operations import OPERATIONS

    operation = OPERATIONS[rng.choice(faults.categories)]
    return operation.operator(image, rng.uniform(*faults.strength), rng)


def closest_reasoning(verdicts: Sequence[Verdict], value: float) -> str:
    """The words of the judge closest to the fused value, ties to the first in config order."""
    return min(verdicts, key=lambda v: abs(v.value - value)).reasoning


def score_source(source: Source, image: "Image", crew: Crew) -> ScoreRecord:
    """Every judge scores the source; the fused score is S(x)."""
    verdicts = tuple(judge.score(image) for judge in crew.judges)
    fused = crew.fusion([v.value for v in verdicts])
    return ScoreRecord(
        source=source, verdicts=verdicts, fused=fused, reasoning=closest_reasoning(verdicts, fused.value)
    )


def make_variant(
    source: Source, image: "Image", instruction: Instruction, editor: Editor, name: str, seed: int
) -> Variant:
    """One editor carries out one instruction."""
    edited = editor.edit(image, instruction, derive(seed, source.id, "edit", name))
    identity = f"{source.id}-{name}"
    path = f"images/{identity}.png"
    record = Edit(id=identity, source_id=source.id, editor=editor.name, instruction=instruction, image=path)
    return Variant(record, edited)


def mean_verification(verifications: Sequence[Verification]) -> float:
    """The verifiers' values averaged [ours]."""
    return sum(v.value for v in verifications) / len(verifications)


def verify(variant: Variant, image: "Image", crew: Crew, threshold: float) -> Variant:
    """VIEScore's sub-scores of every verifier, and whether their mean reaches the threshold."""
    checks = tuple(v.verify(image, variant.image, variant.record.instruction) for v in crew.verifiers)
    passed = mean_verification(checks) >= threshold
    return replace(variant, record=variant.record.model_copy(update={"verifications": checks, "passed": passed}))


def judge(variant: Variant, image: "Image", crew: Crew) -> Variant:
    """Every judge compares the edit with its source; the differences are fused."""
    verdicts = tuple(j.compare(image, variant.image) for j in crew.judges)
    fused = crew.fusion([v.value for v in verdicts])
    return replace(variant, record=variant.record.model_copy(update={"verdicts": verdicts, "fused": fused}))


def all_better(edit: Edit) -> bool:
    """Every judge says the edit is better."""
    return bool(edit.verdicts) and all(v.value > 0 for v in edit.verdicts)


def same_direction(edit: Edit) -> bool:
    """Every judge says better, or every judge says worse."""
    return all_better(edit) or (bool(edit.verdicts) and all(v.value < 0 for v in edit.verdicts))


def choose(kept: Sequence[Variant], source_id: str, seed: int) -> Variant:
    """One of the kept variants, uniformly at random."""
    return stream(seed, source_id, "choice").choice(list(kept))


def pair_candidates(source: Source, image: "Image", crew: Crew, config: EngineConfig) -> list[Variant]:
    """Instruction, M edits, verification, and judgement where enough edits pass; every edit is returned."""
    instruction = crew.instructor.instruct(image, derive(config.seed, source.id, "instruct"))
    variants = [
        make_variant(source, image, instruction, editor, f"p{index}", config.seed)
        for index, editor in enumerate(crew.editors)
    ]
    variants = [verify(v, image, crew, config.verification.threshold) for v in variants]
    if sum(bool(v.record.passed) for v in variants) < config.min_passing:
        return variants
    return [judge(v, image, crew) if v.record.passed else v for v in variants]


def choose_pair(scored: ScoreRecord, candidates: Sequence[Variant], seed: int) -> PairRecord | None:
    """The pre-training sample of a source (Eq. 3), if any pair is unanimously better."""
    kept = [v for v in candidates if all_better(v.record) and _fused(v.record).value > 0]
    if not kept:
        return None
    edit = choose(kept, scored.source.id, seed).record
    delta = min(10.0, _fused(edit).value)
    return PairRecord(
        id=scored.source.id,
        source=scored.source,
        score=scored.fused.value,
        edit=edit,
        delta=delta,
        reasoning=closest_reasoning(edit.verdicts, delta),
    )


def group_candidates(source: Source, image: "Image", crew: Crew, config: EngineConfig) -> list[Variant]:
    """Diverse instructions, one random editor each, judged; every edit is returned."""
    seed = derive(config.seed, source.id, "diversify")
    instructions = crew.instructor.diversify(image, config.groups.instructions, seed)
    rng = stream(config.seed, source.id, "editors")
    variants = [
        make_variant(source, image, instruction, rng.choice(crew.editors), f"g{index}", config.seed)
        for index, instruction in enumerate(instructions)
    ]
    return [judge(v, image, crew) for v in variants]


def make_group(scored: ScoreRecord, candidates: Sequence[Variant], config: EngineConfig) -> GroupRecord | None:
    """The source and its unanimously judged variants (Eq. 4), or None with too few of them."""
    kept = [v.record for v in candidates if same_direction(v.record)][: config.groups.max_variants]
    if len(kept) < config.groups.min_variants:
        return None
    source = scored.source
    members = [GroupMember(image=source.image, g=0.0)]
    members += [GroupMember(image=e.image, g=max(-10.0, min(10.0, _fused(e).value)), edit=e) for e in kept]
    return GroupRecord(id=source.id, source=source, score=scored.fused.value, members=tuple(members))


def _fused(edit: Edit) -> Fused:
    if edit.fused is None:
        raise ValueError(f"edit {edit.id} was never judged")
    return edit.fused
