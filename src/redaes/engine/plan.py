"""What a build will do, before it does it: which photographs are held out, which sources are cut and for what."""

from collections.abc import Sequence
from dataclasses import dataclass

from redaes.engine.config import EngineConfig
from redaes.engine.stages import derive
from redaes.errors import UserError, nearest
from redaes.records import Source, Split
from redaes.sources import Photograph


@dataclass(frozen=True)
class Job:
    """One source to work on: `pair` makes a pre-training sample of it, `group` an RL group."""

    source: Source
    pair: bool
    group: bool


def split_photographs(photographs: Sequence[Photograph], config: EngineConfig) -> dict[Split, list[Photograph]]:
    """Every photograph in exactly one split: by the configured names, else by shares in a seeded random order.

    Raises:
        UserError: a configured name that the source does not have, or no photograph left to train on.
    """
    names = [p.name for p in photographs]
    for name in (*config.split.test, *config.split.validation):
        if name not in names:
            raise UserError(f"split: the source has no photograph {name!r} ({nearest(name, names)})")
    if config.split.test or config.split.validation:
        held = {**dict.fromkeys(config.split.test, "test"), **dict.fromkeys(config.split.validation, "validation")}
    else:
        shuffled = sorted(names, key=lambda n: derive(config.seed, "split", n))
        tests = round(config.split.test_fraction * len(names)) if len(names) > 1 else 0
        tests = max(tests, 1) if config.split.test_fraction > 0 and len(names) > 1 else tests
        validations = round(config.split.validation_fraction * len(names)) if len(names) > 2 else 0
        held = {n: "test" if k < tests else "validation" for k, n in enumerate(shuffled[: tests + validations])}
    splits: dict[Split, list[Photograph]] = {"train": [], "validation": [], "test": []}
    for photograph in photographs:
        split: Split = held.get(photograph.name, "train")  # type: ignore[assignment]
        splits[split].append(photograph)
    if not splits["train"]:
        raise UserError("split: no photograph is left to train on; hold out fewer")
    return splits


def plan_jobs(photographs: Sequence[Photograph], config: EngineConfig) -> list[Job]:
    """All sources of a build, in order: the photographs of a split take turns."""
    splits = split_photographs(photographs, config)
    counts: dict[Split, int] = {
        "train": config.sources.train,
        "validation": config.sources.validation,
        "test": config.sources.test,
    }
    jobs = []
    for split, chosen in splits.items():
        sources = [
            Source(
                id=f"{split}-{index:06d}",
                image=f"images/{split}-{index:06d}.png",
                photograph=chosen[index % len(chosen)].name,
                split=split,
                license=chosen[index % len(chosen)].license,
            )
            for index in range(counts[split] if chosen else 0)
        ]
        groups = _sample([s.id for s in sources], config.groups.train, config.seed, "groups")
        jobs += [
            Job(s, pair=config.pairs and split != "test", group=split != "train" or s.id in groups) for s in sources
        ]
    return jobs


def _sample(ids: Sequence[str], count: int, seed: int, purpose: str) -> set[str]:
    """A uniform sample that does not depend on anything but the seed, the purpose and the ids."""
    return set(sorted(ids, key=lambda i: derive(seed, purpose, i))[:count])


def sample_calibration(source_ids: Sequence[str], config: EngineConfig) -> set[str]:
    """The calibration set: uniform from the training sources [P: 200]."""
    return _sample(source_ids, config.calibration, config.seed, "calibration")
