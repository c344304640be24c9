"""What a person may hand over as an image, as the RGB picture that a model is shown.

In: Pillow images of any mode, paths, numpy arrays (H, W) or (H, W, C), torch tensors (H, W) or (C, H, W), with 1, 3 or
4 channels, as uint8 or as floats in [0, 1]. Out: upright RGB, transparency on white, as `redaes.decoding` makes it of a
file. What cannot be used becomes an `ImageError` that names the file, or the image by its number from 0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from redaes.data.images import ImageError, open_image
from redaes.decoding import DecodeError, as_seen
from redaes.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

ImageLike: TypeAlias = Union["Image", str, Path, "np.ndarray[Any, Any]", "torch.Tensor"]
Images: TypeAlias = Union[Sequence[ImageLike], "np.ndarray[Any, Any]", "torch.Tensor"]

_CHANNELS = (1, 3, 4)
_ROUNDING = 1e-3
"""By how much floats may leave [0, 1]: half a level of 8 bits would be 2e-3."""


def opened(image: ImageLike, name: str, *, max_side: int | None = None) -> "Image":
    """One image as upright RGB.

    Args:
        image: of any of the kinds above.
        name: what to call it in an error, unless it is a file.
        max_side: if given, the longer side of the result is at most this many pixels.

    Raises:
        ImageError: a file that is no image, or an array whose shape, type or range no image has.
        UserError: something else altogether.
    """
    from PIL.Image import Image

    if isinstance(image, str | Path):
        return open_image(image, max_side=max_side)
    if not isinstance(image, Image):
        image = _from_numbers(image, name)
    try:
        return as_seen(image, max_side)
    except DecodeError as error:
        raise ImageError(name, str(error)) from error


def listed(images: Images) -> Sequence[ImageLike]:
    """Several images, one by one: a sequence of them, or a batch as an array (N, H, W, C) or a tensor (N, C, H, W).

    Raises:
        UserError: a single image, or something else than images.
    """
    from PIL.Image import Image

    if isinstance(images, str | Path | Image):
        raise UserError("one image was given where several are expected: put it in a list")
    if isinstance(images, Sequence):
        return images
    shape = getattr(images, "shape", None)
    if shape is None:
        raise UserError(f"a {type(images).__name__} was given where images are expected: put them in a list")
    if len(shape) != 4:
        raise UserError(
            f"a batch has shape {tuple(shape)}; it must be (N, H, W, C) of an array or (N, C, H, W) of a tensor; "
            "put a single image in a list"
        )
    return list(images)


def _from_numbers(image: Any, name: str) -> "Image":
    import numpy as np
    from PIL import Image

    values = _as_array(image, name)
    if values.dtype != np.uint8:
        values = _to_8_bits(values, name)
    return Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values)


def _as_array(image: Any, name: str) -> "np.ndarray[Any, Any]":
    """(H, W) or (H, W, C) of any type."""
    import numpy as np

    if isinstance(image, np.ndarray):
        values, layout = image, "an array is (H, W) or (H, W, C)"
        channels = values.shape[-1] if values.ndim == 3 else 1
    elif any(kind.__module__ == "torch" for kind in type(image).__mro__):
        tensor = image.detach().cpu()
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        layout = "a tensor is (H, W) or (C, H, W)"
        channels = values.shape[0] if values.ndim == 3 else 1
        values = values.transpose(1, 2, 0) if values.ndim == 3 and channels in _CHANNELS else values
    else:
        raise UserError(
            f"{name} is a {type(image).__name__}; an image is a path, a Pillow image, a numpy array or a torch tensor"
        )
    if values.ndim not in (2, 3) or channels not in _CHANNELS or values.size == 0:
        raise ImageError(name, f"has shape {tuple(image.shape)}; {layout} with 1, 3 or 4 channels")
    return np.ascontiguousarray(values)


def _to_8_bits(values: "np.ndarray[Any, Any]", name: str) -> "np.ndarray[Any, Any]":
    import numpy as np

    if not np.issubdtype(values.dtype, np.floating):
        raise ImageError(name, f"is of type {values.dtype}; give uint8 in 0..255 or floats in 0..1")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(name, "holds values that are not finite")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ImageError(name, f"holds values from {low:.4g} to {high:.4g}; floats must be in 0..1")
    return np.rint(values.astype(np.float64).clip(0.0, 1.0) * 255.0).astype(np.uint8)
