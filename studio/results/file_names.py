"""The names under which results are taken away, from a person's own pattern: "{date} {prompt} {seed}"."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.core.errors import SettingsError
from studio.results.records import Record
from studio.results.search import extract_settings

__all__ = ["LONGEST_PATTERN", "TOKENS", "build_file_name", "build_unique_names", "check_pattern"]

LONGEST_PATTERN = 160
_LONGEST_NAME, _LONGEST_PROMPT = 120, 60
"""Characters: file systems end at 255 bytes, and a letter of some scripts has four."""

_TOKEN = re.compile(r"\{([^{}]*)\}")
_UNFIT = re.compile(r"[^\w .,()+=@#'-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def _method_key(values: Mapping[str, object], name: str) -> str:
    choice = values.get(name)
    return str(choice.get("key", "")) if isinstance(choice, Mapping) else ""


TOKENS: Mapping[str, Callable[[Record, Mapping[str, Any]], object]] = {
    "id": lambda record, values: record.id,
    "date": lambda record, values: time.strftime("%Y-%m-%d", time.localtime(record.created)),
    "time": lambda record, values: time.strftime("%H-%M-%S", time.localtime(record.created)),
    "kind": lambda record, values: record.kind,
    "prompt": lambda record, values: record.prompt[:_LONGEST_PROMPT],
    "seed": lambda record, values: values.get("seed", ""),
    "model": lambda record, values: values.get("model", ""),
    "steps": lambda record, values: values.get("num_inference_steps", ""),
    "sampler": lambda record, values: _method_key(values, "sampler"),
    "schedule": lambda record, values: _method_key(values, "schedule"),
    "width": lambda record, values: record.width,
    "height": lambda record, values: record.height,
    "index": lambda record, values: record.index + 1,
}
"""What stands in braces in a pattern, to what it becomes of a result and of the settings that made it."""


def check_pattern(pattern: str) -> None:
    """Check a pattern that somebody typed.

    Raises:
        SettingsError: it is too long, or braces hold no word of `TOKENS`.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise SettingsError(f"The pattern has {len(pattern)} characters. Shorten it to {LONGEST_PATTERN}.")
    for name in _TOKEN.findall(pattern):
        if name not in TOKENS:
            words = ", ".join(f"{{{token}}}" for token in TOKENS)
            raise SettingsError(f"File names know no {{{name[:40]}}}. They know {words}.")


def build_file_name(pattern: str, record: Record) -> str:
    """Build the name of a result's file, with its own ending; the record's own name for an empty pattern.

    What file systems refuse becomes a hyphen, so that a name is at home on each of them.

    Args:
        pattern: text with the words of `TOKENS` in braces.
        record: of the store.

    Raises:
        SettingsError: as `check_pattern`.
    """
    check_pattern(pattern)
    if not pattern.strip():
        return record.path.name
    values = extract_settings(record) or {}
    text = _TOKEN.sub(lambda token: str(TOKENS[token[1]](record, values)), pattern)
    stem = _UNFIT.sub("-", " ".join(text.split()))[:_LONGEST_NAME].strip(" .-")
    return f"{f'_{stem}' if _RESERVED.match(stem) else stem or record.id}{record.path.suffix}"


def build_unique_names(pattern: str, records: list[Record]) -> list[str]:
    """Build the names of several results, of which equal ones are numbered: "fox.png", "fox (2).png".

    Raises:
        SettingsError: as `check_pattern`.
    """
    names: list[str] = []
    taken: set[str] = set()  # in small letters, since some file systems know no others
    for record in records:
        name = build_file_name(pattern, record)
        stem, number = name.removesuffix(record.path.suffix), 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem} ({number}){record.path.suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names
