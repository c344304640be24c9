"""A torchvision whose compiled half was built for another build of torch: the Python half alone is enough here.

Its import ends at the first operator that is missing. timm and pyiqa call none of them on a photograph.
"""

import sys
from importlib.util import find_spec

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")


def define_missing() -> None:
    """Name the operators at which the import of torchvision stops, if it is installed and stops there."""
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
