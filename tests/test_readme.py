"""What the README promises is what the code says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipelines.core.types import Request
from pipelines.requests.limits import Limits, check_request
from studio.cli.main import _parser, compare_values, method_tables
from studio.cli.requests import request_values

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def section(name: str) -> str:
    return re.search(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->", README, re.DOTALL)[1].strip()


def test_the_method_tables_are_the_codes_own():
    assert section("methods") == method_tables()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_leads_to_a_file(target):
    assert (ROOT / target).is_file()


def test_the_two_commands_name_files_that_exist():
    for name in re.findall(r"-r (\S+\.txt)", README):
        assert (ROOT / name).is_file()
    assert "python app.py" in README


COMMANDS = re.findall(r"python -m studio ([^`\n]+)", README)


def test_the_readme_shows_commands():
    assert {line.split()[0] for line in COMMANDS} >= {
        "generate",
        "compare",
        "animate",
        "quantize",
        "convergence",
        "learn",
        "methods",
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_is_one_that_the_program_takes(line):
    flags = _parser().parse_args(shlex.split(line))
    if hasattr(flags, "prompt"):
        check_request(Request.parse(request_values(flags)), Limits())
    if hasattr(flags, "x"):
        values = compare_values(flags)
        for axis in (values["x"], values["y"]):
            for value in axis["values"]:
                check_request(Request.parse({"prompt": "a fox", axis["field"]: value}), Limits())


def test_the_measured_table_names_every_figure_it_must():
    table = section("figures")
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
