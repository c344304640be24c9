"""Importing the heavy libraries in less time: torch and transformers take most of the wait for a first score."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through what is being imported.

    Imports make a million objects that stay and no garbage; the collector would look through all of them again and
    again, which is a tenth of the time that torch and transformers need.

    Example:
        >>> import gc
        >>> with uncollected():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def deferred(module: str, *functions: str) -> Iterator[None]:
    """Let a library that is imported within take these functions of a module without importing the module.

    Each is then a function that imports the module when it is first called. Any other attribute imports it at once,
    and so does everybody who asks for the module afterwards. A module that is there already is left as it is.

    Args:
        module: its full name.
        functions: what the library takes from it.
    """
    if module in sys.modules:
        yield
        return
    stand_in = _StandIn(module)
    for name in functions:
        setattr(stand_in, name, _late(module, name))
    sys.modules[module] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]


class _StandIn(ModuleType):
    """What lies in the place of a module that is not imported yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of any module
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _late(module: str, name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(_real(module), name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = module
    return call


def _real(module: str) -> ModuleType:
    if isinstance(sys.modules.get(module), _StandIn):
        del sys.modules[module]
    return import_module(module)
