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

from pipelines.autoencoders import VAES
from pipelines.caches import CACHES
from pipelines.compatibility import COMPATIBILITIES
from pipelines.controls import CONTROLS, IMAGE_PROMPTS
from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.registry import Table, setting_type
from pipelines.core.types import Traits
from pipelines.guidance import GUIDANCE
from pipelines.initializations import INITIALIZATIONS
from pipelines.requests.prompts import split_prompts
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.workflows.compare.replacements import FIELD, parse_replacements, replace_in_prompts

__all__ = ["TABLES", "Axis", "apply_changes", "axis_names", "cost", "grid", "parse_numbers"]

TABLES: Mapping[str, Table] = {
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "guidance": GUIDANCE,
    "start": INITIALIZATIONS,
    "made_like": COMPATIBILITIES,
    "cache": CACHES,
    "vae": VAES,
    "control": CONTROLS,
    "image_prompt": IMAGE_PROMPTS,
}
"""The fields of a request that hold a method, and their tables."""

_PLAIN = {
    "model": "Model",
    "sampler": "Sampler",
    "schedule": "Schedule",
    "guidance": "Guidance method",
    "start": "Initialization",
    "made_like": "Made like",
    "cache": "Cache",
    "vae": "VAE",
    "control": "ControlNet",
    "image_prompt": "Picture as prompt",
    "num_inference_steps": "Steps",
    "seed": "Seed",
    "size": "Size",
    "width": "Width",
    "height": "Height",
    "prompt": "Prompt",
    FIELD: "Prompt search and replace (S/R)",
    "negative_prompt": "Negative prompt",
    "prompt_weighting": "Prompt weighting",
    "variation_seed": "Variation seed",
    "variation_strength": "Variation strength",
}
_SHORT = {"steps": "num_inference_steps", "guidance_scale": "guidance.guidance_scale"}
_WHOLE = {"num_inference_steps", "seed", "width", "height", "variation_seed"}
_TEXTS = {"prompt", "negative_prompt", "prompt_weighting"}
_COSTS = {
    **{"model": 0, "vae": 0, "lora": 1},
    **dict.fromkeys(("size", "width", "height"), 2),
    **dict.fromkeys(("prompt", "negative_prompt", FIELD), 3),
}
_CHEAP = 4
_RANGE = re.compile(r"(-?[\d.]+)\s*-\s*(-?[\d.]+)(?:\s*:\s*([\d.]+))?")
_SIZE = re.compile(r"(\d+)\s*[x×]\s*(\d+)")


def cost(name: str) -> int:
    """Say how costly a change of this name is, 0 the most: a model is loaded, a LoRA applied, a prompt encoded."""
    return _COSTS.get(name.partition(".")[0], _CHEAP)


def axis_names(loras: Sequence[str] = ()) -> dict[str, str]:
    """Return every name that an axis may have, and its label on the screen.

    Args:
        loras: names of those that fit the model.
    """
    owners: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for field, table in TABLES.items():
        for method in table.values():
            for setting in dataclasses.fields(method.settings):
                name = f"{field}.{setting.name}"
                owners.setdefault(name, []).append(method.label)
                label = setting.metadata["label"] or setting.name.replace("_", " ")
                labels.setdefault(name, label[0].upper() + label[1:])
    settings = {
        name: label if name.startswith("guidance.") else f"{label} ({', '.join(owners[name])})"
        for name, label in labels.items()
    }
    return _PLAIN | settings | {f"lora.{lora}": f"LoRA {lora}" for lora in loras}


@dataclasses.dataclass(frozen=True)
class Axis:
    """Describes one axis of a grid.

    Attributes:
        field: a name as in `axis_names`.
        values: plain, in order, no two the same.
    """

    field: str
    values: tuple[object, ...]

    @property
    def label(self) -> str:
        """On the screen."""
        return axis_names().get(self.field) or f"LoRA {self.field.partition('.')[2]}"

    @classmethod
    def parse(cls, plain: object, most: int, traits: Traits | None = None) -> Axis:
        """Read an axis from {"field": ..., "values": a list, or text as a person writes it}.

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
        name, values = _require_field(plain["field"]), plain.get("values", "")
        if name == FIELD:
            values = parse_replacements(_split_words(values) if isinstance(values, str) else values)
        elif isinstance(values, str):
            values = _parse_values(name, values, most, traits)
        elif isinstance(values, (list, tuple)):
            parts = [
                _parse_values(name, one, most, traits) if isinstance(one, str) and name not in _TEXTS else [one]
                for one in values
            ]
            values = [one for part in parts for one in part]
        else:
            values = [values]
        axis = cls(name, tuple(value for i, value in enumerate(values) if value not in values[:i]))
        if not axis.values:
            raise SettingsError(f"The axis {axis.label} has no values. Write some, for example {_give_example(name)}.")
        if len(axis.values) > most:
            raise SettingsError(
                f"The axis {axis.label} has {len(axis.values)} values. At most {most} are allowed here."
            )
        return axis

    def to_json(self) -> dict[str, Any]:
        """Return the form that `parse` reads."""
        return {"field": self.field, "values": list(self.values)}


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the cells' changes in reading order: along the first axis (columns), then down the second (rows)."""
    rows = [{}] if len(axes) < 2 else [{axes[1].field: value} for value in axes[1].values]
    return [{axes[0].field: value, **row} for row, value in itertools.product(rows, axes[0].values)]


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
        numbers += [start + i * direction if exact else round(start + i * direction, 9) for i in range(count)]
    if whole and (odd := next((one for one in numbers if one != int(one)), None)) is not None:
        raise SettingsError(f"{odd:g} is not a whole number. Write whole numbers only here.")
    return [int(one) for one in numbers] if whole else numbers


def _parse_number(text: str) -> float | int:
    """A whole number stays exact: a seed has more digits than a float holds."""
    return int(text) if re.fullmatch(r"-?\d{1,24}", text) else float(text)


def apply_changes(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of a request with a cell's changes made, for `Request.parse` to check.

    Raises:
        UnknownMethodError: a change of an unknown name.
        SettingsError: a size that cannot be read.
    """
    plain = dict(base)
    # A method before its settings, a prompt before what is replaced in it.
    for name, value in sorted(changes.items(), key=lambda change: ("." in change[0], change[0] == FIELD)):
        name = _require_field(name)
        field, _, inner = name.partition(".")
        if name == FIELD:
            plain = replace_in_prompts(plain, value)
        elif name == "size":
            plain["width"], plain["height"] = _parse_size(value)
        elif field == "lora":
            others = [lora for lora in plain.get("loras", ()) if lora["name"] != inner]
            plain["loras"] = [*others, {"name": inner, "weight": value}]
        elif inner:
            choice = plain.get(field, next(iter(TABLES[field])))
            plain[field] = {**({"key": choice} if isinstance(choice, str) else choice), inner: value}
        else:
            plain[field] = value
    return plain


def _require_field(name: str) -> str:
    """The full name.

    Raises:
        UnknownMethodError: there is none such.
    """
    names = axis_names()
    full = _SHORT.get(name, name)
    if full not in names and full != "loras" and not (full.startswith("lora.") and len(full) > len("lora.")):
        raise UnknownMethodError("field of a comparison", name, [*names, "lora.<name>"])
    return full


def _parse_values(name: str, text: str, most: int, traits: Traits | None) -> Sequence[object]:
    field, _, inner = name.partition(".")
    if name in _TEXTS:
        return [part for part in split_prompts(text) if part or name == "negative_prompt"]
    if name in TABLES:
        table = TABLES[name]
        if text.strip().lower() == "all":
            return [method.key for method in (table.fitting(traits) if traits else table.values())]
        return [key for word in _split_words(text) for key in _find_keys(table, word, traits)]
    if name in {"model", "size"}:
        return _split_words(text)
    if inner and field in TABLES:
        kinds = {
            setting_type(method.settings, inner)
            for method in TABLES[field].values()
            if inner in {one.name for one in dataclasses.fields(method.settings)}
        }
        if kinds == {bool}:
            return [_parse_truth(word) for word in _split_words(text)]
        return _split_words(text) if kinds == {str} else parse_numbers(text, kinds == {int}, most)
    return parse_numbers(text, name in _WHOLE, most)


def _split_words(text: str) -> list[str]:
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


def _parse_size(value: object) -> tuple[int, int]:
    match = _SIZE.fullmatch(str(value).strip()) or re.fullmatch(r"(\d+)()", str(value).strip())
    if not match or len(str(value)) > 20:
        raise SettingsError(f"The size is {str(value)[:80]!r}. Write width x height in pixels, for example 64x64.")
    return int(match[1]), int(match[2] or match[1])


def _give_example(name: str) -> str:
    examples = {
        "model": "emoji",
        "size": "64x64, 64x128",
        "prompt": "a red apple | a green apple",
        FIELD: "fox, cat, owl",
        "sampler": "all",
        "schedule": "all",
    }
    return examples.get(name, "4, 8, 10-30:10")
