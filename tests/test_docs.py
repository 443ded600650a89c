"""What README and docs say is what the code does: tables, commands, endpoints, links, code blocks."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from pipelines.benchmarks.__main__ import BENCHMARKS
from pipelines.core.choice_text import parse_choice, plain
from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, Request
from pipelines.learning.fitting import LEARNERS, PictureSettings
from pipelines.quantizers import QUANTIZERS
from pipelines.requests.limits import Limits, check_request
from studio.api import ENDPOINTS
from studio.cli import main as command_line
from studio.cli.methods import method_tables
from studio.cli.requests import request_values
from studio.page.tabs import TABS
from studio.safety import flags as app_flags
from studio.server import spaces_check
from studio.tasks import TASKS
from tests.test_architecture import FLOORS

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        *sorted(ROOT.glob("docs/*.md")),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "findings/README.md")),
    )
}


class Block(NamedTuple):
    """A fenced block of a page: its language, and its text."""

    page: str
    language: str
    text: str


def blocks(language: str = "") -> list[Block]:
    """The fenced blocks of all pages, those of one language or all."""
    found = []
    for page, text in PAGES.items():
        for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
            found.append(Block(page, match[2], match[3]))
    return [block for block in found if language in ("", block.language)]


def section(page: str, name: str) -> str:
    """What stands between two marks of a page."""
    return re.search(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->", PAGES[page], re.DOTALL)[1].strip()


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def table_rows(text: str, heading: str) -> dict[str, str]:
    """Of the tables under a heading: what stands in backquotes in the first column, to the whole row."""
    part = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in part.splitlines() if line.startswith("| `")]
    return {name: row for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


# Tables.


def test_the_method_tables_are_the_codes_own():
    assert section("docs/methods.md", "methods") == method_tables()


def test_the_table_of_figures_names_every_figure_it_must():
    table = section("docs/benchmarks.md", "figures")
    for name in (
        "our loop ÷ the stock pipeline",
        "through the page with previews",
        "click to first preview",
        "stop to device free",
        "eight cells sharing a batch",
        "second use of a loaded model",
        "peak memory after switching",
        "disk written by 100 previews",
        "command to page",
        "page weight",
        "outside hosts",
    ):
        assert name in table


def test_the_table_of_quantizers_names_every_one_that_needs_no_package():
    table = section("docs/quantization.md", "quantization")
    for key in ("int8", "fp8", "int4", "nf4", "dynamic", "layerwise"):
        assert f"| {QUANTIZERS[key].label} |" in table


# Sizes, links and names of files.


def test_the_readme_is_short():
    assert len(PAGES["README.md"].encode()) < 8000


def test_the_index_names_every_page():
    names = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert names <= set(re.findall(r"\]\((\w[\w-]*\.md)\)", PAGES["docs/README.md"]))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


LINKS = [(page, target) for page, text in PAGES.items() for target in re.findall(r"\]\(([^)\s]+)\)", prose(text))]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=[f"{page}->{target}" for page, target in LINKS])
def test_every_link_leads_somewhere(page, target):
    if target.startswith("https://"):
        assert page == "CHANGELOG.md", "other pages link to files of the repository only"
        return
    name, _, anchor = target.partition("#")
    path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
    assert path.is_relative_to(ROOT) and path.exists()
    if anchor:
        assert anchor in anchors(path.read_text(encoding="utf-8"))


PERSONS = {"animal.txt", "findings/NAME.sh"}
"""Names of files that a reader is to make."""

NAMES = sorted(
    {
        (page, name)
        for page, text in PAGES.items()
        if page != "CHANGELOG.md"  # which names what is no more
        for name in re.findall(r"`((?:assets|docs|studio|pipelines|tests|findings|\.ci)/[\w./*-]*|[\w-]+\.txt)`", text)
    }
)


@pytest.mark.parametrize(("page", "name"), NAMES)
def test_every_file_that_is_named_exists(page, name):
    assert list(ROOT.glob(name)) or name in PERSONS


# Code blocks.


def test_every_block_is_of_a_language_that_a_test_below_checks():
    assert {block.language for block in blocks()} <= {"bash", "python", "text"}
    assert all(block.text.startswith("/?tab=") for block in blocks("text"))


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of each line of the bash blocks, and of each `python -m ...` in the prose."""
    for block in blocks("bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield from ((block.page, one.strip()) for one in line.split("#")[0].split("&&") if one.strip())
    for page, text in PAGES.items():
        if page != "CHANGELOG.md":
            named = re.findall(r"`(python (?:-m|app\.py)[^`]*)`", prose(text))
            yield from ((page, one) for one in named if not re.search(r"\.\*|…|COMMAND", one))


def check_studio(words: list[str]) -> None:
    """Parse a command of `python -m studio`, and check the request that it would send."""
    if len(words) == 1:  # the name of a command, without what it needs
        assert words[0] in command_names()
        return
    flags = command_line._parser().parse_args(words)
    if hasattr(flags, "prompt"):
        check_request(Request.parse(request_values(flags)), Limits())
    if hasattr(flags, "x"):
        values = TASKS["compare"].command.values(flags, request_values(flags))
        for axis in (values["x"], values["y"]):
            for value in axis["values"]:
                check_request(Request.parse({"prompt": "a fox", axis["field"]: value}), Limits())
    if hasattr(flags, "learner"):
        learner = Choice.parse(parse_choice(flags.learner))
        parse_settings(LEARNERS[learner.key].settings, learner.settings)
        pairs = [pair.split("=") for pair in flags.pictures]
        parse_settings(PictureSettings, {name: plain(value) for name, value in pairs})
        assert flags.prompts is None or (ROOT / flags.prompts).is_file()


@functools.cache
def help_of(*command: str) -> str:
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_help(command: list[str], words: list[str]) -> None:
    """Whether a command's own help knows each flag."""
    for flag in (word.split("=")[0] for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", help_of(*command)), flag


def check_app(words: list[str]) -> None:
    parser = app_flags._parser()
    known = {flag for action in parser._actions for flag in action.option_strings}
    assert {word for word in words if word.startswith("-")} <= known
    _, unknown = parser.parse_known_args([word for word in words if word != "--help"])
    assert not unknown


def check_spaces(words: list[str]) -> None:
    assert spaces_check.main([*words[:-1], str(ROOT / words[-1])]) == 0


def check_install(words: list[str]) -> None:
    assert words[:1] == ["install"] and words[1:]
    for name in words[words.index("-r") + 1 :] if "-r" in words else ():
        for line in (ROOT / name).read_text().splitlines():
            if not line.startswith(("-r", "#")) and line.strip():
                Requirement(line.partition("#")[0].strip())
    if "-r" not in words:
        assert [str(Requirement(word)) for word in words[1:]]


def check_pytest(words: list[str]) -> None:
    for word in (word for word in words if not word.startswith("-") and "/" in word):
        assert list(ROOT.glob(word)), word


def check_script(words: list[str]) -> None:
    script = ROOT / words[0]
    assert script.is_file() or "NAME" in words[0]
    if script.is_file():
        subprocess.run(["bash", "-n", script], check=True)


def check_module(words: list[str]) -> None:
    """`python -m MODULE ...`."""
    name, *rest = words
    if name == "studio":
        check_studio(rest)
    elif name in ("studio.spaces_check",):
        check_spaces(rest)
    elif name == "pipelines.benchmark":
        assert rest[0] in BENCHMARKS
        check_help([sys.executable, "-m", name, rest[0]], rest[1:])
    elif name == "pipelines.training.data_statistics":
        check_help([sys.executable, "-m", name], rest)
    elif name == "pytest":
        check_pytest(rest)
    else:
        assert words == ["venv", ".venv"]


def check_python(words: list[str]) -> None:
    assert words[0] in ("-m", "app.py")
    (check_module if words[0] == "-m" else check_app)(words[1:])


CHECKS = {
    "python": check_python,
    "python3": check_python,
    "pip": check_install,
    "ruff": lambda words: check_help(["ruff", words[0]], words[1:]),
    "mypy": lambda words: check_help(["mypy"], words),
    "pre-commit": lambda words: None if words == ["install"] else pytest.fail(str(words)),
    "bash": check_script,
    "hf": lambda words: check_help([str(Path(sys.executable).with_name("hf")), words[0]], words[1:]),
}
"""Program to what checks its arguments; a program that is not here fails its test."""

COMMANDS = sorted(set(commands()))


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS])
def test_every_command_is_one_that_can_be_given(page, command, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("NO_COLOR", "1")
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    CHECKS[words[0].rsplit("/", 1)[-1]](words[1:])


def python_blocks() -> dict[str, str]:
    return {block.page: block.text for block in blocks("python")}


def run_block(page: str, names: dict) -> None:
    """Run a page's Python block as it stands, without this file's own `from __future__`."""
    exec(compile(python_blocks()[page], page, "exec", dont_inherit=True), names)


def test_the_python_blocks_are_those_that_are_run():
    """That of docs/api.md is run against a server in tests/studio/test_api.py; the others here."""
    assert [block.page for block in blocks("python")] == [
        "docs/api.md",
        "docs/models-and-files.md",
        "CONTRIBUTING.md",
    ]
    for text in python_blocks().values():
        ast.parse(text)


def test_the_lpips_recipe_writes_what_the_metric_reads(tmp_path, monkeypatch):
    from pipelines.metrics.lpips import FILE, Lpips, load_lpips

    # The package is not needed: it only has to have tensors of the names that its own have, and many more channels.
    states = package_state(Lpips([4, 8, 8, 8, 8]))
    package = SimpleNamespace(LPIPS=lambda net: SimpleNamespace(state_dict=lambda: states))
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.chdir(tmp_path)
    run_block("docs/models-and-files.md", {})
    (tmp_path / FILE).parent.mkdir(exist_ok=True)
    (tmp_path / Path(FILE).name).rename(tmp_path / FILE)
    load_lpips(tmp_path)


def package_state(metric) -> dict:
    """A metric's tensors under the names of the lpips package."""
    from pipelines.metrics.lpips import _LAYERS

    names = [name for name, *_ in _LAYERS]
    renamed = {}
    for name, tensor in metric.state_dict().items():
        if match := re.fullmatch(r"convolutions\.(\d)\.(\w+)", name):
            renamed[f"net.{names[int(match[1])]}.{match[2]}"] = tensor.clone()
        elif match := re.fullmatch(r"weights\.(\d)", name):
            renamed[f"lin{match[1]}.model.1.weight"] = tensor.clone().reshape(1, -1, 1, 1)
    return renamed


def test_the_example_of_a_sampler_has_the_order_that_its_text_claims(monkeypatch):
    from pipelines.benchmarks.orders import CosineSchedule, orders

    module = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look there for the class's own names
    run_block("CONTRIBUTING.md", vars(module))
    method = module.METHOD
    assert orders(lambda: method.build(), CosineSchedule())[-1] == pytest.approx(1, abs=0.1)
    assert orders(lambda: method.build({"scale": 0.9}), CosineSchedule())[-1] < 0.5


# What there is, is documented.


def command_names() -> set[str]:
    (commands,) = (
        action for action in command_line._parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return set(commands.choices)


def test_every_command_is_documented():
    text = "\n".join(block.text for block in blocks("bash") if block.page == "docs/api.md")
    assert set(re.findall(r"^python -m studio (\w+)", text, re.MULTILINE)) == command_names()


def test_every_endpoint_is_documented_with_its_arguments():
    rows = table_rows(PAGES["docs/api.md"], "Endpoints")
    endpoints = {f"/{name}": endpoint for name, endpoint in ENDPOINTS.items()}
    assert rows.keys() == endpoints.keys()
    for name, endpoint in endpoints.items():
        arguments = [one for one in inspect.signature(endpoint.make(None)).parameters if one != "request"]
        assert re.findall(r"`(\w+)`", rows[name].split("|")[2]) == arguments


def test_every_field_of_a_request_is_documented():
    rows = table_rows(PAGES["docs/api.md"], "Settings")
    assert {field.name for field in dataclasses.fields(Request)} - {"prompt"} <= rows.keys()


def test_every_flag_of_the_server_is_documented():
    flags = {flag for action in app_flags._parser()._actions for flag in action.option_strings} - {"-h", "--help"}
    assert flags == {name.split()[0] for name in table_rows(PAGES["docs/serving.md"], "Letting others in")}


def test_every_tab_is_described():
    for page in ("README.md", "docs/tabs.md"):
        for tab in TABS:
            assert f"**{tab.label}**" in PAGES[page] or f"## {tab.label}\n" in PAGES[page]


@pytest.mark.parametrize("package", FLOORS)
def test_every_folder_is_described_in_the_order_of_its_floor(package):
    part = PAGES["docs/architecture.md"].split(f"| folder of `{package}/` |", 1)[1].split("\n\n", 1)[0]
    named = [name for row in part.splitlines() for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])]
    assert named == [name for name in FLOORS[package] if (ROOT / package / name).is_dir()]


def test_every_finding_is_in_the_table_and_explains_itself():
    scripts = {path.name for path in ROOT.glob("findings/*.sh")}
    assert scripts and scripts == set(re.findall(r"\[`([\w-]+\.sh)`\]", PAGES["findings/README.md"]))
    for name in scripts:
        text = (ROOT / "findings" / name).read_text(encoding="utf-8")
        assert text.startswith("#!/usr/bin/env bash\n# ") and "set -euo pipefail" in text
        subprocess.run(["bash", "-n", ROOT / "findings" / name], check=True)
        assert not re.search(r"\b(pipelines|studio)\b", text), "a finding does not use our code"
