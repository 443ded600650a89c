"""Arrows run one way: app -> studio -> pipelines, and in each package from a folder only to those below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("studio/**/*.py"), ROOT / "app.py"])

# The folders from the ground up: one imports only from itself and from those that stand before it.
FLOORS = {
    "pipelines": (
        *("core", "samplers", "guidance", "schedules", "initializations", "weights", "families", "emoji", "metrics"),
        *("inversions", "edits", "quantizers", "models", "requests", "workflows", "learning", "training", "benchmarks"),
    ),
}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in it."""
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            found.add(".".join(filter(None, (base, node.module))))
    return found


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


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if "pipelines" in path.relative_to(ROOT).parts[:1]],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_core_knows_no_page(path):
    assert not top(imports(path)) & {"gradio", "gradio_client", "studio", "app", "fastapi", "starlette", "sqlite3"}


@pytest.mark.parametrize("package", FLOORS)
def test_every_folder_has_its_floor(package):
    folders = {path.relative_to(ROOT / package).parts[0] for path in (ROOT / package).glob("*/**/*.py")}
    assert folders == set(FLOORS[package])


@pytest.mark.parametrize("package", FLOORS)
def test_no_import_points_up(package):
    floors = FLOORS[package]
    wrong = []
    for path in (ROOT / package).glob("*/**/*.py"):
        own = floors.index(path.relative_to(ROOT / package).parts[0])
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == package and parts[1:] and (parts[1] not in floors or floors.index(parts[1]) > own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize("folder", ["core", "samplers", "guidance", "schedules", "initializations"])
def test_a_method_knows_no_library_of_models(folder):
    for path in (ROOT / "pipelines" / folder).glob("*.py"):
        assert not top(imports(path)) & {"diffusers", "transformers"}, path.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_assert_and_no_star_import_outside_tests(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), node.lineno
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), node.lineno


def test_importing_the_core_loads_nothing_heavy_and_writes_nothing(tmp_path):
    code = (
        "import sys, pipelines.requests.text_to_image, pipelines.models.loader, pipelines.models.catalog, pipelines.samplers;"
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
