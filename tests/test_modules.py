"""Every module can be imported alone, and none needs itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable

import pytest

from tests.module_sources import NAMES, ROOT, at_import, parents, source

ALONE = """
import gc, json, os, sys, traceback
import torch, gradio, diffusers  # of others; of ours nothing: a child begins with what is here

gc.disable()
gc.freeze()
broken = {}
for name in json.load(sys.stdin):
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            __import__(name)
            said = ""
        except BaseException:
            said = traceback.format_exc()
        os.write(writer, said.encode()[-2000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        if said := told.read().decode():
            broken[name] = said
    os.waitpid(child, 0)
print(json.dumps(broken))
"""


def list_imported(nodes: Iterable[ast.AST]) -> set[str]:
    """The modules of ours that import statements name; a package only where they take something of its own."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & set(NAMES)
            found |= modules if len(modules) == len(node.names) else {node.module, *modules}
    return found & set(NAMES)


def list_needed(name: str) -> set[str]:
    """The modules of ours that importing a module imports first, directly."""
    found = list_imported(at_import(source(name)))
    return drop_own(name, found | {package for module in {*found, name} for package in parents(module)} & set(NAMES))


def list_named(name: str) -> set[str]:
    """The modules of ours that a module names anywhere: late, and for the type checker, too."""
    return drop_own(name, list_imported(ast.walk(source(name))))


def drop_own(name: str, modules: Iterable[str]) -> set[str]:
    """A package may import its own modules; these find it half made, and use nothing of it."""
    return {other for other in modules if other != name and not name.startswith(f"{other}.")}


@pytest.mark.parametrize("list_neighbors", [list_needed, list_named])
def test_no_module_needs_itself(list_neighbors):
    """Without circles the order of imports makes no difference, and each file can be read after those below it."""
    graph = {name: list_neighbors(name) for name in NAMES}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for one in graph[name]:
                walk(one, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_module_imports_alone():
    """Begin with each module that no other needs: without circles, what these need imports alone if they do."""
    inner = {one for name in NAMES for one in list_needed(name)}
    names = json.dumps([name for name in NAMES if name not in inner and not name.endswith("__main__")])
    done = subprocess.run(
        [sys.executable, "-c", ALONE], input=names, cwd=ROOT, capture_output=True, text=True, check=True
    )
    broken = json.loads(done.stdout.splitlines()[-1])
    assert not broken, "\n".join(broken.values())
