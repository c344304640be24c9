"""Import transformers without what only compilers, many machines and object detectors need: some 400 modules less.

transformers takes a few names of each of these modules as it is imported; models that are opened to answer use none.
Whoever does use one gets the whole module (`redaes.importing`), so that a process which has scored can train, compile
and shard. Versions of torch and transformers with which this was not tried import everything, as they are made to.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, cached_property, wraps
from importlib.metadata import version
from types import ModuleType, SimpleNamespace
from typing import Any

from redaes.importing import deferred, when_imported

TRIED = {"torch": ("2.13",), "transformers": ("5.23",)}
"""Releases that tests/models/test_lean_import.py has passed with; only with these is anything left out."""

DYNAMO = "torch._dynamo"
UNUSED = {
    "scipy.optimize": ("linear_sum_assignment",),
    "accelerate": ("dispatch_model", "PartialState"),
    "accelerate.hooks": ("add_hook_to_module", "AlignDevicesHook"),
    "accelerate.utils": (
        "extract_model_from_parallel",
        "get_balanced_memory",
        "get_max_memory",
        "infer_auto_device_map",
        "reduce",
    ),
    "accelerate.utils.modeling": ("clean_device_map", "get_max_layer_size"),
    "torch._dynamo._trace_wrapped_higher_order_op": ("TransformGetItemToIndex",),
    "torch.distributed._composable.fsdp": ("fully_shard",),
    "torch.distributed.fsdp": ("CPUOffloadPolicy", "MixedPrecisionPolicy"),
    "torch.distributed.checkpoint.hf_storage": ("HuggingFaceStorageReader", "HuggingFaceStorageWriter"),
}
"""Of each module the names that transformers takes and opening a model does not use."""


@contextmanager
def lean() -> Iterator[None]:
    """Import transformers, if it is not there, and open models within without what they do not use."""
    if not all(release(version(library)) in releases for library, releases in TRIED.items()):
        import transformers.modeling_utils

        yield
        return
    import torch  # noqa: F401

    with ExitStack() as stack:
        for module, names in UNUSED.items():
            stack.enter_context(deferred(module, *names, by=("transformers",)))
        marks = {"disable": _disable, "allow_in_graph": _noted("allow_in_graph")}
        marks["assume_constant_result"] = _noted("assume_constant_result")
        stack.enter_context(deferred(DYNAMO, by=("transformers", "torch.compiler", "torch._compile"), instead=marks))
        _import_transformers()
        import transformers.modeling_utils  # noqa: F401

        stack.enter_context(_compiling_when_used())
        yield


def release(version: str) -> str:
    """The first two numbers of a version: `2.13` of `2.13.0+cu130`."""
    return ".".join(version.split(".")[:2])


def _import_transformers() -> None:
    """Import transformers and its package of all models, which read some 1,700 files for the names they export.

    Twice, and each file is split into all its lines to find the last one that starts with `__all__`. Here only what
    follows it is split, and a folder that was looked through is remembered.
    """
    before: dict[str, Any] = {}

    def quicken(reading: Any) -> None:
        before.update({name: getattr(reading, name) for name in ("fetch__all__", "create_import_structure_from_path")})
        reading.fetch__all__ = lambda file: before["fetch__all__"](_exports(file))
        reading.create_import_structure_from_path = cache(reading.create_import_structure_from_path.__wrapped__)

    if "transformers" not in sys.modules:
        when_imported("transformers.utils.import_utils", quicken)
    import transformers.models  # noqa: F401
    from transformers.utils import import_utils

    vars(import_utils).update(before)


def _exports(file: str) -> str:
    """What follows the beginning of the last line that starts with `__all__`; everything if there is none."""
    return file[file.rfind("\n__all__") + 1 :]


@contextmanager
def _compiling_when_used() -> Iterator[None]:
    """Let transformers have a thousand patterns for the weights of all its models, and compile those of one."""
    from transformers import core_model_loading as loading

    loading.re = SimpleNamespace(**{**vars(re), "compile": _Pattern})
    try:
        yield
    finally:
        loading.re = re


class _Pattern:
    """A regular expression that is compiled when it is used."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self._pattern)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copying and pickling look for
            raise AttributeError(name)
        return getattr(self._compiled, name)

    def __deepcopy__(self, memo: object) -> "_Pattern":
        return self


def _noted(mark: str) -> Callable[[Any], Any]:
    """A mark of the compiler's that gives back the function it is put on, put on when the compiler is imported."""

    def decorate(function: Any) -> Any:
        when_imported(DYNAMO, lambda dynamo: getattr(dynamo, mark)(function))
        return function

    return decorate


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """`torch._dynamo.disable` before there is a compiler, which means: call the function."""
    if function is None:
        return lambda function: _disable(function, recursive, **options)
    disabled: list[Any] = []  # by the compiler, once it is there

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (disabled or [function])[0](*args, **kwargs)

    def settle(dynamo: ModuleType) -> None:
        disabled.append(dynamo.disable(function, recursive, **options))
        # torch's own functions remember what they got, and ask again if it is gone.
        if getattr(function, "__dynamo_disable", None) is call:
            with suppress(AttributeError):
                del function.__dynamo_disable

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    when_imported(DYNAMO, settle)
    return call
