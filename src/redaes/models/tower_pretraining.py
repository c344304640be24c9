"""Give a randomly initialised vision tower its eyes, without labels; for the nano presets only.

The paper's backbones come with a pre-trained tower. Nano's starts from random weights, and a few hundred steps of
next-token training teach it the prior of the answers long before it looks at the picture. So the tower first learns
to tell low-level statistics of the very patches it is given: for every image token brightness and colour, contrast,
fine and finest detail, colour spread, from a linear head on the merger's output (the idea of regressing hand-made
features, MaskFeat, Wei et al. 2022). No judge, no score and no edit is involved; the head is thrown away.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from redaes.models.processor import VisionTextProcessor


def patch_statistics(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """Low-level statistics of every image token.

    Args:
        pixels: (patches, channels x time x patch x patch), in the order the image processor gives: the merge x merge
            patches of one token are consecutive.
        patch: side of a patch in pixels.
        merge: side of a token in patches.

    Returns:
        (tokens, 9): mean of red, green and blue, deviation of brightness, its darkest and brightest tenth, log energy
        of its first and of its second differences, deviation of the colour differences.
    """
    rgb = pixels.view(-1, merge * merge, 3, pixels.shape[1] // (3 * patch * patch), patch, patch)[:, :, :, 0]
    luma = rgb.mean(2)
    flat = luma.flatten(1)
    first = (luma.diff(dim=-1) ** 2).flatten(1).mean(1) + (luma.diff(dim=-2) ** 2).flatten(1).mean(1)
    second = (luma.diff(n=2, dim=-1) ** 2).flatten(1).mean(1) + (luma.diff(n=2, dim=-2) ** 2).flatten(1).mean(1)
    colour = (rgb - luma.unsqueeze(2)).flatten(1)
    columns = [
        *rgb.transpose(1, 2).flatten(2).mean(2).unbind(1),
        flat.std(1),
        flat.quantile(0.1, dim=1),
        flat.quantile(0.9, dim=1),
        (first + 1e-5).log(),
        (second + 1e-5).log(),
        colour.std(1),
    ]
    return torch.stack(columns, dim=1)


def pretrain_tower(
    model: Any,
    processor: VisionTextProcessor,
    images: Sequence[Image],
    steps: int,
    *,
    batch_size: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> float:
    """Train the vision tower of `model` in place.

    Args:
        model: a nano model.
        processor: its processor.
        images: training photographs and their edits.
        steps: optimiser steps.
        batch_size: images a step.
        lr: peak learning rate; warmed up over a tenth of the steps, then a cosine to 0.
        seed: of the order of images.
        progress: called with (step, loss).

    Returns:
        The share of the statistics' variance left unexplained at the end (mean of the last tenth of the steps).
    """
    generator = torch.Generator().manual_seed(seed)
    tower, vision = model.model.visual, model.config.vision_config
    probe, _ = processor.pixels([images[i] for i in torch.randperm(len(images), generator=generator)[:256].tolist()])
    targets = patch_statistics(probe, vision.patch_size, vision.spatial_merge_size)
    mean, deviation = targets.mean(0), targets.std(0) + 1e-6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(vision.out_hidden_size, targets.shape[1])
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    losses = []
    for step in range(steps):
        chosen = torch.randint(len(images), (batch_size,), generator=generator).tolist()
        pixels, grid = processor.pixels([images[i] for i in chosen])
        truth = (patch_statistics(pixels, vision.patch_size, vision.spatial_merge_size) - mean) / deviation
        tokens = torch.cat(list(model.model.get_image_features(pixels, grid, return_dict=True).pooler_output))
        loss = torch.nn.functional.mse_loss(head(tokens), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, losses[-1])
    return sum(losses[-max(1, steps // 10) :]) / max(1, steps // 10)
