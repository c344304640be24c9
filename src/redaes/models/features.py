"""Features of images: computed once for each image of a step, and with a frozen tower kept from step to step.

A frozen tower (Sec. 4.1) gives the same features for the same photograph in every epoch and in every stage. An image
is known by its `VisionTextBatch.image_keys`, a tower by the fingerprint of its weights and of how it is run.

What is kept never decides a number: with a cache, every image goes through the tower alone, so that its features
follow from the image whatever it was batched with, what was kept before and where training was resumed (and features
kept in a narrower type are narrowed before their first use as well). Without one, the images of a step go through
together, which is faster and may differ in the last bits.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from redaes.errors import UserError
from redaes.models.feature_stores import DiskStore, FeatureStore, MemoryStore
from redaes.models.processor import VisionTextBatch
from redaes.models.vlm import FeatureCaching, bare

LAYOUT = "2"
"""Changes when the meaning of a kept tensor does, or its last bits, so that older ones are not taken for it."""


def tower_is_trained(model: Any) -> bool:
    """Whether any weight of the vision tower is trainable."""
    return any(p.requires_grad for p in bare(model).model.visual.parameters())


def image_features(model: Any, batch: VisionTextBatch) -> Any:
    """Run the vision tower once over the distinct images of a batch; without a graph if the tower is frozen.

    Args:
        model: from `open_model`.
        batch: with I images.

    Returns:
        What the model takes as `mm_encoder_outputs["image"]`: `pooler_output`, one (tokens, width) tensor for each of
        the I images, and `deepstack_features`, the same for each level (none on Qwen2.5-VL).
    """
    keys = batch.image_keys or list(map(str, range(len(batch.image_grid_thw))))
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    with torch.set_grad_enabled(tower_is_trained(model) and torch.is_grad_enabled()):
        if len(first) == len(keys):
            return _look(model, batch.pixel_values, batch.image_grid_thw)
        patches, chosen = _patches(batch), list(first.values())
        looked = _look(model, torch.cat([patches[i] for i in chosen]), batch.image_grid_thw[chosen])
    seen = dict(zip(first, split_features(looked), strict=True))
    return join_features([seen[key] for key in keys])


def split_features(features: Any) -> list[Any]:
    """Features of a batch's images -> the features of each image alone (deepstack levels included)."""
    count, levels = len(features.pooler_output), getattr(features, "deepstack_features", None) or ()
    return [
        SimpleNamespace(
            pooler_output=(features.pooler_output[i],), deepstack_features=[(level[i],) for level in levels]
        )
        for i in range(count)
    ]


def join_features(parts: Sequence[Any]) -> Any:
    """The inverse of `split_features`, for any images in any order."""
    levels = range(len(parts[0].deepstack_features))
    return SimpleNamespace(
        pooler_output=tuple(row for part in parts for row in part.pooler_output),
        deepstack_features=[tuple(row for part in parts for row in part.deepstack_features[k]) for k in levels],
    )


def _look(model: Any, pixels: Tensor, grid: Tensor) -> Any:
    return bare(model).model.get_image_features(pixels, grid, return_dict=True)


def _patches(batch: VisionTextBatch) -> tuple[Tensor, ...]:
    patches: tuple[Tensor, ...] = batch.pixel_values.split(batch.image_grid_thw.prod(-1).tolist())
    return patches


class FeatureCache:
    """Features of images under a frozen tower, kept from step to step.

    Args:
        options: where they are kept and how many.

    Attributes:
        store: None without a cache.
        hits: images found so far; an image that occurs twice in a step counts once.
        misses: images that went through the tower because they were not found.

    Raises:
        UserError: a bound that is no positive number, a disk cache without a path or with one that cannot be written.
    """

    def __init__(self, options: FeatureCaching) -> None:
        self.options = options
        self.store = _open_store(options)
        self.hits = 0
        self.misses = 0
        self._fingerprint = ""
        self._weights: list[tuple[int, int]] = []

    def features(self, model: Any, batch: VisionTextBatch) -> Any:
        """The features of a batch's images, computed where they are not kept.

        Args:
            model: from `open_model`. With a trained tower, or for a batch without keys, nothing is kept.
            batch: with I images.

        Returns:
            As `image_features`.
        """
        if self.store is None or batch.image_keys is None or tower_is_trained(model):
            return image_features(model, batch)
        # Tensors of inference mode (Lightning validates in it) could not be used in a training step later.
        with torch.inference_mode(False), torch.no_grad():
            tower, patches, looked = self._tower(model), _patches(batch), dict[str, Any]()
            for place, key in enumerate(batch.image_keys):
                if key not in looked:
                    pixels, grid = patches[place], batch.image_grid_thw[place : place + 1]
                    looked[key] = _unpack(self._of_image(self.store, model, tower, key, pixels, grid))
        return join_features([looked[key] for key in batch.image_keys])

    def _of_image(self, store: FeatureStore, model: Any, tower: str, key: str, pixels: Tensor, grid: Tensor) -> Tensor:
        kept = store.get(tower, key)
        if kept is not None:
            self.hits += 1
            return kept.to(pixels.device, non_blocking=True)
        self.misses += 1
        packed = _pack(_look(model, pixels, grid))
        if self.options.dtype is not None:
            packed = packed.to(getattr(torch, self.options.dtype))
        store.put(tower, key, packed)
        return packed

    def _tower(self, model: Any) -> str:
        """Name of the features that this model would compute here and now."""
        visual = bare(model).model.visual
        # Weights change in place when a checkpoint is loaded: `_version` counts that, and costs no reading.
        weights = [(w.data_ptr(), w._version) for w in visual.state_dict().values()]
        if weights != self._weights:
            self._fingerprint, self._weights = tower_fingerprint(model), weights
        parts = [LAYOUT, self._fingerprint, self.options.dtype, *_circumstances(visual)]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def tower_fingerprint(model: Any) -> str:
    """A hash of the vision tower: names, shapes, types and bytes of its weights, and its configuration.

    Args:
        model: from `open_model`, on any device.

    Raises:
        UserError: the tower's weights are spread over several processes.
    """
    visual = bare(model).model.visual
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(visual.config.to_dict(), sort_keys=True, default=str).encode())
    for name, weight in visual.state_dict().items():
        if weight.numel() == 0 or hasattr(weight, "placements") or hasattr(weight, "ds_id"):
            raise UserError(
                "the vision tower is spread over several processes, which would wait for each other at images only "
                "some have to compute; set backbone.features.cache to null"
            )
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _circumstances(visual: Any) -> list[str]:
    """What else decides the last bits of a forward pass, or more than those."""
    import transformers

    device = next(visual.parameters()).device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    return [
        kind,
        f"autocast {autocast}",
        torch.get_float32_matmul_precision(),
        visual.config._attn_implementation,
        torch.__version__,
        transformers.__version__,
    ]


def _open_store(options: FeatureCaching) -> FeatureStore | None:
    if options.cache is None:
        return None
    if not 0 < options.max_gb < math.inf:
        raise UserError(f"backbone.features.max_gb is {options.max_gb}; it must be a positive, finite number")
    limit = int(options.max_gb * 1e9)
    if options.cache == "memory":
        return MemoryStore(limit)
    if options.path is None:
        raise UserError("backbone.features.cache is disk but backbone.features.path is not set; name a folder")
    return DiskStore(Path(options.path).expanduser(), limit)


def _pack(features: Any) -> Tensor:
    """Features of one image as one tensor (1 + levels, tokens, width)."""
    levels = getattr(features, "deepstack_features", None) or ()
    return torch.stack([features.pooler_output[0], *(level[0] for level in levels)])


def _unpack(packed: Tensor) -> Any:
    pooled, *levels = packed.unbind(0)
    return SimpleNamespace(pooler_output=(pooled,), deepstack_features=[(level,) for level in levels])
