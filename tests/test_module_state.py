"""No module holds state that changes, and no __post_init__ reads or writes."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from typing import NamedTuple

from tests.module_sources import NAMES, ROOT, at_import, source

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
    "pipelines.quantizers.report._REPORTS",
}
"""What follows from a loaded network alone, kept for as long as that lives: whose it is makes no difference."""


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
    """Expressions that a module changes in place: `x.append(...)`, `x[0] = ...`, `del x[0]`, `x += ...`, `global x`."""
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
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in NAMES:
                    own = alias.asname or alias.name
                    found |= {f"{own}.{name}": f"{alias.name}.{name}" for name in tables(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                own = alias.asname or alias.name
                if full in NAMES:
                    found |= {f"{own}.{name}": f"{full}.{name}" for name in tables(full)}
                else:
                    found[own] = full
    return found


@functools.cache
def tables(name: str) -> set[str]:
    """Names of a module that are bound to a container."""
    return {one.name for one in bindings(source(name)) if is_container(one.value)}


def test_no_module_holds_state_that_changes():
    """A container of a module is a table: filled where it is bound, and changed by nobody."""
    containers, wrong = set(), {}
    for module in NAMES:
        for one in bindings(source(module)):
            if is_container(one.value):
                containers.add(f"{module}.{one.name}")
                if is_made_for_change(one.value):
                    wrong[f"{module}.{one.name}"] = "begins empty"
    for module in NAMES:
        tree = source(module)
        of_others = meanings(tree)
        for expression in {*changed(tree)} - local_names(tree):
            full = of_others.get(expression, f"{module}.{expression}")
            if full in containers:
                wrong[full] = f"is changed in {module}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                wrong |= {f"{module}.{name}": "is bound anew" for name in node.names}
    assert wrong.keys() >= MEMOS, "a memo is gone: take it off the list"
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
        tree = source(module)
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
