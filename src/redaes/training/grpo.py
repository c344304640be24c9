"""Stage 3: GRPO with a reward that only asks whether related images are ranked right (Sec. 3.2.3, Eq. 6-8).

A batch is one or more whole groups of N images. One step:

    1. each image alone, K outputs are sampled from the policy;
    2. the score in each output is parsed (or not: never made up), the reward compares the scores within the group;
    3. advantages are relative to the K outputs of the same image (Eq. 7);
    4. the clipped objective with the KL penalty to the reference is maximised (Eq. 8), by manual optimisation.

The mathematics is in `training.objectives`; this file moves tensors. Each image goes through the vision tower once
and each prompt through the policy once per pass (`models.forward`). With one inner step the ratio is 1, so the
printed loss is about kl_coef * KL by construction: watch reward, |advantage|, frac_zero_std and the gradient norm.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redaes.data.modules import GroupBatch
from redaes.errors import UserError
from redaes.models.features import join_features, split_features
from redaes.models.forward import branch_logprobs
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import Backbone, bare, open_model
from redaes.registry import PluginSpec, create
from redaes.rewards import Reward, RewardInputs
from redaes.rollout import Completions, Rollout, Sampling
from redaes.training.base import Optimisation, VisionLanguageModule, scores_of
from redaes.training.callbacks import CompletionRow
from redaes.training.objectives import Aggregation, RatioLevel, Scale, group_advantages, grpo_loss


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
        mask_truncated: leave completions that reached max_new_tokens out of the loss.
        clip_low: the ratio is clipped below at 1 - clip_low; ours.
        clip_high: the ratio is clipped above at 1 + clip_high; ours.
        kl_coef: strength of the penalty to the reference, beta of Eq. 8; 0 keeps no reference; ours is 0.04.
        aggregation: how token terms become one loss; `grpo` is Eq. 8's 1/|o|.
        ratio_level: importance ratio per token (Eq. 8) or per sequence.
        scale_rewards: divide advantages by the deviation of the image's own K rewards (Eq. 7), of the batch's, or not.
        seed: of sampling; step n of a run always draws the same numbers.
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
        mask_truncated: bool = False,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        kl_coef: float = 0.04,
        aggregation: Aggregation = "grpo",
        ratio_level: RatioLevel = "token",
        scale_rewards: Scale = "group",
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, optimisation, max_new_tokens)
        self.automatic_optimization = False
        self.reward: Reward = create("rewards", reward)
        self.rollout: Rollout = create("rollouts", rollout)
        self.sampling = Sampling(k=k, temperature=temperature, max_new_tokens=max_new_tokens)
        self.inner_epochs = inner_epochs
        self.mini_batches = mini_batches
        self.accumulate = accumulate
        self.mask_truncated = mask_truncated
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.kl_coef = kl_coef
        self.aggregation: Aggregation = aggregation
        self.ratio_level: RatioLevel = ratio_level
        self.scale_rewards: Scale = scale_rewards
        self.seed = seed
        self.completion_rows: list[CompletionRow] = []
        # In a tuple, so that the frozen copy is neither trained nor written into checkpoints.
        self._reference: tuple[Any, ...] = ()

    def on_fit_start(self) -> None:
        """Open the reference: the policy as it was before this stage, whatever checkpoint training resumes from."""
        if self.kl_coef > 0 and self.backbone.lora is None:
            reference, _ = open_model(self.backbone)
            self._reference = (reference.requires_grad_(False).eval().to(self.device),)

    def training_step(self, batch: GroupBatch, batch_idx: int) -> None:
        """One rollout and `inner_epochs` optimiser steps on it."""
        features = self._features(batch)
        completions = self.rollout(
            self.model, self.processor, batch.prompts, self.sampling, self._seeds(batch), features
        )
        scores = scores_of(completions.texts).to(self.device).view(len(batch.g), -1)
        rewards = self._rewards(batch, completions, scores)
        advantages, zero_std = group_advantages(rewards, self.scale_rewards)
        sampled = _Sampled(
            prompts=batch.prompts,
            features=features,
            tokens=completions.tokens,
            mask=completions.mask,
            learned=completions.mask * (~completions.truncated[:, None] if self.mask_truncated else 1),
            advantages=advantages,
            old=completions.logprobs if self.inner_epochs * self.mini_batches > 1 else None,
        )
        sampled.reference = self._reference_logprobs(sampled)
        for _ in range(self.inner_epochs):
            for images in torch.arange(len(batch.g)).tensor_split(min(self.mini_batches, len(batch.g))):
                self._update(sampled.of(images), batch, completions)
        self._log(
            {
                "reward": rewards.mean(),
                "reward_std": rewards.std(dim=1).mean(),
                "advantage_abs": advantages.abs().mean(),
                "frac_zero_std": zero_std.float().mean(),
                "parse_failure_rate": scores.isnan().float().mean(),
                "score_mean": scores.nanmean(),
                "score_std": scores[scores.isfinite()].std() if scores.isfinite().sum() > 1 else scores.new_zeros(()),
                "completion_length": completions.mask.sum(1).float().mean(),
                "truncated_rate": completions.truncated.float().mean(),
            }
        )
        self._keep_rows(batch, completions, scores, rewards, advantages)

    def validation_step(self, batch: GroupBatch, batch_idx: int) -> None:
        """Rank held-out groups greedily."""
        self.validate_groups(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the rankings."""
        self.log_ranking()

    def _features(self, batch: GroupBatch) -> Any:
        """Image features of the step, shared by rollout, policy and reference; None while the tower is trained."""
        return self.features(batch.prompts)

    def _seeds(self, batch: GroupBatch) -> list[int]:
        """One per image, from (seed, step, place in the step): the same on any number of processes, and on resuming."""
        return [
            int(np.random.SeedSequence([self.seed, self.global_step, place]).generate_state(1, np.uint64)[0])
            for place in batch.positions.tolist()
        ]

    def _rewards(self, batch: GroupBatch, completions: Completions, scores: Tensor) -> Tensor:
        """(N, K) rewards, computed per comparison set."""
        k = self.sampling.k
        rewards = torch.zeros_like(scores)
        for name in dict.fromkeys(batch.sets):
            rows = torch.tensor([row for row, other in enumerate(batch.sets) if other == name], device=scores.device)
            texts = [completions.texts[i * k : (i + 1) * k] for i in rows.tolist()]
            rewards[rows] = self.reward(RewardInputs(scores[rows], batch.g[rows], batch.source_scores[rows], texts))
        return rewards

    def _update(self, sampled: "_Sampled", batch: GroupBatch, completions: Completions) -> None:
        """One optimiser step; the images go through the model in `accumulate` parts."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        images, logged = len(sampled.advantages), dict[str, Tensor]()
        for chosen in torch.arange(images).tensor_split(min(self.accumulate, images)):
            share = len(chosen) / images
            loss, metrics = self._loss(sampled.of(chosen), sampled.learned.sum())
            # A sum divided by the tokens of the whole step adds up as it is; a mean over completions by its share.
            loss = loss if self.aggregation in ("dapo", "bnpo") else loss * share
            self._stop_unless_finite(loss, batch, completions)
            self.manual_backward(loss)
            for name, value in {"loss": loss.detach() / share, **metrics}.items():
                logged[name] = logged.get(name, torch.zeros_like(value)) + value * share
        limit = self.optimisation.clip_grad_norm or float("inf")
        logged["grad_norm"] = torch.nn.utils.clip_grad_norm_(bare(self.model).parameters(), limit)
        optimizer.step()
        scheduler.step()
        self._log(logged)

    def _loss(self, sampled: "_Sampled", token_count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some images of a step whose loss is over `token_count` tokens."""
        logps, entropy = self._logprobs(self.model, sampled)
        return grpo_loss(
            logprobs=logps,
            old_logprobs=sampled.old,
            ref_logprobs=sampled.reference,
            advantages=sampled.advantages.flatten(),
            mask=sampled.learned,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            kl_coef=self.kl_coef,
            ratio_level=self.ratio_level,
            aggregation="dapo" if self.aggregation == "bnpo" else self.aggregation,
            max_completion_length=self.sampling.max_new_tokens,
            token_count=token_count,
            entropy=entropy,
        )

    def _logprobs(self, model: Any, sampled: "_Sampled") -> tuple[Tensor, Tensor]:
        return branch_logprobs(
            model, sampled.prompts, sampled.tokens, sampled.mask, self.sampling.temperature, sampled.features
        )

    @torch.no_grad()
    def _reference_logprobs(self, sampled: "_Sampled") -> Tensor | None:
        if self.kl_coef == 0:
            return None
        model = self._reference[0] if self._reference else self.model
        images = len(sampled.advantages)
        with nullcontext() if self._reference else self.model.disable_adapter():
            parts = torch.arange(images).tensor_split(min(self.accumulate * self.mini_batches, images))
            return torch.cat([self._logprobs(model, sampled.of(part))[0] for part in parts])

    def _stop_unless_finite(self, loss: Tensor, batch: GroupBatch, completions: Completions) -> None:
        """End training at the first loss that is no number, with what led to it in `nonfinite.json`."""
        if loss.isfinite():
            return
        path = Path(self.trainer.default_root_dir) / "nonfinite.json"
        k = self.sampling.k
        found = {
            "step": self.global_step,
            "loss": float(loss),
            "images": [
                {"group": m.group, "image": m.image, "g": m.g, "texts": completions.texts[i * k : (i + 1) * k]}
                for i, m in enumerate(batch.members)
            ],
        }
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        raise UserError(
            f"the loss is {float(loss)} at step {self.global_step}; its batch is in {path}. Lower optimisation.lr, or "
            "raise kl_coef; with backbone.dtype=bfloat16 try float32"
        )

    def _log(self, values: dict[str, Tensor]) -> None:
        shown = {"reward", "kl"}
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name in shown, batch_size=1)

    def _keep_rows(
        self, batch: GroupBatch, completions: Completions, scores: Tensor, rewards: Tensor, advantages: Tensor
    ) -> None:
        """Remember the first output of every image of this step for the table of completions."""
        k = self.sampling.k
        self.completion_rows = [
            CompletionRow(
                step=self.global_step,
                group=member.group,
                image=member.image,
                g=member.g,
                score=None if scores[i, 0].isnan() else float(scores[i, 0]),
                reward=float(rewards[i, 0]),
                advantage=float(advantages[i, 0]),
                text=completions.texts[i * k],
            )
            for i, member in enumerate(batch.members)
        ]


@dataclass
class _Sampled:
    """What optimiser steps need of a rollout: N images with one prompt each, K completions of at most T tokens each.

    Attributes:
        prompts: N prompts.
        features: of their images; None while the tower is trained.
        tokens: (N*K, T).
        mask: (N*K, T), 1 on completion tokens.
        learned: (N*K, T), 1 on those that enter the loss.
        advantages: (N, K).
        old: (N*K, T) log-probabilities of the sampling pass; None if the policy takes one step on the rollout.
        reference: (N*K, T) log-probabilities of the reference; None without a penalty.
    """

    prompts: VisionTextBatch
    features: Any
    tokens: Tensor
    mask: Tensor
    learned: Tensor
    advantages: Tensor
    old: Tensor | None
    reference: Tensor | None = None

    def of(self, images: Tensor) -> "_Sampled":
        """The same of some of the images."""
        if len(images) == len(self.advantages):
            return self
        images = images.to(self.tokens.device)
        k = self.advantages.shape[1]
        rows = (images[:, None] * k + torch.arange(k, device=images.device)).flatten()
        parts = None if self.features is None else split_features(self.features)
        return _Sampled(
            prompts=self.prompts.rows(images),
            features=None if parts is None else join_features([parts[i] for i in images.tolist()]),
            tokens=self.tokens[rows],
            mask=self.mask[rows],
            learned=self.learned[rows],
            advantages=self.advantages[images],
            old=None if self.old is None else self.old[rows],
            reference=None if self.reference is None else self.reference[rows],
        )
