"""Importing the heavy libraries in less time: torch and transformers take most of the wait for a first score.

A library can be imported without the modules of which it takes a few names that are not used (`deferred`). Whoever asks
for such a module gets it, whole, as if nothing had been deferred: the names that were taken before are then replaced.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through what is being imported.

    Imports make a million objects that stay and no garbage; the collector would look through all of them again and
    again, which is a tenth of the time that torch and transformers need. Afterwards they count as old ones, which it
    seldom looks at: else its next look at the young, a thing of microseconds, would take a fifth of a second.

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
            if gc.get_freeze_count() == 0:  # what somebody else has frozen stays so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@contextmanager
def deferred(
    module: str, *names: str, by: Sequence[str] = (), instead: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Let a library that is imported within take these names of a module without importing the module.

    A name is then a stand-in that imports the module when it is called or an attribute of it is asked for; nothing is
    an instance of it before. Any other attribute of the module imports it at once, and so does everybody who asks for
    the module afterwards, which also puts the real things into the modules that took a stand-in. A module that is there
    already is left as it is.

    Args:
        module: its full name.
        names: of functions and classes.
        by: the libraries that may take them, as prefixes of modules' names; () lets everybody. Others get the real
            module.
        instead: what certain names give, where a stand-in that imports the module when called is not enough.
    """
    parent, _, child = module.rpartition(".")
    # Of a part of a package this would import the package.
    spec = None if parent or module in sys.modules else find_spec(module)
    if module in sys.modules or not (parent or spec):
        yield
        return
    taken: dict[str, Any] = {name: _Late(module, name) for name in names}
    stand_in = _StandIn(module, {**taken, **(instead or {})}, tuple(by))
    stand_in.__spec__ = spec
    sys.modules[module] = stand_in
    above = sys.modules.get(parent)
    if above is not None:  # where `import a.b` binds it, for those who then write `a.b.c`
        setattr(above, child, stand_in)

    def replace(real: ModuleType) -> None:
        _replace(stand_in, taken, real)

    when_imported(module, replace)
    try:
        yield
    finally:
        if not stand_in.asked:
            forget(module, replace)
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]
        if above is not None and vars(above).get(child) is stand_in:
            delattr(above, child)


def when_imported(module: str, then: Callable[[ModuleType], None]) -> None:
    """Call `then` with a module right after it is imported, whoever does it; at once if it is there."""
    present = sys.modules.get(module)
    if present is not None and not isinstance(present, _StandIn):
        then(present)
        return
    _arrivals.awaited.setdefault(module, []).append(then)
    if _arrivals not in sys.meta_path:
        sys.meta_path.insert(0, _arrivals)


def forget(module: str, then: Callable[[ModuleType], None]) -> None:
    """Do not call what `when_imported` was given any more."""
    _arrivals.awaited[module] = [waiting for waiting in _arrivals.awaited.get(module, ()) if waiting is not then]


def is_imported(module: str) -> bool:
    """Whether a module is there, and not only a stand-in of it."""
    return not isinstance(sys.modules.get(module), _StandIn | None)


class _StandIn(ModuleType):
    """What lies in the place of a module that is not imported yet."""

    def __init__(self, module: str, late: Mapping[str, Any], by: tuple[str, ...]) -> None:
        super().__init__(module)
        self._late, self._by, self.asked = late, by, False

    def __getattr__(self, name: str) -> Any:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        if name in self._late and not is_imported(self.__name__) and _is_within(asking, self._by):
            self.asked = True
            return self._late[name]
        # Python asks any module for such names, and for the path in earnest only to import a module from within it.
        if name.startswith("__") and not (name == "__path__" and asking == "importlib._bootstrap"):
            raise AttributeError(name)
        self.asked = True
        real = _real(self.__name__)
        if not hasattr(real, name) and hasattr(real, "__path__"):  # `from package import part`
            with suppress(ModuleNotFoundError):
                return import_module(f"{self.__name__}.{name}")
        return getattr(real, name)


class _Late:
    """What lies in the place of a function or class whose module is not imported yet.

    It can be called, asked for attributes, derived from and named in `isinstance` and in unions of types.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _found(self) -> Any:
        return getattr(_real(self._module), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return is_imported(self._module) and isinstance(instance, self._found())

    def __subclasscheck__(self, subclass: type) -> bool:
        return is_imported(self._module) and issubclass(subclass, self._found())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._found(),)

    def __or__(self, other: Any) -> Any:
        return self._found() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._found()


class _Arrivals(MetaPathFinder):
    """Finds modules as the others do, and lets those know who wait for one."""

    def __init__(self) -> None:
        self.awaited: dict[str, list[Callable[[ModuleType], None]]] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.awaited:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target)) is not None), None)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for then in self.awaited.pop(name, ()):
                then(module)

        loader.exec_module = exec_module
        return spec


_arrivals = _Arrivals()


def _replace(stand_in: ModuleType, taken: Mapping[str, Any], real: ModuleType) -> None:
    """Put the real module and what was taken of it into the modules that hold the stand-ins."""
    names = {id(late): name for name, late in taken.items()}
    for module in list(sys.modules.values()):
        held = vars(module) if isinstance(module, ModuleType) else {}
        for name, value in list(held.items()):
            if value is stand_in:
                held[name] = real
            elif id(value) in names:
                held[name] = getattr(real, names[id(value)])


def _is_within(module: str, libraries: tuple[str, ...]) -> bool:
    return not libraries or any(module == library or module.startswith(f"{library}.") for library in libraries)


def _real(module: str) -> ModuleType:
    if isinstance(sys.modules.get(module), _StandIn):
        del sys.modules[module]
    return import_module(module)
