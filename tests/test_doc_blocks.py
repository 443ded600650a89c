"""Every code block of the documents is one that can be run."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import io
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from pipelines.benchmarks.__main__ import BENCHMARKS
from pipelines.core.choice_text import parse_choice, plain
from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, Request
from pipelines.learning.request import LEARNERS, PictureSettings
from pipelines.requests.limits import Limits, check_request
from studio.cli import main as command_line
from studio.cli.requests import read_request_values
from studio.safety import flag_parser as app_flags
from studio.server import spaces_check
from studio.tasks import TASKS
from tests.doc_pages import ROOT, blocks, command_names, commands

# Code blocks.


def test_every_block_is_of_a_language_that_a_test_below_checks():
    assert {block.language for block in blocks()} <= {"bash", "python", "text"}
    assert all(block.text.startswith("/?tab=") for block in blocks("text"))


def _name_pictures(values: dict[str, Any]) -> dict[str, Any]:
    """With the digests that the studio gives the pictures of controls in the place of their files."""
    steered = {
        name: one for name, one in values.items() if isinstance(one, dict) and isinstance(one.get("picture"), bytes)
    }
    return values | {
        name: {**one, "picture": hashlib.sha256(one["picture"]).hexdigest()} for name, one in steered.items()
    }


def check_studio(words: list[str]) -> None:
    """Parse a command of `python -m studio`, and check the request that it would send."""
    if len(words) == 1:  # the name of a command, without what it needs
        assert words[0] in command_names()
        return
    flags = command_line._build_parser().parse_args(words)
    if hasattr(flags, "prompt"):
        check_request(Request.parse(_name_pictures(read_request_values(flags))), Limits())
    if hasattr(flags, "x"):
        values = TASKS["compare"].command.values(flags, read_request_values(flags))
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


@functools.cache
def help_of_module(name: str, *more: str) -> str:
    """Of `python -m NAME`, run in this process: each process would import PyTorch again."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), io.StringIO() as said:
        warnings.simplefilter("ignore", RuntimeWarning)  # the module may have been imported for other tests
        patch.setattr(sys, "argv", [name, *more, "--help"])
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__")
        assert not ended.value.code
        return said.getvalue()


def check_help(text: str, words: list[str]) -> None:
    """Whether a command's own help knows each flag."""
    for flag in (word.split("=")[0] for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text), flag


def check_app(words: list[str]) -> None:
    parser = app_flags.build_parser()
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


_WITH_HELP = (
    "pipelines.learning.cache_curves",
    "pipelines.learning.cache_schedule",
    "pipelines.learning.linear_guidance",
    "pipelines.training.adapters",
    "pipelines.training.data_statistics",
    "pipelines.training.denoising_gain",
    "pipelines.training.prune",
    "studio.benchmarks.emerging",
    "studio.benchmarks.examples",
    "studio.benchmarks.screenshots",
    "studio.benchmarks.stays",
)
"""Other modules that pages name as commands."""


def check_module(words: list[str]) -> None:
    """`python -m MODULE ...`."""
    name, *rest = words
    if name == "studio":
        check_studio(rest)
    elif name in ("studio.spaces_check",):
        check_spaces(rest)
    elif name == "pipelines.benchmark":
        check_help(help_of_module(BENCHMARKS[rest[0]]), rest[1:])
    elif name in _WITH_HELP:
        check_help(help_of_module(name), rest)
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
    "ruff": lambda words: check_help(help_of("ruff", words[0]), words[1:]),
    "mypy": lambda words: check_help(help_of("mypy"), words),
    "pre-commit": lambda words: None if words == ["install"] else pytest.fail(str(words)),
    "bash": check_script,
    "hf": lambda words: check_help(help_of(str(Path(sys.executable).with_name("hf")), words[0]), words[1:]),
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
    """Those of docs/api.md are run against a server in tests/studio/test_api.py; the others here."""
    assert [block.page for block in blocks("python")] == [
        "docs/api.md",
        "docs/api.md",
        "docs/models-and-files.md",
        "docs/serving.md",
        "CONTRIBUTING.md",
    ]
    for block in blocks("python"):
        ast.parse(block.text)


def test_the_watermark_is_found_as_the_page_says():
    run_block("docs/serving.md", {})


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
