"""Packages that are imported when something of them is used first, and not by the `import` statements before.

`importlib.util.LazyLoader` does nearly the same, but on Python 3.11 it gives a second thread a module that the
first one has imported in part, and it takes modules one by one, of which none may import the other.
"""

from __future__ import annotations

import _imp
import builtins
import contextlib
import importlib
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import MappingProxyType, ModuleType

__all__ = ["LatePackage"]

_FREE = frozenset(
    {
        *("__class__", "__doc__", "__name__", "__qualname__"),
        *("__cached__", "__file__", "__loader__", "__package__", "__path__", "__spec__"),
    }
)
"""Attributes that import statements read, and whoever goes through `sys.modules`: they import nothing."""


class LatePackage:
    """A package that is imported by whoever first uses an attribute of it, or imports a module inside it.

    What stands for it until then is filled in place and becomes a plain module: whoever has it then has the package,
    and an access costs what it always costs. Other threads wait for the one that imports, as for any import. An import
    that fails raises its error, and the next use tries again. The package must not put another module in its own place.

    While a package that is inside no other waits, or is imported, import statements of the process go through a gate: a
    statement for a module inside it comes after the package. Python locks a module before it asks who can find it, so
    that a second thread would hold what the first one's import needs, and one of both would end in a deadlock's error.

    Args:
        name: of the package, which nothing has imported yet.
        modules: full names of modules inside it that wait with it, the outer ones first: `import package.module` and
            `from package import module` then do not import it either.
        apart: full names of modules inside it that can be imported without it.
        stand_ins: attributes of the package that can be read before it is imported, and what is given for them.
        then: called with the package when it was imported, before anybody else gets it.

    Attributes:
        first_use: the stack of whoever used it first; None while it waits.

    Raises:
        ModuleNotFoundError: there is no such module.
    """

    def __init__(
        self,
        name: str,
        modules: Sequence[str] = (),
        apart: Collection[str] = (),
        stand_ins: Mapping[str, object] = MappingProxyType({}),
        then: Callable[[ModuleType], None] | None = None,
    ):
        self.name, self.apart, self.stand_ins, self._then = name, apart, stand_ins, then
        self.first_use: traceback.StackSummary | None = None
        self._lock = threading.Lock()
        self._importing_thread: int | None = None
        self._waiting: dict[str, ModuleType] = {}
        self._finder = _Finder(self)
        kind = _build_kind(self)
        for full_name in (name, *modules):
            sys.modules[full_name] = self._waiting[full_name] = self._build(kind, full_name)
        sys.meta_path.insert(0, self._finder)
        self._gate = _Gate(self)
        if "." not in name:
            builtins.__import__ = self._gate

    def _build(self, kind: type[ModuleType], full_name: str) -> ModuleType:
        above = find_spec(parent) if (parent := full_name.rpartition(".")[0]) else None
        spec = PathFinder.find_spec(full_name, above.submodule_search_locations if above else None)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {full_name!r}", name=full_name)
        module = kind(full_name)
        module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, spec.parent
        module.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        return module

    def call(self, name: str, *args: object, **kwargs: object) -> object:
        """Import the package if nobody has, and call a function of it."""
        self.require(self.name)
        return getattr(sys.modules[self.name], name)(*args, **kwargs)

    def find(self, full_name: str) -> ModuleType | None:
        """Return what stands for a module; None where there is none, or the thread that imports has not come to it."""
        if self.is_imported_here and full_name not in sys.modules:
            return None
        return self._waiting.get(full_name)

    def require(self, full_name: str) -> None:
        """Import one of its modules, after the package itself, or wait for the thread that does."""
        if self.is_imported_here:
            return
        with self._lock:
            if self.first_use is None:
                self.first_use = traceback.extract_stack()
                for name in self._waiting:
                    sys.modules.pop(name, None)
        importlib.import_module(self.name)
        importlib.import_module(full_name)

    @property
    def is_imported_here(self) -> bool:
        """Whether this thread is the one that imports it now."""
        return self._importing_thread == threading.get_ident()

    def is_begun_by(self, full_name: str) -> bool:
        """Whether an import statement for this name begins the import, or waits for the thread that imports."""
        if not full_name.startswith(self.name) or self.is_imported_here or full_name in self.apart:
            return False
        if full_name != self.name and not full_name.startswith(f"{self.name}."):
            return False
        return self.first_use is not None or full_name not in self._waiting

    def execute(self, module: ModuleType, loader: Loader) -> None:
        """Import a module in place."""
        outer = self._importing_thread
        self._importing_thread = threading.get_ident()
        try:
            loader.exec_module(module)
            if self._then is not None and module.__name__ == self.name:
                self._then(module)
            if outer is None:
                self._finish()
        except BaseException:
            for name in vars(module).keys() - _FREE:
                del vars(module)[name]
            raise
        finally:
            self._importing_thread = outer

    def _finish(self) -> None:
        for name, module in list(self._waiting.items()):
            if sys.modules.get(name) is module:
                module.__class__ = ModuleType
                del self._waiting[name]
        if not self._waiting:
            sys.meta_path.remove(self._finder)
            self._gate.leave()


def _build_kind(package: LatePackage) -> type[ModuleType]:
    """Build the class of what stands for the package's modules.

    Its methods know the package and call the plain class by its name: another thread may have made a plain module of
    theirs when they run.
    """

    class LateModule(ModuleType):
        def __getattribute__(self, name: str) -> object:
            if name not in _FREE:
                full_name = self.__name__
                if module := package.find(f"{full_name}.{name}"):
                    return module
                if package.first_use is None and full_name == package.name and name in package.stand_ins:
                    return package.stand_ins[name]
                package.require(full_name)
            return ModuleType.__getattribute__(self, name)

        def __setattr__(self, name: str, value: object) -> None:
            if name not in _FREE and f"{self.__name__}.{name}" not in package.apart:
                package.require(self.__name__)
            ModuleType.__setattr__(self, name, value)

        def __delattr__(self, name: str) -> None:
            package.require(self.__name__)
            ModuleType.__delattr__(self, name)

    return LateModule


class _Gate:
    """Stands for `__import__`, and has a late package imported before a module inside it is locked."""

    def __init__(self, package: LatePackage):
        self._package, self._import = package, builtins.__import__

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if not level and self._package.is_begun_by(name):
            self._package.require(self._package.name)
        return self._import(name, globals, locals, fromlist or (), level)

    def leave(self) -> None:
        """Give `__import__` back, unless somebody else stands for it now."""
        if builtins.__import__ is self:
            builtins.__import__ = self._import


class _Finder(MetaPathFinder):
    """Finds the modules of a late package, to be imported in place."""

    def __init__(self, package: LatePackage):
        self._package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = self._package
        module = package._waiting.get(name)
        if module is not None and name != package.name and not package.is_imported_here:
            with _released_import_lock():
                package.require(package.name)
            if name in sys.modules:
                return ModuleSpec(name, _AsItIs(sys.modules[name]))
        if module is not None:
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _InPlace(package, module, spec.loader)
            return spec
        if name.startswith(f"{package.name}.") and name not in package.apart:
            with _released_import_lock():
                package.require(package.name)
            if name in sys.modules:  # by the package's own import
                return ModuleSpec(name, _AsItIs(sys.modules[name]))
        return None


class _InPlace(Loader):
    """Loads a module into what has stood for it."""

    def __init__(self, package: LatePackage, module: ModuleType, loader: Loader):
        self._package, self._module, self._loader = package, module, loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._package.execute(module, self._loader)


class _AsItIs(Loader):
    """Gives a module that is imported already."""

    def __init__(self, module: ModuleType):
        self._module, self._spec = module, module.__spec__
        module.__spec__ = None  # or Python takes it in the place of ours, and executes the module again

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


@contextlib.contextmanager
def _released_import_lock() -> Iterator[None]:
    """Let go of the lock under which modules are looked for: who needs it may hold a module that the block imports."""
    try:
        _imp.release_lock()
    except RuntimeError:  # nobody looks for a module: the finder was asked directly
        yield
        return
    try:
        yield
    finally:
        _imp.acquire_lock()
