"""The examples of docs/prompts.md are requests that the studio takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipelines.core.types import Request
from pipelines.families.prompt_weighting import DEFAULT_WEIGHTING, WEIGHTINGS
from pipelines.prompts.loras import take_loras
from pipelines.requests.prompts import check_prompts
from pipelines.requests.wildcards import expand_wildcards
from studio.cli.main import _build_parser
from studio.cli.requests import read_request_values

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "prompts.md").read_text("utf-8")
LISTS = {"animal": ["fox"], "colors/dark red": ["crimson"]}


@pytest.mark.parametrize("command", re.findall(r"^python -m studio (generate .*)$", PAGE, re.MULTILINE))
def test_a_command_is_a_request_that_can_be_read(command):
    request = Request.parse(read_request_values(_build_parser().parse_args(shlex.split(command))))
    check_prompts(request.replace(prompt=expand_wildcards(request.prompt, request.seed)), None)


def test_every_sign_of_the_table_is_read():
    table = PAGE.split("| --- | --- |", 1)[1].split("\n\n", 1)[0]
    examples = [one.replace(r"\|", "|") for row in table.splitlines()[1:] for one in re.findall(r"`([^`]+)`", row)[:3]]
    assert len(examples) > 15
    for text in examples:
        drawn, _ = take_loras(expand_wildcards(text, 0, LISTS))
        check_prompts(Request(prompt=drawn), None)


def test_the_rules_for_weights_are_those_of_the_code():
    table = PAGE.split("| key | rule | as |", 1)[1].split("\n\n", 1)[0]
    named = re.findall(r"^\| `(\w+)` \| ", table, re.MULTILINE)
    assert named == [*WEIGHTINGS] and f"| `{DEFAULT_WEIGHTING}` |" in next(
        line for line in table.splitlines() if "the default" in line
    )
