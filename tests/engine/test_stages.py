"""Lazy and eager keep the same samples in any world, dead letters included; lazy asks nothing that cannot matter."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chisquare

from redaes.engine.asking import Asking
from redaes.engine.calling import GivenUp
from redaes.engine.config import EngineConfig
from redaes.engine.objects import ObjectStore, Picture
from redaes.engine.stages import (
    Candidate,
    Crew,
    Scene,
    ask_the_rest,
    can_pass,
    derive,
    first_better,
    group_candidates,
    kept_variants,
    make_group,
    make_pair,
    pair_candidates,
    saved_calls,
    score_source,
    shuffled,
)
from redaes.fusion import ConsensusFusion
from redaes.records import Instruction, Source, Verdict, Verification

IMAGE = Image.new("RGB", (4, 4))
DEAD = None


@dataclass
class World:
    """Every answer that would be given, by what is asked about; `None` is a question that is given up.

    Edits are told apart by their pixels: the first is the editor's number, the second the instruction's.
    """

    scores: list[float | None]
    edits: dict[tuple[int, int], bool]
    checks: dict[tuple[int, int], list[float | None]]
    deltas: dict[tuple[int, int], list[float | None]]
    instructions: int
    asked: Counter[str] = field(default_factory=Counter)

    def ask(
        self,
        role: str,
        plugin: Any,
        images: Any,
        question: Any,
        function: Callable[[], Any],
        source: str,
        dump: Any,
        load: Any,
    ) -> Any:
        self.asked[role] += 1
        return function()


@dataclass
class TableJudge:
    world: World
    index: int

    @property
    def name(self) -> str:
        return f"j{self.index}"

    def score(self, image: Image.Image) -> Verdict:
        return self._verdict(self.world.scores[self.index])

    def compare(self, source: Image.Image, edited: Image.Image) -> Verdict:
        return self._verdict(self.world.deltas[number(edited)][self.index])

    def _verdict(self, value: float | None) -> Verdict:
        return Verdict(judge=self.name, value=alive(value), reasoning=f"{self.name} says so")


@dataclass
class TableVerifier:
    world: World
    index: int

    @property
    def name(self) -> str:
        return f"v{self.index}"

    def verify(self, source: Image.Image, edited: Image.Image, instruction: Instruction) -> Verification:
        value = alive(self.world.checks[number(edited)][self.index])
        return Verification(verifier=self.name, success=value, over_editing=10.0)


@dataclass
class TableEditor:
    world: World
    index: int

    @property
    def name(self) -> str:
        return f"e{self.index}"

    def edit(self, image: Image.Image, instruction: Instruction, seed: int) -> Image.Image:
        which = (self.index, int(instruction.text))
        alive(1.0 if self.world.edits[which] else DEAD)
        edited = image.copy()
        edited.putpixel((0, 0), (*which, 1))
        return edited


@dataclass
class TableInstructor:
    world: World
    name: str = "i"

    def instruct(self, image: Image.Image, seed: int) -> Instruction:
        return instruction(0)

    def diversify(self, image: Image.Image, count: int, seed: int) -> list[Instruction]:
        return [instruction(1 + k) for k in range(min(count, self.world.instructions))]


def instruction(index: int) -> Instruction:
    return Instruction(text=str(index), category="exposure", orientation="quality")


def number(edited: Image.Image) -> tuple[int, int]:
    editor, text, _ = edited.getpixel((0, 0))  # type: ignore[misc]
    return editor, text


def alive(value: float | None) -> float:
    if value is None:
        raise GivenUp("key", "x", "given up")
    return value


def world_of(seed: int, mortal: bool = True) -> tuple[World, EngineConfig]:
    """A world and a configuration for it, both at random; a mortal one may hold answers that never come."""
    rng = random.Random(seed)
    editors, judges, verifiers, instructions = (rng.randint(1, most) for most in (7, 5, 3, 8))
    goodness = rng.randint(0, 4)  # worlds in which little passes, and worlds in which most does
    death = rng.choice([0.0, 0.0, 0.03, 0.2]) if mortal else 0.0

    def answers(values: list[float], count: int) -> list[float | None]:
        return [DEAD if rng.random() < death else rng.choice(values) for _ in range(count)]

    pairs = [(e, i) for e in range(editors) for i in range(instructions + 1)]
    world = World(
        scores=answers([3.0, 6.0], judges),
        edits={p: rng.random() >= death for p in pairs},
        checks={p: answers([0.0, 5.0, 7.0, 7.5, 8.0, *[10.0] * goodness], verifiers) for p in pairs},
        deltas={p: answers([-1.0, 0.0, 0.5, *[2.5] * goodness], judges) for p in pairs},
        instructions=rng.randint(0, instructions),
    )
    fewest = rng.randint(1, instructions)
    config = EngineConfig.model_validate(
        {
            "seed": rng.randint(0, 1000),
            "editors": ["e"] * editors,
            "judges": ["j"] * judges,
            "verifiers": ["v"] * verifiers,
            "verification": {
                "threshold": rng.choice([0.0, 5.0, 7.5, 10.0]),
                "min_passing": rng.choice([None, rng.randint(1, editors)]),
            },
            "groups": {
                "instructions": instructions,
                "min_variants": fewest,
                "max_variants": rng.randint(fewest, instructions),
            },
        }
    )
    return world, config


@dataclass
class Kept:
    """What the walks keep of a source; None if a dead letter leaves the source out."""

    dataset: list[str] | None
    candidates: tuple[list[Candidate], list[Candidate]]
    asked: Counter[str]


def walk(world: World, config: EngineConfig, eager: bool, source_id: str = "x") -> Kept:
    world.asked = Counter()
    judges = tuple(TableJudge(world, k) for k in range(len(config.judges)))
    verifiers = tuple(TableVerifier(world, k) for k in range(len(config.verifiers)))
    editors = tuple(TableEditor(world, k) for k in range(len(config.editors)))
    crew = Crew(editors, judges, verifiers, TableInstructor(world), ConsensusFusion())
    source = Source(id=source_id, image=f"images/{source_id}.png", photograph="p", split="train")
    asking = Asking(world.ask, ObjectStore(Path("unused")), source_id)
    scene = Scene(source, Picture.of(IMAGE), crew, config, asking)
    for_pair: list[Candidate] = []
    for_group: list[Candidate] = []
    try:
        scored = score_source(scene)
        for_pair, for_group = pair_candidates(scene), group_candidates(scene)
        chosen = first_better(shuffled(for_pair, source_id, config.seed), config.min_passing)
        variants = kept_variants(for_group, config.groups.min_variants, config.groups.max_variants)
    except GivenUp:
        return Kept(None, (for_pair, for_group), world.asked)
    if eager:
        ask_the_rest(for_pair, for_group, config.min_passing)
    records = [scored, *([make_pair(scored, chosen.record())] if chosen else [])]
    records += [make_group(scored, [c.record() for c in variants])] if variants else []
    return Kept([r.model_dump_json() for r in records], (for_pair, for_group), world.asked)


@given(st.integers(0, 2**32))
@settings(max_examples=2500, deadline=None)
def test_lazy_and_eager_keep_the_same_in_any_world(seed):
    world, config = world_of(seed)
    eager, lazy = walk(world, config, eager=True), walk(world, config, eager=False)
    assert lazy.dataset == eager.dataset
    assert all(lazy.asked[role] <= eager.asked[role] for role in eager.asked)


@given(st.integers(0, 2**32))
@settings(max_examples=600, deadline=None)
def test_what_is_kept_is_what_the_method_keeps(seed):
    """The method read from the tables alone: no walk, no early stop, no order of questions."""
    world, config = world_of(seed, mortal=False)
    kept = walk(world, config, eager=False)
    passing = [
        e
        for e in range(len(config.editors))
        if sum(world.checks[e, 0]) / len(config.verifiers) >= config.verification.threshold  # type: ignore[arg-type]
    ]
    better = [e for e in passing if all(d > 0 for d in world.deltas[e, 0])]  # type: ignore[operator]
    assert kept.dataset is not None
    pairs = [text for text in kept.dataset if '"delta"' in text]
    assert bool(pairs) == (len(passing) >= config.min_passing and bool(better))
    assert not pairs or any(f'"editor":"e{e}"' in pairs[0] for e in better)
    groups = [text for text in kept.dataset if '"members"' in text]
    unanimous = [
        c.id
        for c in kept.candidates[1]
        if len({(d > 0) - (d < 0) for d in world.deltas[c.editor.index, int(c.instruction.text)]} - {0}) == 1  # type: ignore[attr-defined,operator]
        and 0.0 not in world.deltas[c.editor.index, int(c.instruction.text)]  # type: ignore[attr-defined]
    ]
    assert bool(groups) == (len(unanimous) >= config.groups.min_variants)
    if groups:
        expected = unanimous[: config.groups.max_variants]
        assert [i for i in unanimous if f'"id":"{i}"' in groups[0]] == expected


@given(st.integers(0, 2**32))
@settings(max_examples=600, deadline=None)
def test_eager_asks_everything_and_the_saved_calls_are_the_difference(seed):
    world, config = world_of(seed, mortal=False)
    eager, lazy = walk(world, config, eager=True), walk(world, config, eager=False)
    editors, groups = len(config.editors), len(eager.candidates[1])
    assert eager.asked["edit"] == editors + groups
    assert eager.asked["verify"] == editors * len(config.verifiers)
    saved = saved_calls(*lazy.candidates, config)
    assert saved["edit"] == eager.asked["edit"] - lazy.asked["edit"]
    assert saved["verify"] == eager.asked["verify"] - lazy.asked["verify"]
    assert 0 <= saved["compare"] <= eager.asked["compare"] - lazy.asked["compare"]


def test_no_question_is_put_whose_answer_cannot_matter():
    """One world told in full: four of five must pass, three judges, two verifiers."""
    config = EngineConfig.model_validate({"editors": ["e"] * 5, "judges": ["j"] * 3, "verifiers": ["v"] * 2})
    everything = {(e, 0): [10.0, 10.0] for e in range(5)}
    order = [int(c) for c in shuffled("01234", "x", config.seed)]

    def counted(checks: dict[int, list[float]], deltas: dict[int, list[float]]) -> tuple[int, int, int]:
        world = World(
            scores=[5.0] * 3,
            edits={(e, 0): True for e in range(5)},
            checks=everything | {(order[k], 0): v for k, v in checks.items()},  # type: ignore[arg-type]
            deltas={(e, 0): [1.0] * 3 for e in range(5)} | {(order[k], 0): v for k, v in deltas.items()},  # type: ignore[arg-type]
            instructions=0,
        )
        asked = walk(world, config, eager=False).asked
        return asked["edit"], asked["verify"], asked["compare"]

    assert counted({}, {}) == (4, 8, 3), "the fifth is not made, and only the first is judged"
    assert counted({0: [4.9, 10.0]}, {}) == (5, 9, 3), "4.9 and 10 are less than 7.5: the second is not asked"
    assert counted({0: [4.0, 10.0], 1: [4.0, 10.0]}, {}) == (2, 2, 0), "two failures leave too few"
    assert counted({}, {0: [1.0, -1.0, 1.0]}) == (4, 8, 5), "the first dissent ends a variant"
    dissent = {k: [0.0, 1.0, 1.0] for k in range(5)}
    assert counted({}, dissent) == (5, 10, 5), "the fifth is made when none of four is better"


def test_the_choice_among_the_valid_is_uniform():
    """Whatever the valid ones are, the first of them in the order of the walk is any of them equally often."""
    for valid in ("abcd", "bd", "ace"):
        firsts = Counter(next(c for c in shuffled("abcde", f"source-{k}", seed=0) if c in valid) for k in range(4000))
        assert chisquare([firsts[c] for c in valid]).pvalue > 0.001


def test_the_order_of_the_walk_is_uniform_among_all_orders():
    orders = Counter("".join(shuffled("abcd", f"source-{k}", seed=3)) for k in range(12000))
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 0.001
    assert derive(3, "source-1", "choice") != derive(3, "source-2", "choice")


@pytest.mark.parametrize(("first", "threshold", "possible"), [(4.99, 7.5, False), (5.0, 7.5, True), (0.0, 5.0, True)])
def test_a_first_verifier_may_settle_it(first, threshold, possible):
    low = Verification(verifier="v", success=first, over_editing=10)
    assert can_pass([low], 2, threshold) == possible
