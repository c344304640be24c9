"""Whether the weights' dtype and the trainer's precision make a sound pair, said before any weight is opened.

AdamW moves a weight by about lr at a time. bfloat16 has 8 bits of mantissa: a step of 1e-6 is lost on every weight
larger than 1e-6 * 2^9 = 0.0005, that is, on nearly all of them. Trained weights therefore stay float32 (`master
weights`), and `bf16-mixed` computes in bfloat16 with them.
"""

import warnings

from redaes.errors import UserError
from redaes.models.vlm import Backbone


def check_precision(backbone: Backbone, precision: str, *, masters: bool = False) -> None:
    """Refuse pairs that contradict each other, and warn of the one that loses updates.

    Args:
        backbone: which model and in which dtype.
        precision: the trainer's, such as `32-true`, `bf16-mixed` or `bf16-true`.
        masters: the strategy keeps float32 copies of bfloat16 weights itself (DeepSpeed does).

    Raises:
        UserError: float16, which has no loss scaling here; or a precision that rounds the weights that dtype promises.
    """
    narrow = backbone.dtype == "bfloat16"
    if precision.startswith("16"):
        raise UserError(f"trainer.precision={precision} is not supported: use bf16-mixed, or 32-true on older cards")
    if precision == "bf16-true" and not narrow and not masters:
        raise UserError(
            "trainer.precision=bf16-true rounds the weights that backbone.dtype=float32 keeps: use bf16-mixed, or "
            "backbone.dtype=bfloat16"
        )
    if precision == "bf16-mixed" and narrow and backbone.lora is None and not masters:
        raise UserError(
            "trainer.precision=bf16-mixed is for float32 weights, and backbone.dtype=bfloat16 has rounded them: set "
            "backbone.dtype=float32"
        )
    # An adapter is float32 whatever is under it; a tower that is trained beside it is not.
    trained_narrow = precision == "bf16-true" or (narrow and (backbone.lora is None or not backbone.freeze_vision))
    if trained_narrow and not masters:
        warnings.warn(
            "bfloat16 weights lose small updates (at lr=1e-6 nearly all of them): train float32 weights with "
            "trainer.precision=bf16-mixed, or an adapter alone (backbone.freeze_vision=true) with "
            "trainer.precision=32-true or bf16-mixed",
            stacklevel=2,
        )
