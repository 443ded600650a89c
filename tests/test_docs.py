"""The documents name all that there is, and their tables, links and file names are right."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess

import pytest

from pipelines.core.types import Request
from pipelines.quantizers import QUANTIZERS
from studio.api import ENDPOINTS
from studio.cli.methods import build_method_tables
from studio.page.tabs import TABS
from studio.safety import flag_parser as app_flags
from tests.doc_pages import PAGES, ROOT, blocks, command_names, prose, section, table_rows
from tests.test_architecture import FLOORS

# Tables.


def test_the_method_tables_are_the_codes_own():
    assert section("docs/methods.md", "methods") == build_method_tables()


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
    table = section("docs/quantization.md", "quantization").replace("**", "")
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
    flags = {flag for action in app_flags.build_parser()._actions for flag in action.option_strings} - {"-h", "--help"}
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
