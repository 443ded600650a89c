"""Importing a module needs no other to be imported before, holds no state that changes, and touches nothing outside."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("studio/**/*.py"), ROOT / "app.py"])

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


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in SOURCES}


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


def needed(name: str) -> set[str]:
    """The modules of ours that importing a module imports first, directly."""
    found: set[str] = set()
    for node in at_import(ast.parse(NAMES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    found |= {package for one in {*found, name} for package in parents(one)}
    # A package may import its own modules; these find it half made, and use nothing of it.
    return {one for one in found if one in NAMES and one != name and not name.startswith(f"{one}.")}


def test_no_module_needs_itself():
    """With no circle in the imports that run at import, the order of imports makes no difference."""
    graph = {name: needed(name) for name in NAMES}
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
    names = json.dumps([name for name in NAMES if not name.endswith("__main__")])
    done = subprocess.run(
        [sys.executable, "-c", ALONE], input=names, cwd=ROOT, capture_output=True, text=True, check=True
    )
    broken = json.loads(done.stdout.splitlines()[-1])
    assert not broken, "\n".join(broken.values())


CONTAINERS = {"list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque"}
FOR_CHANGE = {
    "WeakKeyDictionary",
    "WeakValueDictionary",
    "WeakSet",
    "Queue",
    "SimpleQueue",
    "local",
    "ContextVar",
    "count",
}
CHANGES = {
    *("append", "appendleft", "extend", "extendleft", "insert", "remove", "pop", "popitem", "popleft", "clear", "add"),
    *("update", "setdefault", "discard", "move_to_end", "sort", "reverse", "__setitem__", "__delitem__"),
}

MEMOS = {
    "pipelines.families.latent._FITTED",
    "pipelines.families.stock_video._FITTED",
    "pipelines.quantizers.base._REPORTS",
}
"""What follows from a loaded network alone, kept for as long as that lives: whose it is makes no difference."""

LEARNED = "pipelines.schedules.learned"
"""Settles on a schedule by reading folders that a studio adds; to be done where a run is resolved."""


class Binding(NamedTuple):
    """A name of a module, and what it is bound to when the module is imported."""

    name: str
    value: ast.expr


def bindings(tree: ast.Module) -> Iterator[Binding]:
    for node in at_import(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            yield from (Binding(one.id, value) for one, value in pairs if isinstance(one, ast.Name) and value)


def called(value: ast.expr) -> str:
    function = value.func if isinstance(value, ast.Call) else None
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def is_container(value: ast.expr) -> bool:
    displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    return isinstance(value, displays) or called(value) in CONTAINERS | FOR_CHANGE


def is_made_for_change(value: ast.expr) -> bool:
    """An empty container has no other use than to be filled."""
    empty = (isinstance(value, ast.List) and not value.elts) or (isinstance(value, ast.Dict) and not value.keys)
    bare = called(value) in CONTAINERS and not value.args and not value.keywords
    return empty or bare or called(value) in FOR_CHANGE


def changed(tree: ast.Module) -> Iterator[str]:
    """Expressions that a module changes in place: `x.append(...)`, `x[...] = ...`, `del x[...]`, `x |= ...`, `global x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            yield ast.unparse(node.func.value)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield ast.unparse(node.value)
        elif isinstance(node, ast.AugAssign):
            yield ast.unparse(node.target)


def local_names(tree: ast.Module) -> set[str]:
    """Names that some function of a module binds itself: there they are not the module's."""
    found: set[str] = set()
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            stored = {
                node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            shared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
            found |= stored - shared
            found |= {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
    return found


def meanings(tree: ast.Module) -> dict[str, str]:
    """What a module calls a name of another one, to that one's full name."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                own = alias.asname or alias.name
                if full in NAMES:
                    found |= {f"{own}.{name}": f"{full}.{name}" for name in tables(full)}
                else:
                    found[own] = full
    return found


def tables(name: str) -> set[str]:
    """Names of a module that are bound to a container."""
    return {one.name for one in bindings(ast.parse(NAMES[name].read_text())) if is_container(one.value)}


def test_no_module_holds_state_that_changes():
    """A container of a module is a table: filled where it is bound, and changed by nobody."""
    containers, wrong = set(), {}
    for module in NAMES:
        for one in bindings(ast.parse(NAMES[module].read_text())):
            if is_container(one.value):
                containers.add(f"{module}.{one.name}")
                if is_made_for_change(one.value):
                    wrong[f"{module}.{one.name}"] = "begins empty"
    for module, path in NAMES.items():
        tree = ast.parse(path.read_text())
        of_others = meanings(tree)
        for expression in {*changed(tree)} - local_names(tree):
            full = of_others.get(expression, f"{module}.{expression}")
            if full in containers:
                wrong[full] = f"is changed in {module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                wrong |= {f"{module}.{name}": "is bound anew" for name in node.names}
    assert wrong.keys() >= MEMOS, "a memo is gone: take it off the list"
    wrong.pop(f"{LEARNED}.FOLDERS", None)
    assert wrong.keys() == MEMOS, "\n".join(f"{name} {what}" for name, what in wrong.items() if name not in MEMOS)


TOUCHES = {
    *(
        "open",
        "read",
        "write",
        "read_text",
        "write_text",
        "read_bytes",
        "write_bytes",
        "load",
        "load_file",
        "save_file",
    ),
    *(
        "exists",
        "is_file",
        "is_dir",
        "stat",
        "iterdir",
        "glob",
        "rglob",
        "listdir",
        "scandir",
        "mkdir",
        "unlink",
        "touch",
    ),
    *("urlopen", "connect", "run", "Popen", "print"),
}


def test_no_post_init_reads_or_writes():
    """A request that travels is checked by looking at it; also what its own functions call one level down."""
    wrong = []
    for module, path in NAMES.items():
        if module == LEARNED:
            continue
        tree = ast.parse(path.read_text())
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
                own = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
                deeper = [
                    inner
                    for call in own
                    if called(call) in functions
                    for inner in ast.walk(functions[called(call)])
                    if isinstance(inner, ast.Call)
                ]
                found = {called(call) for call in (*own, *deeper)} & TOUCHES
                found |= {
                    name for name in {called(call) for call in own} if name.startswith(("find_", "scan", "fetch"))
                }
                wrong += [f"{path.relative_to(ROOT)}:{node.lineno} {name}" for name in found]
    assert not wrong, "\n".join(wrong)
