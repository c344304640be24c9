"""Stage 2: cold-start calibration (Sec. 3.2.2).

The model knows differences; now it learns to speak in absolute scores, from 200 samples (x, reasoning, S(x)). The
loss is stage 1's; only the data differ, and rankings are measured on held-out groups after every epoch.
"""

from redaes.models.vlm import Backbone
from redaes.training.base import Optimisation
from redaes.training.sft import SupervisedModule


class Calibration(SupervisedModule):
    """Stage 2, cold-start calibration.

    Args:
        backbone: the model that stage 1 exported, and how it is used.
        optimisation: AdamW and its schedule; the paper's are stage 1's.
        max_new_tokens: of the greedy answers in validation.
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),  # noqa: B008
        optimisation: Optimisation = Optimisation(),  # noqa: B008
        max_new_tokens: int = 256,
    ) -> None:
        super().__init__(backbone, optimisation, max_new_tokens)
