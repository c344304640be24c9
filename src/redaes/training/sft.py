"""Stage 1: comparative SFT (Eq. 5), and what every supervised stage does.

    L = - sum_t log p(y_t | y_<t, c)     over the tokens of the answer only

PT-O1 and PT-O2 come mixed in one batch: the data decide what a sample is (`redaes.data.samples`), the loss is the
same. The sum of Eq. 5 is taken as the mean over the answer tokens of the optimiser step, whatever processes share it
and in however many batches it is accumulated, so that the learning rate does not depend on the length of the reasoning
[ours; the paper does not say]. How many tokens there are is known after the last batch: batches add up the gradients of
sums, which are divided once, before they are clipped. DeepSpeed lets nobody at its gradients; there, each accumulated
batch counts the same, however many tokens it has.
"""

from typing import Any

import torch
from torch import Tensor

from redaes.data.modules import GroupBatch
from redaes.models.forward import answer_logprobs
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import Backbone
from redaes.training.base import Optimisation, VisionLanguageModule


class SupervisedModule(VisionLanguageModule):
    """Next-token training on answers, with Lightning's automatic optimisation; stages 1 and 2 are its two names."""

    # What `_sums` gave for the batches of the present optimiser step, added up.
    _step = torch.zeros(4)

    def training_step(self, batch: VisionTextBatch, batch_idx: int) -> Tensor:
        """The negative log-likelihood of the answer tokens, in nats: what this process adds to the sum of the step."""
        total, sums = self._sums(batch)
        accumulated = self.trainer.accumulate_grad_batches
        self._step = sums if batch_idx % accumulated == 0 else self._step + sums
        # The strategy divides by the processes and Lightning by the batches; DeepSpeed does the latter once more.
        loss: Tensor = total * self.trainer.world_size * accumulated
        return loss / sums[2].clamp(min=1) if self._is_deepspeed else loss

    def _sums(self, batch: VisionTextBatch) -> tuple[Tensor, Tensor]:
        """Sums over the answer tokens.

        Returns:
            The negative log-likelihood of this process's tokens, with gradient; and (4,) over all processes: that sum,
            tokens that are surely right, tokens, and samples without a label, whose image is unreadable.
        """
        logps, _, mask = answer_logprobs(self.model, batch, features=self.features(batch), with_entropy=False)
        total = -(logps * mask).sum()
        # A token predicted with more than half of the probability is the arg max: a lower bound that costs nothing.
        sure = (logps.detach() > -0.6931).logical_and(mask).sum()
        sums = torch.stack([total.detach(), sure, mask.sum(), (~mask.any(1)).sum()]).float()
        return total, self.trainer.strategy.reduce(sums, reduce_op="sum")

    def validation_step(self, batch: VisionTextBatch | GroupBatch, batch_idx: int) -> None:
        """Loss on held-out samples, or rankings on held-out groups."""
        if isinstance(batch, GroupBatch):
            self.validate_groups(batch)
        else:
            _, (nll, _, tokens, _) = self._sums(batch)
            if tokens:
                # Weighted by tokens, so that the mean of the epoch does not depend on how it was cut into batches.
                self.log("val/loss", nll / tokens, prog_bar=True, batch_size=int(tokens), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log the rankings, if groups were validated."""
        self.log_ranking()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Turn the gradient of the step's sum into that of its mean, and clip it; log the step."""
        nll, sure, tokens, untaught = self._step.tolist()
        tokens = max(tokens, 1.0)
        if not self._is_deepspeed:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad /= tokens
        self.log("train/loss", nll / tokens, prog_bar=True)
        self.log("train/token_accuracy", sure / tokens)
        self.log("train/unreadable", untaught)
        self.clip_gradients_and_log()


class ComparativeSFT(SupervisedModule):
    """Stage 1, edit-causal pre-training (Sec. 3.2.1).

    Args:
        backbone: which model and how it is used.
        optimisation: AdamW and its schedule.
        max_new_tokens: of the greedy answers in validation.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),  # noqa: B008 (jsonargparse shows and copies the default)
        optimisation: Optimisation = Optimisation(),  # noqa: B008
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__(backbone, optimisation, max_new_tokens)
