"""diffusers and transformers may be needed by two threads at once: one loads a model, one reads a request."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {"diffusers", "transformers"}
ALONE = ("pipelines/training", "pipelines/benchmarks", "studio/benchmarks")
"""Programs of one thread."""
SOURCES = [
    path
    for package in ("pipelines", "studio")
    for path in sorted((ROOT / package).rglob("*.py"))
    if not path.relative_to(ROOT).as_posix().startswith((*ALONE, "pipelines/weights/libraries.py"))
]

_RACE = """
import sys, threading
import torch
barrier, errors = threading.Barrier(2), []
def enter(lines):
    barrier.wait()
    try:
        exec(lines, {})
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=enter, args=(lines,)) for lines in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(errors)
"""


def _is_of_libraries(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in LIBRARIES
    return isinstance(node, ast.Import) and any(one.name.split(".")[0] in LIBRARIES for one in node.names)


def _is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "import_libraries"


def unguarded(source: str) -> list[int]:
    """Lines of imports before which the same function, or the module itself, does not call `import_libraries`."""
    tree, found = ast.parse(source), list[int]()
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    typed = {id(node) for branch in for_types for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if not _is_of_libraries(node) or id(node) in typed:
            continue
        around = [function for function in functions if node in set(ast.walk(function))]
        scope = around[-1] if around else tree
        if not any(_is_guard(call) and call.lineno < node.lineno for call in ast.walk(scope)):
            found.append(node.lineno)
    return found


def test_nothing_of_both_is_imported_before_they_are_whole():
    found = {path.relative_to(ROOT).as_posix(): unguarded(path.read_text("utf-8")) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import diffusers", [1]),
        ("def load():\n    from diffusers.utils import logging", [2]),
        ("def load():\n    from transformers import CLIPModel\n    import_libraries()", [2]),
        ("def load():\n    import_libraries()\n    from transformers import CLIPModel", []),
        ("if TYPE_CHECKING:\n    from diffusers import ModelMixin", []),
    ],
)
def test_an_import_without_its_guard_is_found(source, lines):
    assert unguarded(source) == lines


def test_two_threads_import_both_at_once():
    """Without the lock a third of such runs fails: "module 'diffusers' has no attribute 'ModelMixin'"."""
    guard = "from pipelines.weights.libraries import import_libraries\nimport_libraries()\n"
    ways = [guard + "import diffusers\ndiffusers.ModelMixin", guard + "from transformers import CLIPTextModel"]
    for first, second in [ways, ["import pipelines.families.latent", ways[0]], [ways[0], ways[0]]]:
        command = [sys.executable, "-W", "ignore", "-c", _RACE, first, second]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert ended.stdout.strip() == "[]", ended.stdout
