"""Every no-reference metric of pyiqa as a scorer: NIMA, MUSIQ, TOPIQ, the LAION predictor, Q-Align and many more.

pyiqa (github.com/chaofengc/IQA-PyTorch) is under the PolyForm Noncommercial licence and in part under S-Lab's: this
package is separate for that reason, and says so whenever a scorer is made. pyiqa downloads a metric's weights when it
is first made, to `~/.cache/torch/hub/pyiqa`.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from redaes.data.images import open_image
from redaes.errors import UserError, nearest
from redaes.inference import Score

LICENCE = "pyiqa is licensed for non-commercial use only (PolyForm Noncommercial 1.0.0, in part S-Lab 1.0)"
NOT_OF_ONE_PHOTOGRAPH = {
    "fid": "compares sets of images",
    "fid_dinov2": "compares sets of images",
    "sfid": "compares sets of images",
    "inception_score": "measures a set of images",
    "clipscore": "needs a caption",
}


class PyiqaScorer:
    """Scores photographs with a metric of pyiqa.

    The metric's own range is mapped linearly to [0, 10], turned where lower is better. A range that pyiqa gives as
    rough (`~0, ~100`) may be left by a photograph: its value then is 0 or 10, and `text` holds the metric's own number.

    Args:
        metric: name in `pyiqa.list_models(metric_mode="NR")`.
        model: the same, for `--model`; `metric` wins.
        score_range: lowest and highest number of the metric; None: what pyiqa says.
        weights: a file of weights in place of those that pyiqa downloads.
        options: further settings of the metric, as `pyiqa.create_metric` takes them.
        batch_size: unused, photographs are of many sizes and are measured one by one, as pyiqa's own command does.
        device: `cpu`, `cuda`, ...; None takes a GPU if there is one.

    Raises:
        UserError: no such metric, one that does not measure a single photograph, no range, or pyiqa does not import.
    """

    deterministic = True

    def __init__(
        self,
        metric: str = "",
        *,
        model: str = "",
        score_range: tuple[float, float] | None = None,
        weights: str | None = None,
        options: Mapping[str, Any] | None = None,
        batch_size: int = 1,
        device: str | None = None,
    ) -> None:
        pyiqa = _import_pyiqa()
        self.metric = metric or model
        known = [name for name in pyiqa.list_models(metric_mode="NR") if name not in NOT_OF_ONE_PHOTOGRAPH]
        if self.metric in NOT_OF_ONE_PHOTOGRAPH:
            raise UserError(f"metric {self.metric!r} {NOT_OF_ONE_PHOTOGRAPH[self.metric]}; it scores no photograph")
        if self.metric not in known:
            raise UserError(f"unknown no-reference metric {self.metric!r} ({nearest(self.metric, known)})")
        warnings.warn(LICENCE, UserWarning, stacklevel=2)
        settings = dict(options or {}) | ({"pretrained_model_path": weights} if weights else {})
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.measure = pyiqa.create_metric(self.metric, device=place, **settings)
        self.low, self.high = score_range or _range(self.metric, self.measure.score_range)
        if not self.low < self.high:
            raise UserError(f"score_range is {[self.low, self.high]}; its first number must be the lower one")
        digest = hashlib.sha256(json.dumps([settings, self.low, self.high], sort_keys=True, default=str).encode())
        if weights:
            digest.update(Path(weights).read_bytes())
        self.fingerprint = f"pyiqa {version('pyiqa')}:{self.metric}@{digest.hexdigest()[:12]}"

    def score(self, images: Sequence[Image | str | Path]) -> list[Score]:
        """Score each image seen alone, in order.

        Args:
            images: Pillow images (any mode) or paths, which are opened at their full size.

        Returns:
            One `Score` per image: value in [0, 10], None where the metric gives no number; `text` is its own number.

        Raises:
            ImageError: a path that cannot be read as an image.
        """
        return [self._score(image if isinstance(image, Image) else open_image(image)) for image in images]

    def _score(self, image: Image) -> Score:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).unsqueeze(0).float() / 255
        with torch.no_grad():
            native = float(self.measure(pixels))
        return Score(self.points(native), "", f"{native:.6g}")

    def points(self, native: float) -> float | None:
        """A number of the metric on [0, 10], the higher the better; None of one that is not finite."""
        if not math.isfinite(native):
            return None
        share = (native - self.low) / (self.high - self.low)
        return 10 * min(max(1 - share if self.measure.lower_better else share, 0.0), 1.0)


def _import_pyiqa() -> Any:
    try:
        import pyiqa
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise UserError(
            f"pyiqa cannot be imported ({str(error).splitlines()[0]}); it needs the torchvision built for torch "
            f"{torch.__version__}"
        ) from error
    return pyiqa


def _range(metric: str, text: str | None) -> tuple[float, float]:
    """What pyiqa writes as `1, 10` or `~0, ~100`.

    Raises:
        UserError: it gives no upper or no lower end.
    """
    ends = [end.strip().lstrip("~") for end in (text or "").split(",")]
    if len(ends) != 2 or not all(ends):
        raise UserError(f"pyiqa gives metric {metric!r} the range {text!r}, which has an open end; set score_range")
    return float(ends[0]), float(ends[1])
