"""The cells and axes of a comparison as a link or a stored result brings them, and as the form's rows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.types import Choice, Traits
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES
from pipelines.workflows.compare.axes import Axis, axis_names
from pipelines.workflows.compare.request import FEW
from studio.page.compare.cells import FEWEST, Rows
from studio.ui.tab_settings import Chosen

__all__ = ["AxisValues", "Cells", "build_rows"]

STEPS, SCALE = "num_inference_steps", "guidance.guidance_scale"
_SHORT = {"steps": STEPS, "guidance_scale": SCALE}
_METHODS = {"sampler": SAMPLERS, "schedule": SCHEDULES}


@dataclasses.dataclass(frozen=True)
class Cells:
    """Checks what each cell changes; only what a row of the form has: sampler, schedule, steps and guidance.

    Attributes:
        most_steps: the server's cap.
        traits: from a model's key to what the methods must fit.
    """

    most_steps: int
    traits: Callable[[str], Traits | None]

    def read(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise SettingsError(f"{text[:80]!r} cannot be read.") from None

    def write(self, value: object) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def check(self, value: Any, model: str) -> tuple[list[dict[str, Any]], str]:
        is_list = isinstance(value, (list, tuple)) and all(isinstance(cell, Mapping) for cell in value)
        if not is_list or not FEWEST <= len(value) <= FEW:
            raise SettingsError(f"It must be a list of {FEWEST} to {FEW} cells.")
        cells, hidden = [], dict[str, Any]()
        for cell in value:
            settings = {_SHORT.get(str(name), str(name)): one for name, one in cell.items()}
            cells.append(
                {
                    name: self._check_value(name, settings[name], model)
                    for name in (*_METHODS, STEPS, SCALE)
                    if name in settings
                }
            )
            hidden |= dict.fromkeys(name for name in settings if name not in cells[-1])
            for name in _METHODS.keys() & settings.keys():
                hidden |= dict.fromkeys(f"{name} {one}" for one in Choice.parse(settings[name]).settings)
        names = ", ".join(hidden)[:200]
        return (
            cells,
            f"settings of a cell other than sampler, schedule, steps and guidance are left out ({names})."
            if hidden
            else "",
        )

    def _check_value(self, name: str, value: object, model: str) -> Any:
        if name in _METHODS:
            return Chosen(_METHODS[name], self.traits).check(value, model)[0]["key"]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SettingsError(f"{str(value)[:80]!r} is not a number.")
        if name == STEPS and not 1 <= value <= self.most_steps:
            raise SettingsError(f"A cell takes {value} steps. Choose 1 to {self.most_steps}.")
        return value


@dataclasses.dataclass(frozen=True)
class AxisValues:
    """Checks a grid's columns or rows: a field, and its values as a person writes them.

    Attributes:
        most: values allowed.
        traits: from a model's key to what its methods must fit.
        is_here: whether all of a model, by its key, is on this machine: a link compares no others.
    """

    most: int
    traits: Callable[[str], Traits | None]
    is_here: Callable[[str], bool]

    def read(self, text: str) -> Any:
        field, _, values = text.partition("=")
        missing = (
            [name for name in map(str.strip, values.split(",")) if not self.is_here(name)] if field == "model" else []
        )
        if missing:
            raise SettingsError(f"A model is not on this machine: {', '.join(missing)[:80]}.")
        return {"field": field, "values": values}

    def write(self, value: Any) -> str:
        return f"{value['field']}={value['values']}"

    def check(self, value: Any, model: str) -> tuple[dict[str, str], str]:
        traits = self.traits(model)
        axis = Axis.parse(value, self.most, traits)
        if axis.field not in (names := axis_names()):
            raise UnknownMethodError("field of the form", axis.field, names)
        text = value["values"] if isinstance(value["values"], str) else _format_typed(axis)
        if Axis.parse({"field": axis.field, "values": text}, self.most, traits) != axis:
            raise SettingsError(f"The values of the axis {axis.label} cannot be written as a list.")
        return {"field": axis.field, "values": text}, ""


def _format_typed(axis: Axis) -> str:
    words = {True: "yes", False: "no"}
    texts = [words[one] if isinstance(one, bool) else str(one) for one in axis.values]
    return (" | " if axis.field in ("prompt", "negative_prompt") else ", ").join(texts)


def build_rows(cells: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> Rows:
    """Build checked cells as the form's rows; what a cell leaves out is the base's, or empty for the shared value.

    Args:
        cells: as `Cells.check` gives them.
        base: fields of a Request.
    """
    shared = {name: Choice.parse(base[name]).key if name in base else "" for name in _METHODS}
    return [
        {
            **{name: cell.get(name, shared[name]) for name in _METHODS},
            "steps": f"{cell[STEPS]:g}" if STEPS in cell else "",
            "guidance_scale": f"{cell[SCALE]:g}" if SCALE in cell else "",
        }
        for cell in cells
    ]
