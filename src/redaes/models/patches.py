"""The patch embedding of a vision tower as the matrix product that it is.

Each window of the convolution is one whole patch, so nothing slides: a patch, flattened, times the flattened weights.
Convolution kernels are made for other shapes and take two to four times as long for the same sums.
"""

from typing import Any

from torch import Tensor, nn


class WholePatches(nn.Conv3d):
    """A convolution over windows that are each one whole input."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, channels, time, height, width), as large as the kernel -> (N, width of the tower, 1, 1, 1)."""
        embedded = nn.functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return embedded.view(*embedded.shape, 1, 1, 1)


def embed_whole_patches(model: Any) -> None:
    """Let a model's tower embed patches by a matrix product; weights and their names stay as they are.

    Args:
        model: of transformers, with a tower `model.visual`.
    """
    projection = model.model.visual.patch_embed.proj
    if type(projection) is nn.Conv3d:
        projection.__class__ = WholePatches
