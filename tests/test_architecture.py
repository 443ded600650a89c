"""Arrows run one way: app -> studio -> pipelines, and in each package from a folder only to those below it."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("studio/**/*.py"), ROOT / "app.py"])

# The folders and root modules from the ground up: one imports only from itself and from those that stand before it. The
# package's own __init__ is the ground.
FLOORS = {
    "pipelines": (
        *(
            "core",
            "samplers",
            "guidance",
            "caches",
            "schedules",
            "initializations",
            "prompts",
            "compatibility",
            "weights",
            "families",
            "emoji",
            "metrics",
            "rewards",
            "search",
            "upscaling",
            "second_passes",
            "autoencoders",
            "controls",
        ),
        *(
            "inversions",
            "edits",
            "stories",
            "quantizers",
            "models",
            "requests",
            "inspection",
            "workflows",
            "learning",
            "training",
            "benchmarks",
        ),
        "benchmark",
    ),
    "studio": (
        *("jobs", "media", "infotext", "results", "safety", "models", "exports", "tasks", "backend", "ui", "api"),
        *("page", "cli", "server", "reliability", "benchmarks", "__main__", "spaces_check"),
    ),
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in it."""
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {
                module,
                *(f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}")),
            }
    return found


def is_module(name: str) -> bool:
    """Whether a module or package of ours has this name."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.joinpath("__init__.py").is_file()


def place(package: str, path: Path) -> str:
    """The folder or root module of a package in which a file stands; "" for the package's own __init__."""
    name = path.relative_to(ROOT / package).with_suffix("").parts[0]
    return "" if name == "__init__" else name


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_top_level_is_the_fixed_one():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    entries = {name.split("/")[0] for name in tracked if name and not name.startswith(".")}
    optional = {"LICENSE", "docs", "findings", "pyproject.toml", "CONTRIBUTING.md", "CHANGELOG.md"} | {
        name for name in entries if name.startswith("requirements-")
    }
    assert entries - optional == {"app.py", "studio", "pipelines", "assets", "tests", "requirements.txt", "README.md"}


def test_the_core_knows_no_page():
    page = {"gradio", "gradio_client", "studio", "app", "fastapi", "starlette", "sqlite3"}
    core = [path for path in SOURCES if path.is_relative_to(ROOT / "pipelines")]
    assert len(core) > 300
    assert {str(path): names for path in core if (names := top(imports(path)) & page)} == {}


@pytest.mark.parametrize("package", FLOORS)
def test_every_folder_has_its_floor(package):
    places = {place(package, path) for path in (ROOT / package).rglob("*.py")}
    assert places - {""} == set(FLOORS[package])


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_points_up(package):
    floors = ("", *FLOORS[package])
    wrong = []
    for path in (ROOT / package).rglob("*.py"):
        floor = floors.index(place(package, path))
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == package and parts[1:] and (parts[1] not in floors or floors.index(parts[1]) > floor):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_nothing_imports_the_top():
    assert not [path for path in SOURCES if "app" in top(imports(path))]


@pytest.mark.parametrize("folder", ["core", "samplers", "guidance", "caches", "schedules", "initializations"])
def test_a_method_knows_no_library_of_models(folder):
    for path in (ROOT / "pipelines" / folder).glob("*.py"):
        assert not top(imports(path)) & {"diffusers", "transformers"}, path.name


def test_no_assert_and_no_star_import_outside_tests():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")
    ]
    assert wrong == []


ANY = 1_500
"""How often the sources may say `Any`: untrusted values, and parts of other libraries. It only falls."""


def test_any_is_said_no_more_often_than_before():
    said = sum(len(re.findall(r"\bAny\b", path.read_text(encoding="utf-8"))) for path in SOURCES)
    assert said <= ANY, f"{said} times: give a type, a protocol or `object`; where it became rarer, lower ANY"


def test_importing_the_core_loads_nothing_heavy_and_writes_nothing(tmp_path):
    code = (
        "import sys, pipelines.requests.text_to_image, pipelines.models.loader, pipelines.models.catalog, "
        "pipelines.samplers;"
        "heavy = {'diffusers', 'transformers', 'gradio'} & set(sys.modules); assert not heavy, heavy"
    )
    environment = {
        "HOME": str(tmp_path),
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
