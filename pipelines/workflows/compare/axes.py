"""The axes of a comparison: what may differ between its cells, and how a person writes the values.

A cell is a set of changes to one request, by name: a field of `Request` ("sampler", "num_inference_steps"),
"size", one setting of the chosen method ("guidance.guidance_scale", "sampler.eta") or one LoRA's weight
("lora.<name>").
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import Traits
from pipelines.workflows.compare.axis_values import (
    TABLES,
    TEXTS,
    give_example,
    parse_size,
    parse_values,
    split_words,
)
from pipelines.workflows.compare.replacements import FIELD, parse_replacements, replace_in_prompts

__all__ = ["Axis", "apply_changes", "axis_names", "cost", "grid"]

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
    "t2i_adapter": "T2I-Adapter",
    "image_prompt": "Picture as prompt",
    "ensemble": "Several models",
    "sliders": "Sliders",
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
_COSTS = {
    **{"model": 0, "ensemble": 0, "vae": 0, "lora": 1},
    **dict.fromkeys(("size", "width", "height"), 2),
    **dict.fromkeys(("prompt", "negative_prompt", FIELD), 3),
}
_CHEAP = 4


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
            values = parse_replacements(split_words(values) if isinstance(values, str) else values)
        elif isinstance(values, str):
            values = parse_values(name, values, most, traits)
        elif isinstance(values, (list, tuple)):
            parts = [
                parse_values(name, one, most, traits) if isinstance(one, str) and name not in TEXTS else [one]
                for one in values
            ]
            values = [one for part in parts for one in part]
        else:
            values = [values]
        axis = cls(name, tuple(value for i, value in enumerate(values) if value not in values[:i]))
        if not axis.values:
            raise SettingsError(f"The axis {axis.label} has no values. Write some, for example {give_example(name)}.")
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
            plain["width"], plain["height"] = parse_size(value)
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
