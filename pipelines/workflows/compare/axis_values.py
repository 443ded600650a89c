"""How a person writes the values of an axis: numbers and ranges, sizes, keys and texts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from pipelines.core.errors import SettingsError
from pipelines.core.registry import Table, setting_type
from pipelines.core.types import Traits
from pipelines.requests.limits import TABLES as METHOD_TABLES
from pipelines.requests.prompts import split_prompts
from pipelines.workflows.compare.replacements import FIELD

__all__ = ["TABLES", "TEXTS", "give_example", "parse_numbers", "parse_size", "parse_values", "split_words"]

_NO_AXIS = {"second_pass", "search", "reward"}
"""Methods that a comparison's cells do not run."""

TABLES: Mapping[str, Table] = {name: table for name, table in METHOD_TABLES.items() if name not in _NO_AXIS}
"""The fields of a request that hold a method, and their tables."""

_WHOLE = {"num_inference_steps", "seed", "width", "height", "variation_seed"}
TEXTS = {"prompt", "negative_prompt", "prompt_weighting"}
_RANGE = re.compile(r"(-?[\d.]+)\s*-\s*(-?[\d.]+)(?:\s*:\s*([\d.]+))?")
_SIZE = re.compile(r"(\d+)\s*[x×]\s*(\d+)")


def parse_numbers(text: str, whole: bool, most: int) -> list[float | int]:
    """Return the numbers of "1, 4, 10-30:10": a list of numbers and of ranges with both ends, a step of 1 where none is
    said.

    Raises:
        SettingsError: a part that is no number or range, or more than `most` numbers.
    """
    numbers: list[float | int] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _RANGE.fullmatch(part)
        try:
            start, end, step = (
                (_parse_number(one) for one in (match[1], match[2], match[3] or "1"))
                if match
                else (_parse_number(part), _parse_number(part), 1)
            )
        except ValueError:
            raise SettingsError(
                f"{part[:80]!r} is not a number. Write numbers or ranges, for example 4, 8, 10-30:5."
            ) from None
        if not all(abs(one) < 2**63 for one in (start, end, step)) or step <= 0:
            raise SettingsError(
                f"{part[:80]!r} is not a range. Write start-end:step with a step above 0, for example 10-30:5."
            )
        exact = all(isinstance(one, int) for one in (start, end, step))
        count = (abs(end - start) // step if exact else int(abs(end - start) / step + 1e-9)) + 1
        if len(numbers) + count > most:
            raise SettingsError(
                f"{part[:80]!r} makes {len(numbers) + count} values. At most {most} are allowed here: step wider."
            )
        direction = step if end >= start else -step
        numbers += [start + i * direction if exact else round(start + i * direction, 9) for i in range(int(count))]
    if whole and (odd := next((one for one in numbers if one != int(one)), None)) is not None:
        raise SettingsError(f"{odd:g} is not a whole number. Write whole numbers only here.")
    return [int(one) for one in numbers] if whole else numbers


def _parse_number(text: str) -> float | int:
    """A whole number stays exact: a seed has more digits than a float holds."""
    return int(text) if re.fullmatch(r"-?\d{1,24}", text) else float(text)


def parse_values(name: str, text: str, most: int, traits: Traits | None) -> Sequence[object]:
    """Read the values of an axis from a person's text.

    Args:
        name: of the axis, as in `axis_names`.
        text: with commas between the values, of prompts with "|" or line ends.
        most: values allowed.
        traits: of the model, which "all" is narrowed by; None where they are not known.

    Raises:
        SettingsError: a value cannot be read, or there are too many.
    """
    field, _, inner = name.partition(".")
    if name in TEXTS:
        return [part for part in split_prompts(text) if part or name == "negative_prompt"]
    if name in TABLES:
        table = TABLES[name]
        if text.strip().lower() == "all":
            return [method.key for method in (table.fitting(traits) if traits else table.values())]
        return [key for word in split_words(text) for key in _find_keys(table, word, traits)]
    if name in {"model", "size"}:
        return split_words(text)
    if inner and field in TABLES:
        kinds = {
            setting_type(method.settings, inner)
            for method in TABLES[field].values()
            if inner in {one.name for one in dataclasses.fields(method.settings)}
        }
        if kinds == {bool}:
            return [_parse_truth(word) for word in split_words(text)]
        return split_words(text) if kinds == {str} else parse_numbers(text, kinds == {int}, most)
    return parse_numbers(text, name in _WHOLE, most)


def split_words(text: str) -> list[str]:
    """Split a text at its commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _find_key(table: Table, word: str) -> str:
    """A method by its key or its label."""
    return next((method.key for method in table.values() if word.lower() in (method.key, method.label.lower())), word)


def _find_keys(table: Table, word: str, traits: Traits | None) -> list[str]:
    """One method, or with "all" before it a whole family of those that fit, as "all first order"."""
    if not word.lower().startswith("all "):
        return [_find_key(table, word)]
    return [method.key for method in table.group(word[4:].strip()) if not (traits and method.fit(traits))]


def _parse_truth(word: str) -> bool:
    truths = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
    if word.lower() not in truths:
        raise SettingsError(f"{word[:80]!r} is neither yes nor no. Write yes, no or both with a comma.")
    return truths[word.lower()]


def parse_size(value: object) -> tuple[int, int]:
    """Read the width and height in pixels of "64x128", or of "64" for a square.

    Raises:
        SettingsError: it is neither.
    """
    match = _SIZE.fullmatch(str(value).strip()) or re.fullmatch(r"(\d+)()", str(value).strip())
    if not match or len(str(value)) > 20:
        raise SettingsError(f"The size is {str(value)[:80]!r}. Write width x height in pixels, for example 64x64.")
    return int(match[1]), int(match[2] or match[1])


def give_example(name: str) -> str:
    """Return values as a person may write them for this axis, for a message."""
    examples = {
        "model": "emoji",
        "size": "64x64, 64x128",
        "prompt": "a red apple | a green apple",
        FIELD: "fox, cat, owl",
        "sampler": "all",
        "schedule": "all",
        **{
            field: ", ".join(list(table)[:2]) for field, table in TABLES.items() if field not in ("sampler", "schedule")
        },
    }
    return examples.get(name, "4, 8, 10-30:10")
