"""The documents: their pages, sections, tables, code blocks and commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from studio.cli import main as command_line

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


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of each line of the bash blocks, and of each `python -m ...` in the prose."""
    for block in blocks("bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            yield from ((block.page, one.strip()) for one in line.split("#")[0].split("&&") if one.strip())
    for page, text in PAGES.items():
        if page != "CHANGELOG.md":
            named = re.findall(r"`(python (?:-m|app\.py)[^`]*)`", prose(text))
            yield from ((page, one) for one in named if not re.search(r"\.\*|…|COMMAND", one))


# What there is, is documented.


def command_names() -> set[str]:
    (commands,) = (
        action for action in command_line._build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return set(commands.choices)
