"""NIMA as a scorer: the mean of the predicted votes, and their standard deviation.

Votes are on 1..10; the mean is mapped linearly to [0, 10], (mean - 1) * 10 / 9, and the deviation is scaled alike.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL.Image import Image

from redaes.data.images import VIEW_SIDE, open_image
from redaes.errors import UserError
from redaes.inference import Score
from redaes.models.nima import load_nima, moments

POINTS = 10 / 9


class NimaScorer:
    """Scores photographs with a NIMA that `redaes fit --config baselines/nima.yaml` trained.

    Args:
        model: its folder, with `nima.json` and `model.safetensors`.
        batch_size: images in one forward pass.
        device: `cpu`, `cuda`, ...; None takes a GPU if there is one.

    Raises:
        UserError: the folder holds no NIMA, or its backbone's library is missing.
    """

    deterministic = True

    def __init__(self, model: str, *, batch_size: int = 32, device: str | None = None) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        self.batch_size = batch_size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = load_nima(model).to(self.device)
        self.fingerprint = _fingerprint(Path(model))

    def score(self, images: Sequence[Image | str | Path]) -> list[Score]:
        """Score each image seen alone, in order.

        Args:
            images: Pillow images (any mode) or paths.

        Returns:
            One `Score` per image: value in [0, 10], `std` of the predicted votes in the same points, and in `text`
            both as they are on 1..10.

        Raises:
            ImageError: a path that cannot be read as an image.
        """
        scores: list[Score] = []
        for start in range(0, len(images), self.batch_size):
            opened = [
                i if isinstance(i, Image) else open_image(i, max_side=VIEW_SIDE)
                for i in images[start : start + self.batch_size]
            ]
            with torch.inference_mode():
                means, stds = moments(self.model(self.model.pixels(opened).to(self.device)))
            scores += [
                Score(min(max((m - 1) * POINTS, 0.0), 10.0), "", f"{m:.4f} +- {s:.4f} on 1..10", s * POINTS)
                for m, s in zip(means.tolist(), stds.tolist(), strict=True)
            ]
        return scores


def _fingerprint(folder: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name in ("nima.json", "model.safetensors"):
        digest.update((folder / name).read_bytes())
    return f"nima:{digest.hexdigest()[:12]}"
