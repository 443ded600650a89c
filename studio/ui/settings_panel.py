"""The settings of methods as one component, whose controls the page's script draws (assets/js/settings.js).

With a component of Gradio's for each setting of each form, three of five components were settings that nobody saw.
Here the value is plain: method key to the settings that differ from their defaults, of all methods that were touched.
What there is to set is described once for the whole page, by `build_descriptions`.

What changes of a description while the page is shown is held by a second component, which is never drawn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import gradio as gr
from gradio.context import Context

from pipelines.core.registry import Method, NoSettings, setting_type
from studio.ui.component_data import Block, Data

__all__ = [
    "Alterations",
    "DescribingBlocks",
    "SettingsPanel",
    "build_descriptions",
    "build_elem_id",
    "build_settings_panel",
    "build_single_panel",
    "describe_settings",
    "format_setting_label",
]

Alterations = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Method key to setting name to what is otherwise than described: the "choices" that there are now, or "hidden"."""

DESCRIPTIONS = "sw-method-settings"
"""Id of the component that describes all settings of the page."""

_FINEST_SLIDER = 10_000
"""Steps of a slider at most; past that, as for seeds, nobody finds a value by dragging."""

_DRAW = "stepwise.drawSettings(element, props, trigger, watch);"


def build_elem_id(*parts: str) -> str:
    """Build an id for the page from parts in any case: ("t2i", "dpmpp_2m", "eta") becomes "t2i-dpmpp-2m-eta"."""
    return "-".join(part.replace("_", "-").replace(" ", "-").lower() for part in parts if part)


def format_setting_label(field: dataclasses.Field) -> str:
    """Return the name on the screen: the setting's own label, or its name in words."""
    words = field.metadata.get("label") or field.name.replace("_", " ")
    return words[:1].upper() + words[1:]


@dataclasses.dataclass(frozen=True)
class SettingsPanel:
    """Draws the settings of one method at a time; made by `build_settings_panel` and `build_single_panel`.

    Attributes:
        component: whose value the settings are.
        altered: holds what is otherwise than described; None where nothing ever is.
        kind: what is described; panels of one kind have the same methods.
        shown: key of the method that is shown at first.
        described: method key to its settings dataclass, of all methods whose settings it can show.
        helps: method key to the sentence on the method.
    """

    component: gr.HTML
    altered: gr.JSON | None
    kind: str
    shown: str
    described: Mapping[str, type]
    helps: Mapping[str, str]

    def read(self, data: Mapping[Block, Any], method: str = "") -> dict[str, Any]:
        """Read the settings of a method that differ from their defaults, in the dataclass's order.

        Args:
            data: component to value, untrusted: `parse_settings` checks the settings.
            method: its key.

        Raises:
            TypeError: the value does not come from the page.
        """
        value = data[self.component]
        chosen = value.get(method, {}) if isinstance(value, Mapping) else value
        if chosen is None:
            return {}
        if not isinstance(chosen, Mapping):
            raise TypeError("settings must be a mapping from method to settings")
        fields = dataclasses.fields(self.described[method]) if method in self.described else ()
        return {one.name: chosen[one.name] for one in fields if one.name in chosen and chosen[one.name] != one.default}

    def show(self, values: Mapping[str, Any], method: str = "") -> Data:
        """Return the update that shows these settings of a method, and the defaults of all others.

        Args:
            values: setting name to value; names that the method does not have are left out.
            method: its key.
        """
        value = self.read({self.component: {method: values}}, method)
        return {self.component: {method: value} if value else {}}

    def change(self, data: Mapping[Block, Any], changes: Mapping[str, Mapping[str, Any]]) -> Data:
        """Return the update that changes some settings of some methods, and leaves the others as they are.

        Args:
            data: component to value, of this component too.
            changes: method key to setting name to value.
        """
        value = {key: self.read(data, key) for key in self.described}
        changed = {key: {**value[key], **changes.get(key, {})} for key in value}
        settings = {key: self.read({self.component: changed}, key) for key in changed}
        return {self.component: {key: one for key, one in settings.items() if one}}

    def hide(self) -> Data:
        """Return the update that shows no settings, until some are shown again."""
        return {self.component: None}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that an update may change."""
        return {self.component, *([self.altered] if self.altered else [])}

    def alter(self, altered: Alterations, updates: Data | None = None) -> Data:
        """Return the update that shows some settings otherwise than they are described; of a panel built with some.

        Args:
            altered: what is otherwise; all that was so before is as described again.
            updates: those that are shown in the same event: what they set that is hidden or not offered is taken out.
        """
        shown: Data = {self.altered: altered} if self.altered else {}
        if not (updates and updates.get(self.component)):
            return shown
        taken = {
            key: {name: one for name, one in values.items() if _is_taken(altered.get(key, {}).get(name, {}), one)}
            for key, values in updates[self.component].items()
        }
        return {**shown, self.component: taken}


def _is_taken(altered: Mapping[str, Any], value: object) -> bool:
    """Whether a setting has this value where it is shown otherwise than described."""
    if altered.get("hidden"):
        return False
    return "choices" not in altered or value in [one for _, one in altered["choices"]]


class DescribingBlocks(gr.Blocks):
    """Extends Gradio's Blocks with the panels that are built in them.

    Attributes:
        panels: in the order in which they were built.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.panels: list[SettingsPanel] = []


def build_settings_panel(
    kind: str,
    methods: Iterable[Method],
    prefix: str,
    shown: str,
    values: Mapping[str, Any] | None = None,
    altered: Alterations | None = None,
) -> SettingsPanel:
    """Build the panel of a table's methods in the present layout context.

    Args:
        kind: what the methods are, as their table names it.
        methods: those whose settings it shows, one at a time.
        prefix: begins the ids of its controls: `{prefix}-{method}-{setting}`.
        shown: key of the method that is shown at first.
        values: its settings at first, by name; None hides the panel.
        altered: what is otherwise than the settings' own description says; None where nothing ever is.
    """
    methods = list(methods)
    described = {one.key: one.settings for one in methods if one.settings is not NoSettings}
    helps = {one.key: one.help for one in methods}
    return _build_panel(kind, prefix, shown, described, helps, values, altered)


def build_single_panel(settings: type, prefix: str) -> SettingsPanel:
    """Build the panel of one settings dataclass in the present layout context, showing the defaults.

    Args:
        settings: a dataclass whose fields were made by `pipelines.core.registry.setting`.
        prefix: begins the ids of its controls: `{prefix}-{setting}`. Two uses on one page need two.
    """
    return _build_panel(prefix, prefix, "", {"": settings}, {}, {}, None)


def _build_panel(
    kind: str,
    prefix: str,
    shown: str,
    described: Mapping[str, type],
    helps: Mapping[str, str],
    values: Mapping[str, Any] | None,
    altered: Alterations | None,
) -> SettingsPanel:
    identity = build_elem_id(prefix, "settings")
    component = gr.HTML(
        None if values is None else {shown: dict(values)} if values else {},
        html_template="<div class='sw-fields'></div>",
        js_on_load=_DRAW,
        apply_default_css=False,
        elem_id=identity,
        elem_classes="sw-method-settings",
    )
    holder = None if altered is None else gr.JSON(dict(altered), visible=False, elem_id=f"{identity}-altered")
    if holder is not None:
        show = f"(altered) => stepwise.alterSettings({identity!r}, altered)"
        holder.change(None, holder, js=show, queue=False, show_progress="hidden", api_visibility="private")
    panel = SettingsPanel(component, holder, kind, shown, described, helps)
    if isinstance(Context.root_block, DescribingBlocks):
        Context.root_block.panels.append(panel)
    return panel


def describe_settings(settings: type) -> list[dict[str, Any]]:
    """Describe the fields of a settings dataclass for the page's script: the kind of each control, and its texts."""
    return [_describe_field(settings, field) for field in dataclasses.fields(settings)]


def _describe_field(settings: type, field: dataclasses.Field) -> dict[str, Any]:
    kind, meta = setting_type(settings, field.name), field.metadata
    label, text = format_setting_label(field), meta.get("help")
    described = {"name": field.name, "label": label, "help": text, "value": field.default}
    if kind is bool:
        return {**described, "type": "check"}
    if meta.get("choices"):
        return {**described, "type": "choice", "choices": [[str(one), one] for one in meta["choices"]]}
    if kind is str:
        return {**described, "type": "text", "lines": meta.get("lines") or 1}
    low, high = meta.get("low"), meta.get("high")
    described |= {"type": "number", "low": low, "high": high, "whole": kind is int}
    step = meta.get("step") or (1 if kind is int else _choose_step(low, high, cast(float, field.default)))
    if step is None or low is None or high is None or (high - low) / step > _FINEST_SLIDER:
        return {**described, "step": step or 1, "slides": False}
    # Counted from a multiple of the step: from 0.0001 a step of 0.001 would give 0.0011 and never 0.002.
    start = low if kind is int else round(math.floor(low / step + 1e-9) * step, 12)
    return {**described, "step": step, "slides": True, "from": start}


def _choose_step(low: float | None, high: float | None, default: float) -> float | None:
    """The largest of 1, 2 and 5 times a power of ten that divides the range into a hundred steps and has the default
    among its multiples; None where that takes more than a thousand: over so many decades a slider is of no use."""
    if low is None or high is None:
        return None
    exponent = math.floor(math.log10(high - low))
    for power in range(exponent, exponent - 5, -1):
        for digit in (5, 2, 1):
            step = round(digit * 10.0**power, 12)
            is_multiple = abs(default / step - round(default / step)) < 1e-6
            if 100 <= (high - low) / step + 1e-9 <= 1000 and is_multiple:
                return step
    return None


def build_descriptions(page: DescribingBlocks) -> gr.JSON:
    """Describe a page's panels, and their settings once a kind, in a component that is never drawn; inside the page.

    Raises:
        ValueError: two different tables are of one kind.
    """
    kinds: dict[str, SettingsPanel] = {}
    for panel in page.panels:
        if kinds.setdefault(panel.kind, panel).described != panel.described:
            raise ValueError(f"two different tables are of the kind {panel.kind!r}")
    described = {
        kind: {
            "helps": panel.helps,
            "fields": {key: describe_settings(settings) for key, settings in panel.described.items()},
        }
        for kind, panel in kinds.items()
    }
    panels = {panel.component.elem_id: {"kind": panel.kind, "shown": panel.shown} for panel in page.panels}
    return gr.JSON({"kinds": described, "panels": panels}, visible=False, elem_id=DESCRIPTIONS)
