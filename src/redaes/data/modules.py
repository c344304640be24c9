"""Lightning data modules: a dataset folder, or the shards of its export, in; batches encoded for the model out.

Encoding needs the model's processor, which the LightningModule owns; it is fetched when the loaders are made, and
runs in the loader's workers.
"""

import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from redaes.data.aescot import Aescot
from redaes.data.batches import ItemBatchSampler, StepSampler
from redaes.data.groups import Batching, GroupBatchSampler, Member, select_members
from redaes.data.loading import (
    EncodeMembers,
    EncodeSamples,
    GroupBatch,
    Members,
    Samples,
    leave_stopping_to_the_training,
)
from redaes.data.manifest import Manifest
from redaes.data.samples import (
    Judged,
    Objective,
    Sample,
    build_samples,
    compare,
    compare_swapped,
    group_edits,
    kept,
    predict_edit,
    scored_sample,
)
from redaes.data.shards import ShardedManifest, open_dataset
from redaes.errors import UserError
from redaes.models.processor import VisionTextProcessor
from redaes.records import Orientation, PairRecord, Split

__all__ = ["CalibrationData", "ComparativeData", "GroupBatch", "GroupData", "RehearsalData", "trained_position"]

BOTH: tuple[Orientation, ...] = ("quality", "content")

T = TypeVar("T")


def trained_position(trainer: Any) -> tuple[int, int]:
    """Where a Trainer stands between two batches, from its own progress: (epoch, steps of it that were trained on).

    What the loader has handed out says nothing: its processes work ahead.
    """
    loop = trainer.fit_loop
    epochs, steps = loop.epoch_progress.current.started, loop.epoch_loop.batch_progress.current.processed
    return (epochs, 0) if steps >= trainer.num_training_batches else (max(0, epochs - 1), steps)


class _DatasetModule(LightningDataModule):
    """What the three data modules share: an open manifest, the model's processor, loaders that can be continued."""

    step_size: int
    """What an optimiser step is made of over all processes: samples, or groups."""

    def __init__(
        self, root: str, num_workers: int, seed: int, validation_groups: int | None, aescot: str | None = None
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.aescot = aescot
        self.num_workers = num_workers
        self.seed = seed
        self.validation_groups = validation_groups
        self._begin = (0, 0)
        self._training: StepSampler[Any] | None = None

    def setup(self, stage: str) -> None:
        """Open the dataset, and the AesCoT file if there is one."""
        self.manifest = open_dataset(self.root)
        self._own: Aescot | None = None
        if self.aescot is not None:
            self._own = Aescot(self.aescot)
            if self._own.problems:
                rank_zero_warn(f"{self.aescot}: {self._own.problems}")
        if self.trainer is not None:
            # Our samplers share a step among the processes themselves.
            self.trainer._accelerator_connector.use_distributed_sampler = False

    def state_dict(self) -> dict[str, int]:
        """Where training stands; Lightning stores it in checkpoints."""
        epoch, batches = trained_position(self.trainer)
        return {"epoch": epoch, "steps": batches, "parts": self._parts, "step_size": self.step_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Begin where the checkpoint was written, whether or not the loader was made before."""
        self._begin = state_dict["epoch"], self._batches_done(state_dict)
        if self._training is not None:
            self._training.epoch, self._training.start = self._begin

    @property
    def begins_at(self) -> tuple[int, int]:
        """Epoch, and batches of it to leave out, with which the training loader begins or began."""
        return self._begin if self._training is None else (self._training.epoch, self._training.start)

    @property
    def _parts(self) -> int:
        """Batches of an optimiser step."""
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    def _batches_done(self, state: dict[str, int]) -> int:
        """Batches of the epoch that are done, though steps may have been cut into other parts before."""
        # Checkpoints from before parts and sizes were noted are of the same ones.
        before, size = state.get("parts", self._parts), state.get("step_size", self.step_size)
        if (before, size) == (self._parts, self.step_size):
            return state["steps"]
        if size != self.step_size:
            rank_zero_warn(
                f"an optimiser step was of {size} when the checkpoint was written and is of {self.step_size} now: the "
                "epoch goes on from about the same place, in an order of its own. The same product of data.batch_size "
                "and trainer.accumulate_grad_batches keeps the order"
            )
        return state["steps"] // before * size // self.step_size * self._parts

    @property
    def processor(self) -> VisionTextProcessor:
        """The processor of the model being trained."""
        if self.trainer is None:
            raise RuntimeError("a data module encodes for a model: attach it to a Trainer first")
        processor: VisionTextProcessor = self.trainer.lightning_module.processor
        return processor

    def _share(self) -> dict[str, int]:
        """Which part of every step is this process's."""
        return {} if self.trainer is None else {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _training_loader(self, dataset: Dataset[Any], collate: Any, sampler: StepSampler[Any]) -> DataLoader[Any]:
        """The loader of the training steps; only the first one after a checkpoint begins in mid-epoch."""
        (sampler.epoch, sampler.start), self._begin = self._begin, (0, 0)
        self._training = sampler
        return self._loader(dataset, collate, sampler)

    def _loader(self, dataset: Dataset[Any], collate: Any, sampler: StepSampler[Any]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=leave_stopping_to_the_training,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Without its own, every new iterator would draw from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def groups(
        self, split: Split, orientations: Sequence[Orientation] = BOTH, size: int | None = None
    ) -> list[list[Member]]:
        """Groups of one split, as `select_members` restricts them; those with a missing image are left out."""
        groups = select_members(self.manifest.groups(split), orientations, size)
        return self._whole("groups", split, groups, [[m.image for m in group] for group in groups])

    def _files(self, split: Split) -> Manifest | Aescot:
        """Where the images of a split are."""
        return self._own if self._own and split == "train" else self.manifest

    def _whole(self, kind: str, split: Split, items: list[T], images: list[list[str]]) -> list[T]:
        """The items whose images all exist. The first process looks, so that all agree.

        Raises:
            UserError: none is left.
        """
        files = self._files(split)
        missing: dict[int, str] = {}
        if self.trainer is None or self.trainer.is_global_zero:
            exists = cache(files.has)
            absent = (next((path for path in paths if not exists(path)), None) for paths in images)
            missing = {index: path for index, path in enumerate(absent) if path is not None}
        if self.trainer is not None:
            missing = self.trainer.strategy.broadcast(missing)
        if not missing:
            return items
        found = (
            f"{len(missing)} of {len(items)} {split} {kind} have a missing image, first {next(iter(missing.values()))}"
        )
        if len(missing) == len(items):
            raise UserError(f"{files.root}: {found}; copy the dataset with its images")
        rank_zero_warn(f"{files.root}: {found}; they are left out")
        return [item for index, item in enumerate(items) if index not in missing]

    def _validation_groups(self) -> list[DataLoader[Any]]:
        """Whole validation groups, in batches of about four; none if the dataset has none."""
        groups = self.groups("validation")[: self.validation_groups]
        if not groups:
            return []
        images = [(index, member, 0) for index, group in enumerate(groups) for member in range(len(group))]
        sampler = ItemBatchSampler(images, math.ceil(4 * len(images) / len(groups)), shuffle=False, **self._share())
        return [self._loader(Members(self.manifest, groups), EncodeMembers(self.processor, "consistent"), sampler)]


def _accumulate(trainer: Any, parts: int) -> None:
    """Have a Trainer take a step every `parts` batches; what it counts in batches stays the same steps.

    Args:
        trainer: that has not begun.
        parts: batches of an optimiser step.
    """
    before, trainer.accumulate_grad_batches = trainer.accumulate_grad_batches, parts
    for name in ("val_check_interval", "limit_train_batches"):
        number = getattr(trainer, name)
        if isinstance(number, int):  # a float is a share of the epoch
            setattr(trainer, name, number * parts // before)


class ComparativeData(_DatasetModule):
    """Stage 1 and its ablations: a mixture of supervised objectives over the pre-training pairs.

    Args:
        root: the dataset folder.
        objectives: kinds of sample to mix; the paper's stage 1 is `[compare, predict_edit]` (Eq. 5).
        batch_size: samples in a batch over all processes (the paper's is 16); `trainer.accumulate_grad_batches` of them
            make an optimiser step.
        swap_prob: share of pairs that are also presented exchanged, with -delta [ours; default 0: none].
        orientations: kinds of edit to learn from (Tab. 3).
        num_workers: loader processes.
        seed: of the order.
        aescot: an AesCoT file to train on instead of the dataset's pairs: `objectives`, `swap_prob` and `orientations`
            then say what is validated on (Tab. 2).
        samples_per_process: samples that go through the model at once on each process, at most. A step is accumulated
            from as many parts as that takes, so that the same configuration trains the same steps in the same memory
            on any number of processes. None: whole batches.
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
        aescot: str | None = None,
        samples_per_process: int | None = None,
    ) -> None:
        super().__init__(root, num_workers, seed, None, aescot)
        for name, number in (("batch_size", batch_size), ("samples_per_process", samples_per_process)):
            if number is not None and number < 1:
                raise UserError(f"data.{name} is {number}; it must be at least 1")
        self.objectives = objectives
        self.batch_size = self.step_size = batch_size
        self.swap_prob = swap_prob
        self.orientations = orientations
        self.samples_per_process = samples_per_process
        self._settled_for: Any = None

    def setup(self, stage: str) -> None:
        """Also settle how an optimiser step is cut into parts, once the number of processes is known."""
        super().setup(stage)
        if self.trainer is None or stage != "fit" or self.trainer is self._settled_for:
            return
        self._settled_for = self.trainer
        self.step_size = self.batch_size * self.trainer.accumulate_grad_batches
        if self.samples_per_process is not None:
            parts = math.ceil(self.step_size / (self.samples_per_process * self.trainer.world_size))
            _accumulate(self.trainer, parts)

    def samples(self, split: Split) -> list[Sample]:
        """The samples of one split; swapped presentations are added after the others."""
        if self._own and split == "train":
            own = [scored_sample(s.image, s.score, s.reasoning or None) for s in self._own.samples]
            return self._whole("samples", split, own, [list(s.images) for s in own])
        samples = build_samples(self.manifest, split, self.objectives, self.orientations)
        if "compare" in self.objectives and self.swap_prob > 0:
            pairs = [p for p in self.manifest.pairs(split) if p.edit.instruction.orientation in self.orientations]
            samples += [compare_swapped(p) for p in pairs if self._is_swapped(p)]
        if not samples and split == "train":
            raise UserError(f"{self.root} holds no training sample for objectives {self.objectives}")
        return self._whole("samples", split, samples, [list(s.images) for s in samples])

    def _is_swapped(self, pair: PairRecord) -> bool:
        return random.Random(f"{self.seed}/{pair.id}").random() < self.swap_prob

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training photographs."""
        samples = self.samples("train")
        sampler = ItemBatchSampler(
            range(len(samples)), self.step_size, shuffle=True, parts=self._parts, seed=self.seed, **self._share()
        )
        return self._training_loader(Samples(self._files("train"), samples), EncodeSamples(self.processor), sampler)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the validation photographs; none if the dataset has none."""
        samples = self.samples("validation")
        if not samples:
            return []
        size = self.batch_size
        if self.samples_per_process is not None and self.trainer is not None:
            size = min(size, self.samples_per_process * self.trainer.world_size)
        sampler = ItemBatchSampler(range(len(samples)), size, shuffle=False, **self._share())
        return [self._loader(Samples(self.manifest, samples), EncodeSamples(self.processor), sampler)]


class RehearsalData(ComparativeData):
    """After stage 3, ours: PT-O1 and PT-O2 again, which a small model forgets, and its own scores, which it keeps.

    Edits are those of the pairs and of the groups, in both orders for PT-O1. Pairs alone hold only improvements
    (Eq. 3), so that nothing can be learnt from them of edits that harm.

    Args:
        root: the dataset folder.
        answers: JSON lines that `redaes score --output` wrote of the training images with the model to be rehearsed.
        batch_size: samples in a step over all processes.
        num_workers: loader processes.
        seed: of the order.
    """

    def __init__(self, root: str, answers: str, batch_size: int = 32, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__(root, batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.answers = answers

    def setup(self, stage: str) -> None:
        """Answers name the files of a dataset folder."""
        super().setup(stage)
        if isinstance(self.manifest, ShardedManifest):
            raise UserError(f"{self.root} is an export; rehearsal needs the dataset folder that was scored")

    def samples(self, split: Split) -> list[Sample]:
        """The samples of one split; the model's own scores are of the training images alone."""
        edits: list[Judged] = [*self.manifest.pairs(split), *group_edits(self.manifest, split)]
        samples = [make(edit) for edit in edits for make in (compare, compare_swapped, predict_edit)]
        if split == "train":
            samples += kept(Path(self.answers), self.manifest, split)
        return self._whole("samples", split, samples, [list(s.images) for s in samples])


class CalibrationData(ComparativeData):
    """Stage 2: the 200 calibration samples (Sec. 3.2.2).

    Args:
        root: the dataset folder.
        batch_size: samples in a step over all processes (the paper's is 16).
        num_workers: loader processes.
        seed: of the order.
        validation_groups: validation groups on which ranking is measured after every epoch; None takes all.
        samples_per_process: as of `ComparativeData`.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        validation_groups: int | None = None,
        samples_per_process: int | None = None,
    ) -> None:
        super().__init__(
            root,
            ["calibrate"],
            batch_size,
            num_workers=num_workers,
            seed=seed,
            samples_per_process=samples_per_process,
        )
        self.validation_groups = validation_groups

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The validation groups."""
        return self._validation_groups()


class GroupData(_DatasetModule):
    """Stage 3: whole RL groups, or the shuffled ablation.

    Args:
        root: the dataset folder.
        groups_per_batch: whole groups in a step, over all processes.
        batching: `consistent` (the paper) or `shuffled` (Tab. 2).
        group_size: members of a group with its source (Tab. 6; the paper's is 8); None takes all.
        orientations: kinds of edit to learn from (Tab. 3).
        num_workers: loader processes.
        seed: of the order.
        validation_groups: validation groups on which ranking is measured; None takes all.
        aescot: an AesCoT file to train on instead of the dataset's groups, `group_size` (or 8) of its photographs at a
            time, each with its absolute score (Tab. 2).
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
        aescot: str | None = None,
    ) -> None:
        super().__init__(root, num_workers, seed, validation_groups, aescot)
        self.groups_per_batch = self.step_size = groups_per_batch
        self.batching = batching
        self.group_size = group_size
        self.orientations = orientations

    def train_dataloader(self) -> DataLoader[Any]:
        """Group-whole batches of the training photographs."""
        groups = self.training_groups()
        sampler = GroupBatchSampler(
            [len(g) for g in groups], self.groups_per_batch, self.batching, seed=self.seed, **self._share()
        )
        return self._training_loader(
            Members(self._files("train"), groups), EncodeMembers(self.processor, self.batching), sampler
        )

    def training_groups(self) -> list[list[Member]]:
        """The dataset's groups; or AesCoT's photographs, cut into groups whose zero is that of the scale.

        What is left of them at the end makes no group.
        """
        if self._own is None:
            return self.groups("train", self.orientations, self.group_size)
        members = [Member("aescot", s.image, s.score, 0.0) for s in self._own.samples]
        members = self._whole("photographs", "train", members, [[m.image] for m in members])
        size = self.group_size or 8
        if len(members) < size:
            raise UserError(f"{self.aescot}: {len(members)} photographs, fewer than a group of {size}; set group_size")
        return [members[i : i + size] for i in range(0, len(members) - size + 1, size)]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """The validation groups."""
        return self._validation_groups()
