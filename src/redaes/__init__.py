"""redaes: image aesthetics learned by comparison.

An open implementation of RED-Aes (arXiv 2606.05778). The public API is imported on first use, so that
`import redaes` and the command line's `--help` stay free of torch.

Example:
    >>> import redaes
    >>> redaes.__version__
    '0.1.0'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redaes.inference import Difference, Ranked, Score
    from redaes.inference.scorer import Scorer
    from redaes.registry import load_plugin

__version__ = "0.1.0"
__all__ = ["Difference", "Ranked", "Score", "Scorer", "__version__", "load_plugin"]

_LAZY = {
    "Scorer": "redaes.inference.scorer",
    "Score": "redaes.inference",
    "Difference": "redaes.inference",
    "Ranked": "redaes.inference",
    "load_plugin": "redaes.registry",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from redaes.importing import uncollected

        with uncollected():
            return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'redaes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
