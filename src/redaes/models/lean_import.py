"""Import transformers without what only compilers, many machines and object detectors need: some 400 modules less.

transformers takes a few names of each of these modules as it is imported; models that are opened to answer use none.
Whoever does use one gets the whole module (`redaes.importing`), so that a process which has scored can train, compile
and shard. Versions of torch and transformers with which this was not tried import everything, as they are made to.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
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
        _import_models()
        import transformers.modeling_utils  # noqa: F401

        yield


def release(version: str) -> str:
    """The first two numbers of a version: `2.13` of `2.13.0+cu130`."""
    return ".".join(version.split(".")[:2])


def _import_models() -> None:
    """Import the package of all models without a second look through their thousands of files.

    transformers reads them all when it is imported itself, and remembers what it found under other names.
    """
    import transformers
    from transformers.utils import import_utils

    package = Path(str(transformers.__file__)).parent / "models"
    look: Any = getattr(import_utils, "define_import_structure", None)
    structure = _remembered(look, package)
    if "transformers.models" in sys.modules or not structure:
        return

    def remembered(*args: Any, **kwargs: Any) -> Any:
        whole = args == (str(package / "__init__.py"),) and not kwargs
        return structure if whole else look(*args, **kwargs)

    import_utils.define_import_structure = remembered
    try:
        import transformers.models
    finally:
        import_utils.define_import_structure = look


def _remembered(look: Any, package: Path) -> dict[Any, dict[str, Any]]:
    """What transformers found in a package; empty if this version of it does not look as ours does."""
    try:
        found = look(package, prefix="models")  # the very call that it remembers
        structure = {backends: _below("models.", modules) for backends, modules in found.items()}
    except (AttributeError, TypeError):
        return {}
    return structure if any(structure.values()) else {}


def _below(prefix: str, modules: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): names for name, names in modules.items() if name.startswith(prefix)}


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
