"""What is imported late is imported by whoever uses it first, once, and then is a plain module."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import itertools
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from studio.server.late_imports import LatePackage

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = itertools.count()


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a package of these files, by a name that no other test has, and let it wait."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before, finders, statement = set(sys.modules), list(sys.meta_path), builtins.__import__

    def write(files, modules=(), **more):
        name = f"late_example_{next(NUMBERS)}"
        for file, text in {"__init__": "", **files}.items():
            path = tmp_path / name / f"{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("NAME", name), encoding="utf-8")
        importlib.invalidate_caches()
        return LatePackage(name, [f"{name}.{module}" for module in modules], **more)

    yield write
    for added in set(sys.modules) - before:
        del sys.modules[added]
    sys.meta_path[:] = finders
    builtins.__import__ = statement


def test_statements_import_nothing_and_the_first_use_everything(build):
    late = build({"__init__": "from NAME import inner\nvalue = inner.value", "inner": "value = 3"}, ["inner"])
    names = {}
    exec(f"import {late.name} as a\nimport {late.name}.inner as b\nfrom {late.name} import inner as c", names)
    spec = importlib.util.find_spec(late.name)
    assert names["b"] is names["c"] is names["a"].inner and spec is names["a"].__spec__
    assert repr(names["a"]).startswith("<module") and names["a"].__file__ == spec.origin
    assert late.first_use is None
    assert names["b"].value == 3 and names["a"].value == 3
    assert any(frame.filename == __file__ for frame in late.first_use)
    assert type(names["a"]) is type(names["b"]) is ModuleType
    assert sys.modules[late.name] is names["a"] and sys.modules[f"{late.name}.inner"] is names["b"]
    assert not any(getattr(finder, "_package", None) is late for finder in sys.meta_path)
    assert importlib.reload(names["a"]) is names["a"]


def test_a_module_inside_is_imported_after_the_package_and_once(build):
    late = build({"__init__": "from NAME import inner\nfirst = inner.Kind", "inner": "import NAME\nclass Kind: pass"})
    inner = importlib.import_module(f"{late.name}.inner")
    package = sys.modules[late.name]
    assert package.inner is inner is sys.modules[f"{late.name}.inner"] and inner.Kind is package.first
    assert inner.__spec__.name == f"{late.name}.inner" and inner.__spec__.origin.endswith("inner.py")


def test_a_module_inside_that_comes_first_holds_up_no_other_import(build, tmp_path):
    """Python looks for modules under one lock: a thread that waits for it may hold what the package imports."""
    begun, go_on = threading.Event(), threading.Event()
    sys.modules["late_events"] = module = ModuleType("late_events")
    module.begun, module.go_on = begun, go_on
    text = "import late_events\nlate_events.begun.set()\nassert late_events.go_on.wait(30)"
    late = build({"__init__": text, "inner": ""})
    (tmp_path / "late_other.py").write_text("", encoding="utf-8")
    thread = threading.Thread(target=importlib.import_module, args=[f"{late.name}.inner"])
    thread.start()
    assert begun.wait(30)
    other = threading.Thread(target=importlib.import_module, args=["late_other"])
    other.start()
    other.join(20)
    assert not other.is_alive()
    go_on.set()
    thread.join(30)
    assert f"{late.name}.inner" in sys.modules


@pytest.mark.parametrize(
    "use", ["module.value", "from {0} import value", "dir(module)", "vars(module)", "module.x = 1"]
)
def test_any_use_imports_it(build, use):
    late = build({"__init__": "value = 1"})
    exec(use.format(late.name), {"module": sys.modules[late.name]})
    assert late.first_use is not None and type(sys.modules[late.name]) is ModuleType


def test_what_is_set_stays_and_what_is_missing_is_missed(build):
    late = build({"__init__": "value = 1"})
    package = sys.modules[late.name]
    package.value = 2
    assert package.value == 2
    with pytest.raises(AttributeError, match=f"module '{late.name}' has no attribute 'other'"):
        package.other  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{late.name}.other'"):
        importlib.import_module(f"{late.name}.other")
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        LatePackage("no_such_package")


def test_other_threads_wait_for_the_one_that_imports(build):
    begun, go_on = threading.Event(), threading.Event()
    sys.modules["late_events"] = module = ModuleType("late_events")
    module.begun, module.go_on = begun, go_on
    text = "early = 1\nimport late_events\nlate_events.begun.set()\nlate_events.go_on.wait(30)\nlast = 2"
    package = sys.modules[build({"__init__": text}).name]
    found = []
    first = threading.Thread(target=lambda: found.append(package.early))
    first.start()
    assert begun.wait(30)
    others = [threading.Thread(target=lambda: found.append(package.early + package.last)) for _ in range(8)]
    for other in others:
        other.start()
    others[0].join(0.1)
    assert found == []  # `early` is there, but not all that it may need
    go_on.set()
    for thread in (first, *others):
        thread.join(30)
    assert sorted(found) == [1] + [3] * 8


@pytest.mark.parametrize(
    "statement", ["import {0}.deep", "import {0}.inner.core as core", "from {0}.inner import core"]
)
def test_a_statement_for_a_module_inside_waits_too(build, statement):
    """Or it has locked what the import under way needs: Python ends one of the two in a deadlock's error."""
    begun, go_on = threading.Event(), threading.Event()
    sys.modules["late_events"] = module = ModuleType("late_events")
    module.begun, module.go_on = begun, go_on
    wait = "import late_events\nlate_events.begun.set()\nlate_events.go_on.wait(30)\n"
    needs = "from NAME import inner\nfrom NAME.inner import core\nimport NAME.deep\nlast = core.value"
    before = builtins.__import__
    files = {"__init__": wait + needs, "inner/__init__": "from NAME.inner import core\nassert core.value", "deep": ""}
    late = build({**files, "inner/core": "value = 1"}, ["inner", "inner.core"])
    failed = []

    def use(text):
        try:
            exec(text.format(late.name), {})
        except BaseException as error:
            failed.append(error)

    first = threading.Thread(target=use, args=["import {0}\nassert {0}.last"])
    first.start()
    assert begun.wait(30)
    others = [threading.Thread(target=use, args=[statement]) for _ in range(2)]
    for other in others:
        other.start()
    others[0].join(0.2)
    assert others[0].is_alive()
    go_on.set()
    for thread in (first, *others):
        thread.join(30)
    assert failed == [] and type(sys.modules[late.name]) is ModuleType and sys.modules[late.name].last == 1
    assert builtins.__import__ is before


def test_an_import_that_fails_raises_its_error_each_time_until_it_works(build, tmp_path):
    late = build(
        {"__init__": "from NAME import inner\nraise OSError('libmissing.so')", "inner": "value = 3"}, ["inner"]
    )
    package, inner = (sys.modules[name] for name in (late.name, f"{late.name}.inner"))
    for _ in range(2):
        with pytest.raises(OSError, match="libmissing"):
            package.value  # noqa: B018
        with pytest.raises(OSError, match="libmissing"):
            importlib.import_module(late.name)
    (tmp_path / late.name / "__init__.py").write_text("value = 'repaired, and longer'", encoding="utf-8")
    importlib.invalidate_caches()
    assert package.value.startswith("repaired") and inner.value == 3
    assert type(package) is ModuleType


def test_what_stands_in_is_taken_until_the_package_is_imported(build):
    marked = []
    late = build(
        {"__init__": "def mark(one): return one + 1", "apart": "value = 5"},
        stand_ins={"mark": lambda one: marked.append(one) or one},
        then=lambda package: marked.append(package.mark(10)),
    )
    late.apart = {f"{late.name}.apart"}
    assert sys.modules[late.name].mark(1) == 1
    assert importlib.import_module(f"{late.name}.apart").value == 5
    assert late.first_use is None and marked == [1]
    assert late.call("mark", 1) == 2 and marked == [1, 11] and sys.modules[late.name].apart.value == 5


STAND = """
import sys
sys.argv = ["app.py", "--no-browser", "--port", "{port}"] + [
    part for name in ("models", "outputs", "temp") for part in (f"--{{name}}-folder", "{folder}/" + name)]
import app, studio.server.late_libraries as libraries
from studio.server.stopping import Stopping
assert "torch" not in sys.modules, "app.py imports PyTorch for its flags"
late, build = {{}}, libraries.import_libraries_late


def build_late(compiles):
    late.update(build(compiles))
    import studio.server.serve as serving
    serving._get_ready = lambda studio, opens_on: None  # what begins as soon as the page stands


def stands(stopping):
    import urllib.request
    assert b"Stepwise" in urllib.request.urlopen("http://127.0.0.1:{port}", timeout=60).read()
    used = {{name: "".join(one.first_use.format()) for name, one in late.items() if one.first_use}}
    assert not used, "".join(f"{{name}} is imported before the page stands, by\\n{{by}}" for name, by in used.items())
    assert {{"torch", "torch._dynamo"}} <= set(late) and "torch._C" not in sys.modules
    assert not {{"diffusers", "transformers", "scipy"}} & set(sys.modules)
    print("It stands.", flush=True)
    works()


def works():
    import torch
    from diffusers import AutoencoderKL, LMSDiscreteScheduler, UNet2DConditionModel
    from diffusers.models.attention import JointTransformerBlock
    from transformers import CLIPTextModel
    from transformers.loss.loss_for_object_detection import linear_sum_assignment
    assert type(torch) is type(sys) and torch.zeros(1).item() == 0
    assert [name for name, one in late.items() if one.first_use] == ["torch"]
    print("Networks are there without a compiler.", flush=True)
    assert torch.compile(lambda x: x * 2, backend="eager")(torch.ones(1)).item() == 2
    assert id(JointTransformerBlock) in torch._dynamo.trace_rules._allowed_callable_ids
    assert [list(one) for one in linear_sum_assignment([[1, 2], [2, 1]])] == [[0, 1], [0, 1]]
    print("What waited works.", flush=True)


libraries.import_libraries_late = build_late
Stopping.wait = stands
app.main()
"""


def test_the_page_stands_before_pytorch_is_imported_and_then_all_works(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = STAND.format(folder=tmp_path, port=port)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=900)
    for sentence in ("It stands.", "Networks are there without a compiler.", "What waited works."):
        assert sentence in done.stdout, done.stderr[-3000:]
    assert done.returncode == 0
