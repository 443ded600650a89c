"""What a page does without, and its first run needs: libraries that take seconds to import."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import cast

from studio.server.late_imports import LatePackage

__all__ = ["import_libraries_late"]

_COMPILER, _MARKS = "torch._dynamo", ("allow_in_graph", "assume_constant_result")
_TRANSFORM, _MODE = "torch._dynamo._trace_wrapped_higher_order_op", "TransformGetItemToIndex"
_ASSIGNMENT = "linear_sum_assignment"
_DISTRIBUTED = "is_torch_distributed_available"


def import_libraries_late(compiles: bool = False) -> dict[str, LatePackage]:
    """Let PyTorch and what diffusers and transformers import without using it wait until they are used.

    With PyTorch 2.13, diffusers 0.42 and transformers 5.24 PyTorch takes 0.8 s of a processor; of the 3.4 s that the
    shipped model's libraries take after it the compiler's front end takes 1.0 and the parts of SciPy 0.75.

    Args:
        compiles: whether networks are to be compiled, so that the compiler is needed anyhow.

    Returns:
        The packages by name, without those that are imported already or not installed.
    """
    late = {}
    if _can_wait("torch"):
        late["torch"] = LatePackage("torch", ["torch.nn", "torch.nn.functional"])
    if not compiles and _can_wait(_COMPILER):
        late[_COMPILER] = _build_compiler()
    for name in ("scipy.stats", "scipy.integrate"):
        if _can_wait(name):
            late[name] = LatePackage(name)
    if _COMPILER in late:
        late[_TRANSFORM] = _build_transform()
    if "transformers" not in sys.modules:
        sys.meta_path.insert(0, _WithoutDistributed())
    if _can_wait("scipy.optimize"):
        late["scipy.optimize"] = _build_optimize()
    return late


def _can_wait(name: str) -> bool:
    """Whether a module is here and was not imported; what it is in is not imported to find that out."""
    if name in sys.modules or find_spec(name.partition(".")[0]) is None:
        return False
    return name.partition(".")[0] not in sys.modules or name.partition(".")[0] in ("torch", "scipy")


def _build_compiler() -> LatePackage:
    """The compiler's front end, of which the libraries' imports take decorators.

    What is marked for it is marked when it is here; what is kept from it is called as it is until then.
    """
    marked: list[tuple[str, object]] = []

    def mark_later(name: str, function: object) -> object:
        if package.first_use is None:
            marked.append((name, function))
            return function
        return package.call(name, function)

    def disable(function: object = None, recursive: bool = True, **more: object) -> object:
        if function is None:  # a decorator with arguments
            return functools.partial(disable, recursive=recursive, **more)
        if not inspect.isfunction(function):
            return package.call("disable", function, recursive, **more)
        disabled: Callable[..., object] | None = None

        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> object:
            nonlocal disabled
            if package.first_use is None:
                return function(*args, **kwargs)
            disabled = disabled or cast(Callable[..., object], package.call("disable", function, recursive, **more))
            return disabled(*args, **kwargs)

        return call

    def mark(compiler: ModuleType) -> None:
        for name, function in marked:
            getattr(compiler, name)(function)

    package = LatePackage(
        _COMPILER,
        apart={_TRANSFORM},
        stand_ins={**{name: functools.partial(mark_later, name) for name in _MARKS}, "disable": disable},
        then=mark,
    )
    return package


def _build_transform() -> LatePackage:
    """The module of the compiler's that transformers' import takes a mode of, for masks of attention."""

    def transform(*args: object, **kwargs: object) -> object:
        return package.call(_MODE, *args, **kwargs)

    package = LatePackage(_TRANSFORM, stand_ins={_MODE: transform})
    return package


class _WithoutDistributed(MetaPathFinder):
    """Tells transformers that PyTorch works on one machine here, which is so, and saves it half a second of imports."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "transformers.utils.import_utils":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_without(module: ModuleType) -> None:
            execute(module)
            if hasattr(module, _DISTRIBUTED):
                setattr(module, _DISTRIBUTED, lambda: False)

        spec.loader.exec_module = execute_without  # type: ignore[method-assign]
        return spec


def _build_optimize() -> LatePackage:
    """SciPy's optimizers, of which transformers' import takes the one that its losses of detection use."""

    def assign(*args: object, **kwargs: object) -> object:
        return package.call(_ASSIGNMENT, *args, **kwargs)

    package = LatePackage("scipy.optimize", stand_ins={_ASSIGNMENT: assign})
    return package
