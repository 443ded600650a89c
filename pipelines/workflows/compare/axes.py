"""The axes of a comparison: what may differ between its cells, and how a person writes the values.

A cell is a set of changes to one request, by name: a field of `Request` ("sampler", "num_inference_steps"),
"size", one setting of the chosen method ("guidance.guidance_scale", "sampler.eta") or one LoRA's weight
("lora.<name>").
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.registry import Table, setting_type
from pipelines.core.types import Traits
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES

__all__ = ["TABLES", "Axis", "axis_names", "changed", "cost", "grid", "spread"]

TABLES: Mapping[str, Table] = {
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "guidance": GUIDANCE,
    "start": INITIALIZATIONS,
}
"""The fields of a request that hold a method, and their tables."""

_PLAIN = {
    "model": "Model",
    "sampler": "Sampler",
    "schedule": "Schedule",
    "guidance": "Guidance method",
    "start": "Start",
    "num_inference_steps": "Steps",
    "seed": "Seed",
    "size": "Size",
    "width": "Width",
    "height": "Height",
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "variation_seed": "Variation seed",
    "variation_strength": "Variation strength",
}
_SHORT = {"steps": "num_inference_steps", "guidance_scale": "guidance.guidance_scale"}
_WHOLE = {"num_inference_steps", "seed", "width", "height", "variation_seed"}
_TEXTS = {"prompt", "negative_prompt"}
_COSTS = {"model": 0, "lora": 1, "size": 2, "width": 2, "height": 2, "prompt": 3, "negative_prompt": 3}
_CHEAP = 4
_RANGE = re.compile(r"(-?[\d.]+)\s*-\s*(-?[\d.]+)(?:\s*:\s*([\d.]+))?")
_SIZE = re.compile(r"(\d+)\s*[x×]\s*(\d+)")


def cost(name: str) -> int:
    """How costly a change of this name is, 0 the most: a model is loaded, a LoRA applied, a prompt encoded."""
    return _COSTS.get(name.partition(".")[0], _CHEAP)


def axis_names(loras: Sequence[str] = ()) -> dict[str, str]:
    """Every name that an axis may have, and its label on the screen.

    Args:
        loras: names of those that fit the model.
    """
    owners: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for field, table in TABLES.items():
        for method in table.values():
            for one in dataclasses.fields(method.settings):
                name = f"{field}.{one.name}"
                owners.setdefault(name, []).append(method.label)
                label = one.metadata["label"] or one.name.replace("_", " ")
                labels.setdefault(name, label[0].upper() + label[1:])
    settings = {
        name: label if name.startswith("guidance.") else f"{label} ({', '.join(owners[name])})"
        for name, label in labels.items()
    }
    return _PLAIN | settings | {f"lora.{lora}": f"LoRA {lora}" for lora in loras}


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        field: a name as in `axis_names`.
        values: plain, in order, no two the same.
    """

    field: str
    values: tuple[Any, ...]

    @property
    def label(self) -> str:
        """On the screen."""
        return axis_names().get(self.field) or f"LoRA {self.field.partition('.')[2]}"

    @classmethod
    def parse(cls, plain: Any, most: int, traits: Traits | None = None) -> Axis:
        """From {"field": ..., "values": a list, or text as a person writes it}.

        Text is split at commas, prompts at "|" or line ends; numbers may be ranges, "5-25:5" for 5, 10, ... 25;
        "all" stands for every method of a table that fits, "all first order" for those of a family.

        Args:
            plain: untrusted.
            most: values allowed.
            traits: of the model; None where they are not known.

        Raises:
            SettingsError: an unknown field, no value, one that cannot be read, or too many.
        """
        if not isinstance(plain, Mapping) or not isinstance(plain.get("field"), str):
            raise SettingsError(f"An axis is given as {str(plain)[:80]!r}. Give an object with 'field' and 'values'.")
        name, values = _known(plain["field"]), plain.get("values", "")
        if isinstance(values, str):
            values = _read(name, values, most, traits)
        elif isinstance(values, (list, tuple)):
            parts = [
                _read(name, one, most, traits) if isinstance(one, str) and name not in _TEXTS else [one]
                for one in values
            ]
            values = [one for part in parts for one in part]
        else:
            values = [values]
        axis = cls(name, tuple(value for i, value in enumerate(values) if value not in values[:i]))
        if not axis.values:
            raise SettingsError(f"The axis {axis.label} has no values. Write some, for example {_example(name)}.")
        if len(axis.values) > most:
            raise SettingsError(
                f"The axis {axis.label} has {len(axis.values)} values. At most {most} are allowed here."
            )
        return axis

    def to_json(self) -> dict[str, Any]:
        """The form that `parse` reads."""
        return {"field": self.field, "values": list(self.values)}


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """The cells' changes in the order of reading: along the first axis (columns), then down the second (rows)."""
    rows = [{}] if len(axes) < 2 else [{axes[1].field: value} for value in axes[1].values]
    return [{axes[0].field: value, **row} for row, value in itertools.product(rows, axes[0].values)]


def spread(text: str, whole: bool, most: int) -> list[float | int]:
    """The numbers of "1, 4, 10-30:10": a list of numbers and of ranges with both ends, a step of 1 where none is said.

    Raises:
        SettingsError: a part that is no number or range, or more than `most` numbers.
    """
    numbers: list[float | int] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        found = _RANGE.fullmatch(part)
        try:
            start, end, step = (
                (float(one) for one in (found[1], found[2], found[3] or 1))
                if found
                else (float(part), float(part), 1.0)
            )
        except ValueError:
            raise SettingsError(
                f"{part[:80]!r} is no number. Write numbers or ranges, for example 4, 8, 10-30:5."
            ) from None
        if not all(abs(one) < 2**63 for one in (start, end, step)) or step <= 0:
            raise SettingsError(
                f"{part[:80]!r} is no range. Write start-end:step with a step above 0, for example 10-30:5."
            )
        count = int(abs(end - start) / step + 1e-9) + 1
        if len(numbers) + count > most:
            raise SettingsError(
                f"{part[:80]!r} makes {len(numbers) + count} values. At most {most} are allowed here: step wider."
            )
        direction = step if end >= start else -step
        numbers += [round(start + i * direction, 9) for i in range(count)]
    if whole and (odd := next((one for one in numbers if one != int(one)), None)) is not None:
        raise SettingsError(f"{odd:g} is no whole number. Write whole numbers only here.")
    return [int(one) for one in numbers] if whole else numbers


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a request with a cell's changes made, for `Request.parse` to check.

    Raises:
        UnknownMethodError: a change of an unknown name.
        SettingsError: a size that cannot be read.
    """
    plain = dict(base)
    for name, value in sorted(changes.items(), key=lambda change: "." in change[0]):  # a method before its settings
        name = _known(name)
        field, _, inner = name.partition(".")
        if name == "size":
            plain["width"], plain["height"] = _size(value)
        elif field == "lora":
            others = [lora for lora in plain.get("loras", ()) if lora["name"] != inner]
            plain["loras"] = [*others, {"name": inner, "weight": value}]
        elif inner:
            chosen = plain.get(field, next(iter(TABLES[field])))
            plain[field] = {**({"key": chosen} if isinstance(chosen, str) else chosen), inner: value}
        else:
            plain[field] = value
    return plain


def _known(name: str) -> str:
    """The full name.

    Raises:
        UnknownMethodError: there is none such.
    """
    names = axis_names()
    full = _SHORT.get(name, name)
    if full not in names and full != "loras" and not (full.startswith("lora.") and len(full) > len("lora.")):
        raise UnknownMethodError("field of a comparison", name, [*names, "lora.<name>"])
    return full


def _read(name: str, text: str, most: int, traits: Traits | None) -> list[Any]:
    field, _, inner = name.partition(".")
    if name in _TEXTS:
        return [part.strip() for part in re.split(r"[|\n]", text) if part.strip() or name == "negative_prompt"]
    if name in TABLES:
        table = TABLES[name]
        if text.strip().lower() == "all":
            return [method.key for method in (table.fitting(traits) if traits else table.values())]
        return [key for word in _words(text) for key in _keys(table, word, traits)]
    if name in {"model", "size"}:
        return _words(text)
    if inner and field in TABLES:
        kinds = {
            setting_type(method.settings, inner)
            for method in TABLES[field].values()
            if inner in {one.name for one in dataclasses.fields(method.settings)}
        }
        if kinds == {bool}:
            return [_truth(word) for word in _words(text)]
        return _words(text) if kinds == {str} else spread(text, kinds == {int}, most)
    return spread(text, name in _WHOLE, most)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _key(table: Table, word: str) -> str:
    """A method by its key or its label."""
    return next((method.key for method in table.values() if word.lower() in (method.key, method.label.lower())), word)


def _keys(table: Table, word: str, traits: Traits | None) -> list[str]:
    """One method, or with "all" before it a whole family of those that fit, as "all first order"."""
    if not word.lower().startswith("all "):
        return [_key(table, word)]
    return [method.key for method in table.group(word[4:].strip()) if not (traits and method.fit(traits))]


def _truth(word: str) -> bool:
    known = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
    if word.lower() not in known:
        raise SettingsError(f"{word[:80]!r} is neither yes nor no. Write yes, no or both with a comma.")
    return known[word.lower()]


def _size(value: Any) -> tuple[int, int]:
    found = _SIZE.fullmatch(str(value).strip()) or re.fullmatch(r"(\d+)()", str(value).strip())
    if not found or len(str(value)) > 20:
        raise SettingsError(f"The size is {str(value)[:80]!r}. Write width x height in pixels, for example 64x64.")
    return int(found[1]), int(found[2] or found[1])


def _example(name: str) -> str:
    examples = {
        "model": "emoji",
        "size": "64x64, 64x128",
        "prompt": "a red apple | a green apple",
        "sampler": "all",
        "schedule": "all",
    }
    return examples.get(name, "4, 8, 10-30:10")
