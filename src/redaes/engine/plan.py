"""What a build will do, before it does it: which photographs are held out, which sources are cut and for what."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest

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


class Plan:
    """All sources of a build, in order, made one by one whenever it is iterated: the photographs of a split take turns.

    Args:
        photographs: all there are.
        config: of the build.

    Raises:
        UserError: as `split_photographs`.
    """

    def __init__(self, photographs: Sequence[Photograph], config: EngineConfig) -> None:
        self.splits = split_photographs(photographs, config)
        self.config = config
        wanted = {"train": config.sources.train, "validation": config.sources.validation, "test": config.sources.test}
        self.counts = {
            split: (len(chosen) if wanted[split] is None else wanted[split] or 0) if chosen else 0
            for split, chosen in self.splits.items()
        }

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Job]:
        config = self.config
        ids = (_identity("train", index) for index in range(self.counts["train"]))
        groups = set(sample(ids, config.groups.train, config.seed, "groups"))
        for split, chosen in self.splits.items():
            for index in range(self.counts[split]):
                source = _source(split, index, chosen[index % len(chosen)])
                pair, group = config.pairs and split != "test", split != "train" or source.id in groups
                yield Job(source, pair, group)


def plan_jobs(photographs: Sequence[Photograph], config: EngineConfig) -> Plan:
    """The sources of a build and what each is for."""
    return Plan(photographs, config)


def _identity(split: Split, index: int) -> str:
    return f"{split}-{index:06d}"


def _source(split: Split, index: int, photograph: Photograph) -> Source:
    identity = _identity(split, index)
    return Source(
        id=identity,
        image=f"images/{identity}.png",
        photograph=photograph.name,
        split=split,
        license=photograph.license,
    )


def sample(ids: Iterable[str], count: int, seed: int, purpose: str) -> list[str]:
    """A uniform sample that does not depend on anything but the seed, the purpose and the ids."""
    return nsmallest(count, ids, key=lambda i: derive(seed, purpose, i))


def sample_calibration(source_ids: Iterable[str], config: EngineConfig) -> set[str]:
    """The calibration set: uniform from the training sources [P: 200]."""
    return set(sample(source_ids, config.calibration, config.seed, "calibration"))
