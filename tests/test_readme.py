"""What the README promises is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from studio.command_line import method_tables

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


def test_the_measured_table_names_every_figure_it_must():
    table = section("figures")
    for name in ("our loop ÷ the stock pipeline", "through the page with previews", "click to first preview", "stop to device free",
                 "eight cells sharing a batch", "second use of a loaded model", "peak memory after switching",
                 "disk written by 100 previews", "command to page", "page weight", "outside hosts"):
        assert name in table
