"""NIMA (Talebi & Milanfar, arXiv 1709.05424): a convolutional network that predicts how people's votes spread.

Photographs in, a distribution over ten scores out; its mean is the score, its standard deviation how much people
disagree. A trained model is a folder with `nima.json` (how to build it) and `model.safetensors` (its weights).

Two families of backbone, by name: `timm:NAME`, any of timm's, the authors' choice among them
(`timm:inception_resnet_v2`, `timm:vgg16`); and `transformers:FOLDER_OR_ID`, any image backbone of transformers that
pools, such as `google/mobilenet_v2_1.0_224`, which needs no torchvision where timm does.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from redaes.errors import UserError

BINS = 10
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NimaConfig:
    """How a NIMA is built.

    Attributes:
        backbone: `timm:NAME`, or `transformers:` and a folder or hub id.
        image_size: side of the square it sees, in pixels; 224 in the paper.
        dropout: before the head, in [0, 1); 0.75 in the paper.
        mean: subtracted from each channel in [0, 1].
        std: divides each channel.
        backbone_config: of a transformers backbone, so that a trained model needs nothing but its folder.
    """

    backbone: str = "timm:mobilenetv2_100"
    image_size: int = 224
    dropout: float = 0.75
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    backbone_config: dict[str, Any] = field(default_factory=dict)


class Nima(nn.Module):
    """A backbone, its pooled features, and a head of ten bins.

    Args:
        config: how to build it.
        pretrained: begin with the backbone's published weights; those of transformers are read from where it names.

    Raises:
        UserError: no such backbone, or its library cannot be imported.
    """

    def __init__(self, config: NimaConfig, pretrained: bool = False) -> None:
        super().__init__()
        if not 0 <= config.dropout < 1:
            raise UserError(f"dropout is {config.dropout}; it must be in [0, 1)")
        if config.image_size < 32:
            raise UserError(f"image_size is {config.image_size}; it must be at least 32")
        family, _, name = config.backbone.partition(":")
        if family not in ("timm", "transformers") or not name:
            raise UserError(f"backbone is {config.backbone!r}; write timm:NAME or transformers:FOLDER_OR_ID")
        self.pooled = family == "transformers"
        if self.pooled:
            self.backbone, features, saved = _of_transformers(name, config.backbone_config, pretrained)
            config = NimaConfig(**{**asdict(config), "backbone_config": saved})
        else:
            self.backbone, features = _of_timm(name, pretrained)
        self.config = config
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(features, BINS))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> logits of the ten scores (B, 10)."""
        found = self.backbone(pixels)
        logits: Tensor = self.head(found.pooler_output.flatten(1) if self.pooled else found)
        return logits

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """Photographs squeezed to the square, as the paper does for scoring: (B, 3, S, S) float32, normalised."""
        return torch.stack([self.normalised(image) for image in images])

    def normalised(self, image: Image) -> Tensor:
        """One photograph as (3, S, S)."""
        side = self.config.image_size
        small = image.convert("RGB").resize((side, side), Resampling.BILINEAR)
        scaled = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(list(v)).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        return (scaled - mean) / std

    def save(self, folder: str | Path) -> None:
        """Write `nima.json` and `model.safetensors`."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "nima.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")


def load_nima(folder: str | Path) -> Nima:
    """The model that `Nima.save` wrote, ready to score.

    Raises:
        UserError: the folder holds none, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        settings = json.loads((folder / "nima.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
        config = NimaConfig(**settings)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} is no trained NIMA (nima.json and model.safetensors): {error}") from error
    model = Nima(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder}/model.safetensors does not fit {config.backbone}: {first}") from error
    return model.requires_grad_(False).eval()


def moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the predicted votes.

    Args:
        logits: (B, 10) of the scores 1..10.

    Returns:
        Two of (B,), in points of 1..10.

    Example:
        >>> mean, std = moments(torch.zeros(1, 10))
        >>> round(float(mean), 4), round(float(std), 4)
        (5.5, 2.8723)
    """
    votes = logits.float().softmax(-1)
    scores = torch.arange(1, BINS + 1, device=logits.device, dtype=votes.dtype)
    mean = (votes * scores).sum(-1)
    variance = (votes * (scores - mean.unsqueeze(-1)).square()).sum(-1)
    return mean, variance.sqrt()


def _of_timm(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise UserError(
            f"backbone timm:{name} needs timm with a torchvision built for torch {torch.__version__} "
            f"({str(error).splitlines()[0]}): pip install 'redaes[baselines]', or use transformers:FOLDER_OR_ID"
        ) from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"{name[:6]}*")[:5]) or "see timm.list_models()"
        raise UserError(f"timm has no model {name!r}; near it: {near}")
    backbone = timm.create_model(name, pretrained=pretrained, num_classes=0)
    # What the pooled output measures; `num_features` leaves out the layers between of some families.
    return backbone, int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)


def _of_transformers(name: str, saved: dict[str, Any], pretrained: bool) -> tuple[nn.Module, int, dict[str, Any]]:
    from transformers import AutoConfig, AutoModel

    try:
        settings = dict(saved)
        config = AutoConfig.for_model(**settings) if saved else AutoConfig.from_pretrained(name)
        opened = AutoModel.from_pretrained(name) if pretrained else AutoModel.from_config(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot open backbone transformers:{name}: {str(error).splitlines()[0]}") from error
    opened.eval()
    size = getattr(config, "image_size", None)
    side = size if isinstance(size, int) else 64
    with torch.no_grad():
        pooled = getattr(opened(torch.zeros(1, 3, side, side)), "pooler_output", None)
    if pooled is None:
        raise UserError(f"transformers:{name} is a {config.model_type} without pooled features; take another backbone")
    opened.train()
    return opened, pooled.flatten(1).shape[1], config.to_dict()
