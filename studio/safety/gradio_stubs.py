"""Gradio's type stubs, which it writes anew at every start: left out, since they are for editors and cost a second."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["skip_stubs"]

_MODULE, _WRITER = "gradio.component_meta", "create_or_modify_pyi"


class _WithoutStubs(importlib.abc.MetaPathFinder):
    """Finds the one module as anybody would, and takes the writer out of it as soon as it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_without_writer(module: ModuleType) -> None:
            execute(module)
            if hasattr(module, _WRITER):
                setattr(module, _WRITER, lambda *_: None)

        spec.loader.exec_module = execute_without_writer  # type: ignore[method-assign]
        return spec


def skip_stubs() -> None:
    """Keep Gradio from writing a `.pyi` file beside the source of every component. Call it before its import.

    For each of its eighty classes Gradio parses a source file twice and renders a template: 1.3 of the 3.2 seconds of
    processor time that `import gradio` takes (gradio 6.31, cProfile's share of it). The classes themselves stay as they
    are.
    """
    if _MODULE not in sys.modules and not any(isinstance(one, _WithoutStubs) for one in sys.meta_path):
        sys.meta_path.insert(0, _WithoutStubs())
