"""Stage 3: GRPO with a reward that only asks whether related images are ranked right (Sec. 3.2.3, Eq. 6-8).

A batch is one or more whole groups of N images, shared by the processes there are. One step:

    1. each image alone, K outputs are sampled from the policy;
    2. the score in each output is parsed (or not: never made up), the reward compares the scores within the group;
    3. advantages are relative to the K outputs of the same image (Eq. 7);
    4. the clipped objective with the KL penalty to the reference is maximised (Eq. 8), by manual optimisation.

The mathematics is in `training.objectives`, what compares images in `training.judging`; this file moves tensors. Each
image goes through the vision tower once and each prompt through the policy once per pass (`models.forward`). With one
optimiser step on a rollout the ratio is 1, so the printed loss is about kl_coef * KL by construction: watch reward,
|advantage|, frac_zero_std and the gradient norm.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redaes.data.modules import GroupBatch
from redaes.errors import UserError
from redaes.models.forward import SharedPrefix, branch_logprobs
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import Backbone
from redaes.registry import PluginSpec, create
from redaes.rewards import Reward
from redaes.rollout import Completions, Rollout, Sampling
from redaes.training.base import Optimisation, VisionLanguageModule
from redaes.training.callbacks import CompletionRow
from redaes.training.judging import Judged, judge
from redaes.training.objectives import (
    Aggregation,
    RatioLevel,
    SamplingCorrection,
    Scale,
    grpo_loss,
    truncated_importance_weights,
)
from redaes.training.sampled import Sampled, features_of, split


class GRPO(VisionLanguageModule):
    """Stage 3, reinforcement learning with relative supervision.

    Args:
        backbone: the calibrated model, and how it is used; it is also the frozen reference policy.
        reward: reward plug-in; the paper's is `rrc` (Eq. 6).
        rollout: rollout plug-in.
        optimisation: AdamW and its schedule; lr 1e-6 is ours.
        k: sampled outputs per image (the paper's is 6).
        temperature: of sampling, > 0; ours.
        max_new_tokens: of a completion.
        inner_epochs: passes over the same rollouts; ours is 1.
        mini_batches: optimiser steps in one pass, each on its share of the images; ours is 1.
        accumulate: parts in which the images of an optimiser step go through the model, to need less memory; their
            gradients add up to that of the whole.
        max_resamples: how many times images whose K rewards are all equal, which teach nothing, are sampled anew before
            the step goes on with what there is (after DAPO's dynamic sampling, arXiv 2503.14476); ours is 0.
        mask_truncated: leave completions that reached max_new_tokens out of the loss.
        clip_low: the ratio is clipped below at 1 - clip_low; ours.
        clip_high: the ratio is clipped above at 1 + clip_high; ours.
        kl_coef: strength of the penalty to the reference, beta of Eq. 8; 0 keeps no reference; ours is 0.04.
        aggregation: how token terms become one loss; `grpo` is Eq. 8's 1/|o|.
        ratio_level: importance ratio per token (Eq. 8) or per sequence.
        scale_rewards: divide advantages by the deviation of the image's own K rewards (Eq. 7), of the batch's, or not.
        sampling_correction: weights for a rollout whose probabilities are not quite the policy's (another engine).
        sampling_cap: largest such weight.
        shared_prefix: how a prompt is shared by its K outputs: `packed` rows, or its keys and values in a `cache`.
        seed: of sampling; batch n of a run always draws the same numbers.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),  # noqa: B008
        reward: PluginSpec = "rrc",
        rollout: PluginSpec = "in_process",
        optimisation: Optimisation = Optimisation(lr=1e-6),  # noqa: B008
        k: int = 6,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        inner_epochs: int = 1,
        mini_batches: int = 1,
        accumulate: int = 1,
        max_resamples: int = 0,
        mask_truncated: bool = False,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        kl_coef: float = 0.04,
        aggregation: Aggregation = "grpo",
        ratio_level: RatioLevel = "token",
        scale_rewards: Scale = "group",
        sampling_correction: SamplingCorrection = "token_truncate",
        sampling_cap: float = 3.0,
        shared_prefix: SharedPrefix = "packed",
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, optimisation, max_new_tokens)
        self.automatic_optimization = False
        for name, value in {
            "k": k,
            "inner_epochs": inner_epochs,
            "mini_batches": mini_batches,
            "accumulate": accumulate,
        }.items():
            if value < 1:
                raise UserError(f"model.{name} is {value}; it must be at least 1")
        if temperature <= 0:
            raise UserError(f"model.temperature is {temperature}; it must be above 0")
        if shared_prefix == "cache" and backbone.gradient_checkpointing:
            raise UserError("shared_prefix=cache keeps what gradient_checkpointing drops; set shared_prefix to packed")
        if shared_prefix == "packed" and backbone.attention == "flash_attention_2":
            raise UserError(
                "backbone.attention=flash_attention_2 takes no mask for packed rows; set it to sdpa or flex_attention, "
                "or shared_prefix to cache"
            )
        self.reward: Reward = create("rewards", reward)
        self.rollout: Rollout = create("rollouts", rollout)
        self.sampling = Sampling(k=k, temperature=temperature, max_new_tokens=max_new_tokens)
        self.inner_epochs = inner_epochs
        self.mini_batches = mini_batches
        self.accumulate = accumulate
        self.max_resamples = max_resamples
        self.mask_truncated = mask_truncated
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.kl_coef = kl_coef
        self.aggregation: Aggregation = aggregation
        self.ratio_level: RatioLevel = ratio_level
        self.scale_rewards: Scale = scale_rewards
        self.sampling_correction: SamplingCorrection = sampling_correction
        self.sampling_cap = sampling_cap
        self.shared_prefix: SharedPrefix = shared_prefix
        self.seed = seed
        self.completion_rows: list[CompletionRow] = []
        # In a tuple, so that the frozen copy is neither trained nor written into checkpoints.
        self._reference: tuple[Any, ...] = ()

    def on_fit_start(self) -> None:
        """Open the reference: the policy as it was before this stage, whatever checkpoint training resumes from."""
        # An adapter's reference is the model under it, unless the tower is trained along.
        if self.kl_coef > 0 and (self.backbone.lora is None or not self.backbone.freeze_vision):
            reference, _ = self.open_backbone()
            self._reference = (reference.requires_grad_(False).eval().to(self.device),)

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on a rollout."""
        return self.inner_epochs * self.mini_batches

    def training_step(self, batch: GroupBatch, batch_idx: int) -> None:
        """One rollout and the optimiser steps on it."""
        features = self.features(batch.prompts)
        completions, judged = self._sample(batch, features)
        # No process may have fewer parts than another: they wait for each other at every pass.
        fewest = len(judged.members) // self.trainer.world_size
        parts = min(self.accumulate * self.mini_batches, fewest)
        sampled = self._prepared(batch, features, completions, judged, parts)
        steps = min(self.mini_batches, fewest)
        for _ in range(self.inner_epochs):
            for number in range(steps):
                # By the place in the whole step, so that any number of processes cuts the same mini-batches.
                images = (batch.positions.cpu() % steps == number).nonzero().squeeze(1)
                self._update(sampled.of(images), min(self.accumulate, fewest // steps), judged)
        if judged.left_out.all():
            self._log_no_step()
        lengths, truncated = (x.float().sum() for x in (completions.mask, completions.truncated))
        length, cut = self._mean_over_outputs(lengths, truncated, len(completions.texts))
        self._log({**judged.metrics(), "completion_length": length, "truncated_rate": cut})
        self._keep_rows(judged)

    def validation_step(self, batch: GroupBatch, batch_idx: int) -> None:
        """Rank held-out groups greedily."""
        self.validate_groups(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the rankings."""
        self.log_ranking()

    def _sample(self, batch: GroupBatch, features: Any) -> tuple[Completions, Judged]:
        """Sample, and sample images anew whose outputs are all rewarded alike, as often as that is allowed."""

        def draw(prompts: VisionTextBatch, seeds: list[int], features: Any) -> Completions:
            with self.gathered_weights():
                return self.rollout(self.model, self.processor, prompts, self.sampling, seeds, features)

        completions = draw(batch.prompts, self._seeds(batch, 0), features)
        judged = judge(batch, completions.texts, self.reward, self.scale_rewards)
        anew = 0
        for attempt in range(1, self.max_resamples + 1):
            # Of all processes, so that they go on together.
            if not judged.zero_std.any():
                break
            anew += int(judged.zero_std.sum())
            images = judged.zero_std[judged.own].nonzero().squeeze(1)
            # A process without such an image samples one for nothing: processes must call a rollout equally often.
            drawn, seeds = images if len(images) else torch.tensor([0]), self._seeds(batch, attempt)
            fresh = draw(batch.prompts.rows(drawn), [seeds[i] for i in drawn.tolist()], features_of(features, drawn))
            if len(images):
                completions = completions.replaced(images, fresh)
            judged = judge(batch, completions.texts, self.reward, self.scale_rewards)
        if self.max_resamples:
            self._log({"resampled": torch.tensor(float(anew))})
        return completions, judged

    def _seeds(self, batch: GroupBatch, attempt: int) -> list[int]:
        """One per image, from (seed, batch, place in it): the same on any number of processes, and on resuming."""
        # Not the optimiser's steps: a batch in which no group can be read takes none.
        number = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return [
            int(np.random.SeedSequence([self.seed, number - 1, place, attempt]).generate_state(1, np.uint64)[0])
            for place in batch.positions.tolist()
        ]

    def _prepared(
        self, batch: GroupBatch, features: Any, completions: Completions, judged: Judged, parts: int
    ) -> Sampled:
        """What the optimiser steps need: the old and the reference's log-probabilities beside what was sampled."""
        k = self.sampling.k
        left_out = judged.left_out[judged.own].to(self.device).repeat_interleave(k)
        unlearned = left_out | completions.truncated if self.mask_truncated else left_out
        sampled = Sampled(
            prompts=batch.prompts,
            features=features,
            tokens=completions.tokens,
            mask=completions.mask,
            learned=completions.mask * ~unlearned[:, None],
            counted=~left_out,
            advantages=judged.advantages[judged.own].to(self.device),
        )
        if self.kl_coef > 0:
            with nullcontext() if self._reference else self.model.disable_adapter():
                sampled.reference = self._frozen(self._reference[0] if self._reference else self.model, sampled, parts)
        if completions.exact:
            sampled.old = completions.logprobs if self.steps_per_batch > 1 else None
            return sampled
        sampled.old = self._frozen(self.model, sampled, parts)
        sampled.weights, metrics = truncated_importance_weights(
            sampled.old, completions.logprobs, sampled.mask, self.sampling_correction, self.sampling_cap
        )
        self._log(metrics, across=True)
        return sampled

    @torch.no_grad()
    def _frozen(self, model: Any, sampled: Sampled, parts: int) -> Tensor:
        """Log-probabilities without a graph, and without dropout, computed in parts."""
        was_training = model.training
        model.eval()
        images = split(len(sampled.advantages), parts)
        pieces = [self._logprobs(model, sampled.of(some), with_entropy=False)[0] for some in images]
        model.train(was_training)
        return torch.cat(pieces)

    def _logprobs(self, model: Any, sampled: Sampled, with_entropy: bool = True) -> tuple[Tensor, Tensor]:
        return branch_logprobs(
            model,
            sampled.prompts,
            sampled.tokens,
            sampled.mask,
            self.sampling.temperature,
            sampled.features,
            self.shared_prefix,
            with_entropy,
        )

    def _update(self, sampled: Sampled, parts: int, judged: Judged) -> None:
        """One optimiser step; the images go through the model in several parts."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        outputs, tokens = self._sums(sampled.counted.sum(), sampled.learned.sum())
        if outputs == 0:  # every group of this step has an image that could not be read
            return
        logged: dict[str, Tensor] = {}
        pieces = split(len(sampled.advantages), parts)
        for number, images in enumerate(pieces, start=1):
            chosen = sampled.of(images)
            with self._exchanging(number == parts):
                loss, metrics = self._loss(chosen, outputs, tokens)
                self._stop_unless_finite(loss, judged)
                self.manual_backward(loss)
            share = chosen.learned.sum() / tokens.clamp(min=1) * self.trainer.world_size
            for name, value in {"loss": loss.detach(), **{n: m * share for n, m in metrics.items()}}.items():
                logged[name] = logged.get(name, torch.zeros_like(value)) + value
        self.clip_gradients_and_log()
        optimizer.step()
        if self._is_deepspeed:
            self.log("train/grad_norm", self.trainer.strategy.deepspeed_engine.get_global_grad_norm())
        scheduler.step()
        self._log(logged, across=True)

    def _loss(self, sampled: Sampled, outputs: Tensor, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The part of a step's loss that some of its images make up.

        Args:
            sampled: the images.
            outputs: how many outputs the step counts, over all processes.
            tokens: how many tokens it learns from.

        Returns:
            A loss whose sum over the parts of a process, averaged over the processes (which is what data parallelism
            does to gradients), is the loss of the step; and means over the part's tokens.
        """
        logps, entropy = self._logprobs(self.model, sampled)
        world = self.trainer.world_size
        loss, metrics = grpo_loss(
            logprobs=logps,
            old_logprobs=sampled.old,
            ref_logprobs=sampled.reference,
            advantages=sampled.advantages.flatten(),
            mask=sampled.learned,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            kl_coef=self.kl_coef,
            ratio_level=self.ratio_level,
            # `bnpo` is the mean over the tokens of a batch, and the batch is the step: `dapo` with its count.
            aggregation="dapo" if self.aggregation == "bnpo" else self.aggregation,
            max_completion_length=self.sampling.max_new_tokens,
            token_count=tokens / world,
            entropy=entropy,
            sampling_weights=sampled.weights,
        )
        if self.aggregation in ("grpo", "dr_grpo"):  # means over the part's outputs, counted or not
            loss = loss * len(sampled.counted) * world / outputs
        return loss, metrics

    @contextmanager
    def _exchanging(self, last: bool) -> Iterator[None]:
        """Around a backward pass: processes exchange gradients after the last one of a step, if they can wait.

        DeepSpeed cannot: it adds up what it has exchanged.
        """
        strategy: Any = self.trainer.strategy
        if self._is_deepspeed:
            engine = strategy.deepspeed_engine
            engine.set_gradient_accumulation_boundary(last)
            # As a forward pass of its own would: else ZeRO-3 puts a part's gradients in the place of those before.
            if hasattr(engine.optimizer, "clear_backward_seen_flag"):
                engine.optimizer.clear_backward_seen_flag()
            yield
            return
        block = getattr(strategy, "block_backward_sync", None)
        with nullcontext() if last or block is None else block():
            yield

    def _stop_unless_finite(self, loss: Tensor, judged: Judged) -> None:
        """End training at the first loss that is no number, with what led to it in `nonfinite.json`."""
        (found,) = self._sums(torch.isfinite(loss.detach()).float())
        if found == self.trainer.world_size:
            return
        path = Path(self.trainer.default_root_dir) / "nonfinite.json"
        rows = zip(judged.members, judged.texts, judged.rewards.tolist(), strict=True)
        content = {
            "step": self.global_step,
            "loss": str(float(loss.detach())),
            "images": [
                {"group": m.group, "image": m.image, "g": m.g, "texts": texts, "rewards": rewards}
                for m, texts, rewards in rows
            ],
        }
        if self.trainer.is_global_zero:
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        raise UserError(
            f"the loss is {float(loss.detach())} at step {self.global_step}; its batch is in {path}. Lower "
            "optimisation.lr, or raise kl_coef; with bfloat16 try float32"
        )

    def _sums(self, *values: Tensor) -> Tensor:
        """Sums of scalars over all processes, (len(values),)."""
        stacked = torch.stack([value.float() for value in values])
        total: Tensor = self.trainer.strategy.reduce(stacked, reduce_op="sum")
        return total

    def _mean_over_outputs(self, *values: Any) -> Tensor:
        sums = self._sums(*(torch.as_tensor(value, device=self.device) for value in values))
        return sums[:-1] / sums[-1]

    def _log(self, values: dict[str, Tensor], across: bool = False) -> None:
        """Log scalars; `across` takes what differs between processes together, by its mean unless its name says how."""
        shown = {"reward", "kl"}
        for name, value in values.items():
            how = name.rpartition("_")[2]
            reduce = how if how in ("min", "max") else "mean"
            self.log(f"train/{name}", value, prog_bar=name in shown, batch_size=1, sync_dist=across, reduce_fx=reduce)

    def _log_no_step(self) -> None:
        """Say that there was none; Lightning would log the numbers of the step before once more."""
        nothing = torch.tensor(float("nan"), device=self.device)
        names = ["loss", "ratio", "clip_low", "clip_high", *(["kl"] if self.kl_coef > 0 else []), "entropy"]
        self._log(dict.fromkeys(names, nothing), across=True)
        self.log("train/grad_norm", nothing)

    def _keep_rows(self, judged: Judged) -> None:
        """Remember the first output of every image that was learnt from, for the table of completions."""
        # A batch that takes no step has no rows: when training is continued, the table is cut by steps.
        self.completion_rows = [
            CompletionRow(
                step=self.global_step,
                group=member.group,
                image=member.image,
                g=member.g,
                score=None if judged.scores[i, 0].isnan() else float(judged.scores[i, 0]),
                reward=float(judged.rewards[i, 0]),
                advantage=float(judged.advantages[i, 0]),
                text=judged.texts[i][0],
            )
            for i, member in enumerate(judged.members)
            if not judged.left_out[i]
        ]
