"""The stages of the data engine (Sec. 3.1, App. B-C).

    photograph -> source            cut, maybe with a fault
    source -> ScoreRecord           every judge scores, fused: S(x)
    source -> Instruction           one targeted edit
    Instruction -> edits            every editor carries it out
    edit -> passed                  verifiers averaged, threshold; x stays if enough edits pass
    (x, edit) -> Fused              every judge compares; a pair stays only if all say better
    kept variants -> PairRecord     one, uniformly at random
    source -> GroupRecord           diverse instructions, one random editor each; direction must be unanimous

*Fewer calls, the same dataset* (METHOD 2). `first_better` and `kept_variants` walk through the edits in an order fixed
beforehand and put only the questions whose answers can still change what is kept: a lazy build ends there. An eager
build then puts the others too, with `ask_the_rest`, for statistics without bias. What is kept is decided by the same
walk in both; so is which sources a dead letter leaves out.

Every random choice derives from (run seed, source id, purpose), never from the order in which answers arrive.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from redaes.calls import Role
from redaes.editors import Editor
from redaes.engine.asking import Asking
from redaes.engine.calling import GivenUp
from redaes.engine.config import EngineConfig, FaultSettings, SourceSettings
from redaes.engine.objects import Picture
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
from redaes.registry import PluginSpec, create, identity_of
from redaes.verifiers import Verifier

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit number from the run's seed and what it is for; equal parts, equal number, on any machine."""
    text = "/".join(str(p) for p in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *parts: str | int) -> random.Random:
    """A random stream of its own for one purpose."""
    return random.Random(derive(seed, *parts))


class Member(NamedTuple):
    """One of the crew: kind of plug-in, what it was made from, itself, and what it is asked."""

    kind: str
    spec: PluginSpec
    plugin: Any
    roles: tuple[Role, ...]

    def identity(self, role: Role) -> Mapping[str, Any]:
        """All that its answers depend on beyond the question: as it says itself, else as it was made."""
        if hasattr(self.plugin, "identity"):
            said: Mapping[str, Any] = self.plugin.identity(role)
            return said
        return identity_of(self.kind, self.spec, self.plugin)


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

    def members(self, config: EngineConfig) -> Iterator[Member]:
        """Everybody who is asked something."""
        kinds: list[tuple[str, Sequence[PluginSpec], Sequence[Any], tuple[Role, ...]]] = [
            ("judges", config.judges, self.judges, ("score", "compare")),
            ("instructors", [config.instructor], [self.instructor], ("instruct", "diversify")),
            ("editors", config.editors, self.editors, ("edit",)),
            ("verifiers", config.verifiers, self.verifiers, ("verify",)),
        ]
        for kind, specs, plugins, roles in kinds:
            for spec, plugin in zip(specs, plugins, strict=True):
                yield Member(kind, spec, plugin, roles)


def _distinct(kind: str, specs: Sequence[PluginSpec]) -> tuple[Any, ...]:
    """The plug-ins of one kind, each with a name of its own."""
    made = tuple(create(kind, spec) for spec in specs)
    for name, count in Counter(plugin.name for plugin in made).items():
        if count > 1:
            raise UserError(
                f"{kind}: {count} are called {name!r}; give each a name: {{class_path: ..., init_args: {{name: ...}}}}"
            )
    return made


def cut_source(photograph: "Image", settings: SourceSettings, rng: random.Random) -> "Image":
    """A random square crop of a photograph, or the whole of it, resized with antialiasing, maybe with one fault."""
    from PIL.Image import Resampling

    if settings.crop is None:
        source = photograph.copy()
        source.thumbnail((settings.size, settings.size), Resampling.LANCZOS, reducing_gap=2.0)
        return add_fault(source, settings.faults, rng)
    side = max(1, round(min(photograph.size) * rng.uniform(*settings.crop)))
    left = rng.randint(0, photograph.width - side)
    top = rng.randint(0, photograph.height - side)
    box = (left, top, left + side, top + side)
    source = photograph.resize((settings.size, settings.size), Resampling.LANCZOS, box=box)
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


@dataclass(frozen=True)
class Scene:
    """One source, whom to ask about it, and how."""

    source: Source
    picture: Picture
    crew: Crew
    config: EngineConfig
    asking: Asking


def score_source(scene: Scene) -> ScoreRecord:
    """Every judge scores the source; the fused score is S(x)."""
    verdicts = tuple(scene.asking.score(judge, scene.picture) for judge in scene.crew.judges)
    fused = scene.crew.fusion([v.value for v in verdicts])
    return ScoreRecord(
        source=scene.source, verdicts=verdicts, fused=fused, reasoning=closest_reasoning(verdicts, fused.value)
    )


def closest_reasoning(verdicts: Sequence[Verdict], value: float) -> str:
    """The words of the judge closest to the fused value, ties to the first in config order."""
    return min(verdicts, key=lambda v: abs(v.value - value)).reasoning


def mean_verification(verifications: Sequence[Verification]) -> float:
    """The verifiers' values averaged [ours]."""
    return fsum(v.value for v in verifications) / len(verifications)


def can_pass(verifications: Sequence[Verification], verifiers: int, threshold: float) -> bool:
    """Whether the mean of all verifiers reaches the threshold, if those not asked yet gave a 10.

    Example:
        >>> low = Verification(verifier="a", success=4.9, over_editing=9.0)
        >>> can_pass([low], 2, threshold=7.5)
        False
    """
    missing = [10.0] * (verifiers - len(verifications))
    return fsum([*(v.value for v in verifications), *missing]) / verifiers >= threshold


def improving(verdicts: Sequence[Verdict]) -> bool:
    """Nobody says other than better."""
    return all(v.value > 0 for v in verdicts)


def one_direction(verdicts: Sequence[Verdict]) -> bool:
    """All say better, or all say worse."""
    return improving(verdicts) or all(v.value < 0 for v in verdicts)


def all_better(edit: Edit) -> bool:
    """Every judge was asked and says the edit is better."""
    return edit.fused is not None and improving(edit.verdicts)


def same_direction(edit: Edit) -> bool:
    """Every judge was asked; all say better, or all say worse."""
    return edit.fused is not None and one_direction(edit.verdicts)


class Candidate:
    """An edit that somebody may make, verify and judge; each is asked at most once.

    Args:
        scene: its source.
        name: `p2` is the third editor's for the pair, `g2` that of the group's third instruction.
        editor: who carries the instruction out.
        instruction: what to do.
    """

    def __init__(self, scene: Scene, name: str, editor: Editor, instruction: Instruction) -> None:
        self.scene = scene
        self.id = f"{scene.source.id}-{name}"
        self.image = f"images/{self.id}.png"
        self.seed = derive(scene.config.seed, scene.source.id, "edit", name)
        self.editor = editor
        self.instruction = instruction
        self.picture: Picture | None = None
        self.verifications: list[Verification] = []
        self.verdicts: list[Verdict] = []
        self.passed: bool | None = None

    def edited(self) -> Picture:
        """The editor's answer."""
        if self.picture is None:
            asking, picture = self.scene.asking, self.scene.picture
            self.picture = asking.edit(self.editor, picture, self.instruction, self.seed)
        return self.picture

    def passes(self, thorough: bool = False) -> bool:
        """Whether the mean of the verifiers reaches the threshold. Unless `thorough`, stop where it no longer can."""
        edited, verifiers = self.edited(), self.scene.crew.verifiers
        threshold = self.scene.config.verification.threshold
        for verifier in verifiers[len(self.verifications) :]:
            if not (thorough or can_pass(self.verifications, len(verifiers), threshold)):
                break
            check = self.scene.asking.verify(verifier, self.scene.picture, edited, self.instruction)
            self.verifications.append(check)
        self.passed = can_pass(self.verifications, len(verifiers), threshold)
        return self.passed

    def judged(self, agree: Callable[[Sequence[Verdict]], bool] = improving, thorough: bool = False) -> bool:
        """Whether all judges agree. Unless `thorough`, stop at the first who does not."""
        edited = self.edited()
        for judge in self.scene.crew.judges[len(self.verdicts) :]:
            if not (thorough or agree(self.verdicts)):
                break
            self.verdicts.append(self.scene.asking.compare(judge, self.scene.picture, edited))
        return agree(self.verdicts)

    def record(self, kept: bool = True) -> Edit:
        """What is known of it; an image that is not kept has no name."""
        asked_all = len(self.verdicts) == len(self.scene.crew.judges)
        return Edit(
            id=self.id,
            source_id=self.scene.source.id,
            editor=self.editor.name,
            instruction=self.instruction,
            image=self.image if kept else "",
            verifications=tuple(self.verifications),
            passed=self.passed,
            verdicts=tuple(self.verdicts),
            fused=self.scene.crew.fusion([v.value for v in self.verdicts]) if asked_all else None,
        )


def pair_candidates(scene: Scene) -> list[Candidate]:
    """One targeted instruction for all M editors."""
    seed = derive(scene.config.seed, scene.source.id, "instruct")
    instruction = scene.asking.instruct(scene.crew.instructor, scene.picture, seed)
    return [Candidate(scene, f"p{index}", editor, instruction) for index, editor in enumerate(scene.crew.editors)]


def shuffled(candidates: Sequence[T], source_id: str, seed: int) -> list[T]:
    """The order of the walk, uniformly at random: the first valid one in it is a uniform choice among the valid."""
    return stream(seed, source_id, "choice").sample(candidates, len(candidates))


def first_better(candidates: Sequence[Candidate], min_passing: int) -> Candidate | None:
    """The first candidate that passes and is unanimously better, if `min_passing` of all pass.

    No question is put whose answer cannot matter: no edit is made after the failure that leaves too few, nor, once
    enough have passed, before those are judged; the first that is better ends it.
    """
    passing: list[Candidate] = []
    waiting = iter(candidates)
    failures_left = len(candidates) - min_passing
    while len(passing) < min_passing:
        candidate = next(waiting)
        if candidate.passes():
            passing.append(candidate)
        elif failures_left == 0:
            return None
        else:
            failures_left -= 1
    better = (c for c in passing if _is_better(c))
    return next(better, None) or next((c for c in waiting if c.passes() and _is_better(c)), None)


def _is_better(candidate: Candidate) -> bool:
    """All judges say better, and so does what they are fused to."""
    return candidate.judged(improving) and _fused(candidate.record()).value > 0


def make_pair(scored: ScoreRecord, edit: Edit) -> PairRecord:
    """The pre-training sample of a source (Eq. 3)."""
    delta = min(10.0, _fused(edit).value)
    return PairRecord(
        id=scored.source.id,
        source=scored.source,
        score=scored.fused.value,
        edit=edit,
        delta=delta,
        reasoning=closest_reasoning(edit.verdicts, delta),
    )


def group_candidates(scene: Scene) -> list[Candidate]:
    """Diverse instructions, one random editor each."""
    config, crew = scene.config, scene.crew
    seed = derive(config.seed, scene.source.id, "diversify")
    instructions = scene.asking.diversify(crew.instructor, scene.picture, config.groups.instructions, seed)
    rng = stream(config.seed, scene.source.id, "editors")
    return [
        Candidate(scene, f"g{index}", rng.choice(crew.editors), instruction)
        for index, instruction in enumerate(instructions)
    ]


def kept_variants(candidates: Sequence[Candidate], fewest: int, most: int) -> list[Candidate]:
    """The first `most` variants on whose direction all judges agree; none if there are fewer than `fewest`.

    It stops when there are enough, or when too few can follow.
    """
    kept: list[Candidate] = []
    for index, candidate in enumerate(candidates):
        if len(kept) == most or len(kept) + len(candidates) - index < fewest:
            break
        if candidate.judged(one_direction):
            kept.append(candidate)
    return kept if len(kept) >= fewest else []


def make_group(scored: ScoreRecord, kept: Sequence[Edit]) -> GroupRecord:
    """The source and its unanimously judged variants (Eq. 4)."""
    source = scored.source
    members = [GroupMember(image=source.image, g=0.0)]
    members += [GroupMember(image=e.image, g=max(-10.0, min(10.0, _fused(e).value)), edit=e) for e in kept]
    return GroupRecord(id=source.id, source=source, score=scored.fused.value, members=tuple(members))


def ask_the_rest(for_pair: Sequence[Candidate], for_group: Sequence[Candidate], min_passing: int) -> None:
    """Put the questions that the walks left out: they change no pair and no group, and may well be given up."""
    for candidate in for_pair:
        with suppress(GivenUp):
            candidate.passes(thorough=True)
    enough = sum(bool(c.passed) for c in for_pair) >= min_passing
    for candidate in (*for_group, *(c for c in for_pair if enough and c.passed)):
        with suppress(GivenUp):
            candidate.judged(thorough=True)


def saved_calls(for_pair: Sequence[Candidate], for_group: Sequence[Candidate], config: EngineConfig) -> dict[str, int]:
    """Calls that an eager build makes and the walks left out.

    Of comparisons it is the least number: who of the edits not made would have passed, and been judged, is not known.
    """
    candidates = [*for_pair, *for_group]
    passing = sum(bool(c.passed) for c in for_pair)
    judged = len(for_group) + (passing if passing >= config.min_passing else 0)
    return {
        "edit": sum(c.picture is None for c in candidates),
        "verify": len(for_pair) * len(config.verifiers) - sum(len(c.verifications) for c in for_pair),
        "compare": judged * len(config.judges) - sum(len(c.verdicts) for c in candidates),
    }


def _fused(edit: Edit) -> Fused:
    if edit.fused is None:
        raise ValueError(f"edit {edit.id} was not judged by all")
    return edit.fused
