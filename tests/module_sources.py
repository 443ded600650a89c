"""The sources of all modules as syntax trees."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("studio/**/*.py"), ROOT / "app.py"])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in SOURCES}


@functools.cache
def source(name: str) -> ast.Module:
    """A module's text, parsed."""
    return ast.parse(NAMES[name].read_text())


def parents(name: str) -> Iterator[str]:
    """The packages that Python imports before a module."""
    while name := name.rpartition(".")[0]:
        yield name


def at_import(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported: not those of functions, nor those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from at_import(node)
