"""Lightning data modules: a dataset folder in, batches encoded for the model out.

Encoding needs the model's processor, which the LightningModule owns; it is fetched when the loaders are made, and
runs in the loader's workers.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import LightningDataModule
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from redaes.data.groups import Batching, GroupBatchSampler, Member, select_members
from redaes.data.manifest import Manifest
from redaes.data.samples import Objective, Sample, build_samples, compare_swapped
from redaes.errors import UserError
from redaes.models.processor import VisionTextBatch, VisionTextProcessor
from redaes.prompts import render
from redaes.records import Orientation, PairRecord, Split

BOTH: tuple[Orientation, ...] = ("quality", "content")


@dataclass
class GroupBatch:
    """N images that see each other in the reward.

    Attributes:
        prompts: N encoded prompts, one image each.
        g: (N,) float, consensus differences from each image's own source.
        source_scores: (N,) float, S(x) of each image's source.
        sets: N names; images of the same name are compared in the reward.
        positions: (N,) long, place of each image in the step's batch, which several processes may share.
        members: the N members, for logs.
    """

    prompts: VisionTextBatch
    g: Tensor
    source_scores: Tensor
    sets: list[str]
    positions: Tensor
    members: list[Member]

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on `device`."""
        return type(self)(
            prompts=self.prompts.to(device),
            g=self.g.to(device),
            source_scores=self.source_scores.to(device),
            sets=self.sets,
            positions=self.positions.to(device),
            members=self.members,
        )


class _Samples(Dataset[tuple[list[Image], Sample]]):
    """Supervised samples with their images loaded."""

    def __init__(self, manifest: Manifest, samples: Sequence[Sample]) -> None:
        self.manifest = manifest
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[list[Image], Sample]:
        sample = self.samples[index]
        return [self.manifest.open(path) for path in sample.images], sample


class _Members(Dataset[tuple[Image, Member, int]]):
    """Members of groups by (group index, member index, position in the step's batch)."""

    def __init__(self, manifest: Manifest, groups: Sequence[Sequence[Member]]) -> None:
        self.manifest = manifest
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: tuple[int, int, int]) -> tuple[Image, Member, int]:
        group, chosen, position = index
        member = self.groups[group][chosen]
        return self.manifest.open(member.image), member, position


@dataclass(frozen=True)
class _EncodeSamples:
    processor: VisionTextProcessor

    def __call__(self, items: Sequence[tuple[list[Image], Sample]]) -> VisionTextBatch:
        images, samples = zip(*items, strict=True)
        return self.processor.batch(images, [s.question for s in samples], [s.answer for s in samples])


@dataclass(frozen=True)
class _EncodeMembers:
    processor: VisionTextProcessor
    batching: Batching

    def __call__(self, items: Sequence[tuple[Image, Member, int]]) -> GroupBatch:
        images, members, positions = zip(*items, strict=True)
        return GroupBatch(
            prompts=self.processor.batch([[i] for i in images], [render("score")] * len(images)),
            g=torch.tensor([m.g for m in members]),
            source_scores=torch.tensor([m.source_score for m in members]),
            sets=[m.group if self.batching == "consistent" else "" for m in members],
            positions=torch.tensor(positions),
            members=list(members),
        )


class _DatasetModule(LightningDataModule):
    """What the three data modules share: an open manifest, the model's processor, the validation groups."""

    def __init__(self, root: str, num_workers: int, seed: int, validation_groups: int | None) -> None:
        super().__init__()
        self.root = Path(root)
        self.num_workers = num_workers
        self.seed = seed
        self.validation_groups = validation_groups

    def setup(self, stage: str) -> None:
        """Open the dataset."""
        self.manifest = Manifest(self.root)

    @property
    def processor(self) -> VisionTextProcessor:
        """The processor of the model being trained."""
        if self.trainer is None:
            raise RuntimeError("a data module encodes for a model: attach it to a Trainer first")
        processor: VisionTextProcessor = self.trainer.lightning_module.processor
        return processor

    def _loader(self, dataset: Dataset[Any], collate: Any, **options: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )

    def _group_loader(
        self, groups: Sequence[Sequence[Member]], sampler: GroupBatchSampler, batching: Batching
    ) -> DataLoader[Any]:
        return self._loader(
            _Members(self.manifest, groups), _EncodeMembers(self.processor, batching), batch_sampler=sampler
        )

    def _validation_groups(self) -> DataLoader[Any]:
        groups = select_members(self.manifest.groups("validation"), BOTH, None)[: self.validation_groups]
        sampler = GroupBatchSampler([len(g) for g in groups], groups_per_batch=4, shuffle=False)
        return self._group_loader(groups, sampler, "consistent")


class ComparativeData(_DatasetModule):
    """Stage 1 and its ablations: a mixture of supervised objectives over the pre-training pairs.

    Args:
        root: the dataset folder.
        objectives: kinds of sample to mix; the paper's stage 1 is `[compare, predict_edit]` (Eq. 5).
        batch_size: samples in a batch (the paper's is 16).
        swap_prob: share of pairs that are also presented exchanged, with -delta [ours; default 0: none].
        orientations: kinds of edit to learn from (Tab. 3).
        num_workers: loader processes.
        seed: of the order.
    """

    def __init__(
        self,
        root: str,
        objectives: list[Objective] = ["compare", "predict_edit"],  # noqa: B006 (jsonargparse copies defaults)
        batch_size: int = 16,
        swap_prob: float = 0.0,
        orientations: list[Orientation] = ["quality", "content"],  # noqa: B006
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(root, num_workers, seed, None)
        self.objectives = objectives
        self.batch_size = batch_size
        self.swap_prob = swap_prob
        self.orientations = orientations

    def samples(self, split: Split) -> list[Sample]:
        """The samples of one split; swapped presentations are added after the others."""
        samples = build_samples(self.manifest, split, self.objectives, self.orientations)
        if "compare" in self.objectives and self.swap_prob > 0:
            pairs = [p for p in self.manifest.pairs(split) if p.edit.instruction.orientation in self.orientations]
            samples += [compare_swapped(p) for p in pairs if self._is_swapped(p)]
        if not samples and split == "train":
            raise UserError(f"{self.root} holds no training sample for objectives {self.objectives}")
        return samples

    def _is_swapped(self, pair: PairRecord) -> bool:
        return random.Random(f"{self.seed}/{pair.id}").random() < self.swap_prob

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training photographs."""
        samples = self.samples("train")
        generator = torch.Generator().manual_seed(self.seed)
        return self._loader(
            _Samples(self.manifest, samples),
            _EncodeSamples(self.processor),
            batch_size=self.batch_size,
            sampler=RandomSampler(samples, generator=generator),
            drop_last=len(samples) >= self.batch_size,
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the validation photographs; none if the dataset has none."""
        samples = self.samples("validation")
        if not samples:
            return []
        dataset = _Samples(self.manifest, samples)
        return [self._loader(dataset, _EncodeSamples(self.processor), batch_size=self.batch_size)]


class CalibrationData(ComparativeData):
    """Stage 2: the 200 calibration samples (Sec. 3.2.2).

    Args:
        root: the dataset folder.
        batch_size: samples in a batch (the paper's is 16).
        num_workers: loader processes.
        seed: of the order.
        validation_groups: validation groups on which ranking is measured after every epoch; None takes all.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        validation_groups: int | None = None,
    ) -> None:
        super().__init__(root, ["calibrate"], batch_size, num_workers=num_workers, seed=seed)
        self.validation_groups = validation_groups

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The validation groups."""
        return [self._validation_groups()] if self.manifest.groups("validation") else []


class GroupData(_DatasetModule):
    """Stage 3: whole RL groups, or the shuffled ablation.

    Args:
        root: the dataset folder.
        groups_per_batch: whole groups in a batch.
        batching: `consistent` (the paper) or `shuffled` (Tab. 2).
        group_size: members of a group with its source (Tab. 6; the paper's is 8); None takes all.
        orientations: kinds of edit to learn from (Tab. 3).
        num_workers: loader processes.
        seed: of the order.
        validation_groups: validation groups on which ranking is measured; None takes all.
    """

    def __init__(
        self,
        root: str,
        groups_per_batch: int = 1,
        batching: Batching = "consistent",
        group_size: int | None = 8,
        orientations: list[Orientation] = ["quality", "content"],  # noqa: B006
        num_workers: int = 0,
        seed: int = 0,
        validation_groups: int | None = None,
    ) -> None:
        super().__init__(root, num_workers, seed, validation_groups)
        self.groups_per_batch = groups_per_batch
        self.batching = batching
        self.group_size = group_size
        self.orientations = orientations

    def train_dataloader(self) -> DataLoader[Any]:
        """Group-whole batches of the training photographs."""
        groups = select_members(self.manifest.groups("train"), self.orientations, self.group_size)
        sampler = GroupBatchSampler(
            [len(g) for g in groups], self.groups_per_batch, self.batching, shuffle=True, seed=self.seed
        )
        return self._group_loader(groups, sampler, self.batching)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The validation groups."""
        return [self._validation_groups()] if self.manifest.groups("validation") else []
