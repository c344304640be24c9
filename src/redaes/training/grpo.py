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

from typing import Any

import torch
from torch import Tensor

from redaes.data.modules import GroupBatch
from redaes.models.forward import branch_logprobs, image_features
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
        inner_epochs: optimiser steps on the same rollouts; ours is 1.
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
            self.model, self.processor, batch.prompts, self.sampling, self._generator(), features
        )
        scores = scores_of(completions.texts).to(self.device).view(len(batch.g), -1)
        rewards = self._rewards(batch, completions, scores)
        advantages, zero_std = group_advantages(rewards, self.scale_rewards)
        reference = self._reference_logprobs(batch, completions, features)
        old: Tensor | None = None
        for _ in range(self.inner_epochs):
            logps, entropy = self._logprobs(self.model, batch, completions, features)
            old = logps.detach() if old is None else old
            loss, metrics = grpo_loss(
                logprobs=logps,
                old_logprobs=old,
                ref_logprobs=reference,
                advantages=advantages.flatten(),
                mask=completions.mask,
                clip_low=self.clip_low,
                clip_high=self.clip_high,
                kl_coef=self.kl_coef,
                ratio_level=self.ratio_level,
                aggregation=self.aggregation,
                max_completion_length=self.sampling.max_new_tokens,
            )
            grad_norm = self._step(loss)
            mean_entropy = (entropy * completions.mask).sum() / completions.mask.sum()
            self._log({"loss": loss, "grad_norm": grad_norm, "entropy": mean_entropy, **metrics})
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
        return image_features(self.model, batch.prompts) if self.backbone.freeze_vision else None

    def _generator(self) -> torch.Generator:
        """Random numbers of this step: a function of (seed, step), so that a resumed run samples the same outputs."""
        generator = torch.Generator(device=self.device)
        return generator.manual_seed((self.seed << 32) + self.global_step)

    def _rewards(self, batch: GroupBatch, completions: Completions, scores: Tensor) -> Tensor:
        """(N, K) rewards, computed per comparison set."""
        k = self.sampling.k
        rewards = torch.zeros_like(scores)
        for index in batch.sets.unique():
            rows = (batch.sets == index).nonzero().squeeze(1)
            texts = [completions.texts[i * k : (i + 1) * k] for i in rows.tolist()]
            rewards[rows] = self.reward(RewardInputs(scores[rows], batch.g[rows], batch.source_scores[rows], texts))
        return rewards

    def _logprobs(
        self, model: Any, batch: GroupBatch, completions: Completions, features: Any
    ) -> tuple[Tensor, Tensor]:
        return branch_logprobs(
            model, batch.prompts, completions.tokens, completions.mask, self.sampling.temperature, features
        )

    @torch.no_grad()
    def _reference_logprobs(self, batch: GroupBatch, completions: Completions, features: Any) -> Tensor | None:
        if self.kl_coef == 0:
            return None
        if self._reference:
            return self._logprobs(self._reference[0], batch, completions, features)[0]
        with self.model.disable_adapter():
            return self._logprobs(self.model, batch, completions, features)[0]

    def _step(self, loss: Tensor) -> Tensor:
        """Backward, clip, step; returns the gradient norm before clipping."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        limit = self.optimisation.clip_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(bare(self.model).parameters(), limit)
        optimizer.step()
        scheduler.step()
        return norm

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
