"""Names of files from a person's pattern: whole words, fit for every file system, never two alike."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipelines.core.errors import SettingsError
from pipelines.core.types import Request
from studio.results.file_names import build_file_name, build_unique_names
from studio.results.records import Record

CREATED = time.mktime((2026, 11, 21, 10, 15, 0, 0, 0, -1))


def record(prompt="a fox: red/blue", suffix=".png", seed=7):
    request = Request(prompt=prompt, seed=seed).to_json()
    path = Path(f"/somewhere/20261121-101500-3f9c2a7be1d4{suffix}")
    return Record(
        path.stem, "text_to_image", path, CREATED, "job", 0, 64, 48, 10, prompt, "", metadata={"request": request}
    )


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("", "20261121-101500-3f9c2a7be1d4.png"),
        ("{date} {prompt} {seed}", "2026-11-21 a fox- red-blue 7.png"),
        ("{model}-{sampler}-{steps}-{width}x{height}", "emoji-dpmpp_2m-25-64x48.png"),
        ("../../{id}", "20261121-101500-3f9c2a7be1d4.png"),
        ("con", "_con.png"),
        ("{time}_{index}", "10-15-00_1.png"),
        ("...", "20261121-101500-3f9c2a7be1d4.png"),
    ],
)
def test_a_pattern_becomes_a_name_that_every_file_system_takes(pattern, name):
    assert build_file_name(pattern, record()) == name


def test_a_long_prompt_is_cut_and_other_scripts_stay():
    assert len(build_file_name("{prompt}" * 9, record("x" * 500))) <= 124
    assert build_file_name("{prompt}", record("лиса на синем")) == "лиса на синем.png"


def test_a_word_that_is_not_known_is_told_with_those_that_are():
    with pytest.raises(SettingsError, match=r"no \{sead\}.*\{seed\}"):
        build_file_name("{sead}", record())
    with pytest.raises(SettingsError, match="Shorten"):
        build_file_name("x" * 161, record())


def test_equal_names_are_numbered_without_regard_to_case():
    names = build_unique_names("{prompt}", [record("Fox"), record("fox"), record("fox", ".mp4"), record("FOX")])
    assert names == ["Fox.png", "fox (2).png", "fox.mp4", "FOX (3).png"]
