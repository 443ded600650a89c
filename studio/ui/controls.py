"""Settings dataclasses as components, and components as plain values, by table.

A tab builds a method's controls inside its own layout and reads them back by component, never by position:

    sampler = method_controls(SAMPLERS, prefix="compare-a")       # a dropdown and one settings panel a method
    button.click(run, inputs={sampler.method, *sampler.fields}, outputs=...)
    def run(data): values = {"sampler": sampler.choice(data)}     # {"key": "ddim", "eta": 0.5}
    return sampler.updates({"key": "ddim", "eta": 0.5}, traits)   # component -> update; outputs=sampler.outputs

Nothing is validated here: `Request.parse` and `parse_settings` do that on the server, with the message the person sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from pipelines.core.registry import Method, NoSettings, Table, setting_type
from pipelines.core.types import Choice, Traits
from pipelines.models.entry import CatalogEntry
from studio.ui.component_data import Block, Data
from studio.ui.outputs import in_order

__all__ = [
    "PLUMBING",
    "Choices",
    "MethodControls",
    "build_elem_id",
    "build_method_controls",
    "build_settings_controls",
    "format_setting_label",
    "read_settings_values",
]

Choices = Sequence[tuple[str, str]]
"""Label and value of each choice of a dropdown."""

PLUMBING: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Keyword arguments of an event that only moves things about on the page."""


_FINEST_SLIDER = 10_000
"""Steps of a slider at most; past that, as for seeds, nobody finds a value by dragging."""


def build_elem_id(*parts: str) -> str:
    """Build an id for the page from parts in any case: ("t2i", "dpmpp_2m", "eta") becomes "t2i-dpmpp-2m-eta"."""
    return "-".join(part.replace("_", "-").replace(" ", "-").lower() for part in parts if part)


def format_setting_label(field: dataclasses.Field) -> str:
    """Return the name on the screen: the setting's own label, or its name in words."""
    words = field.metadata.get("label") or field.name.replace("_", " ")
    return words[:1].upper() + words[1:]


def build_settings_controls(
    cls: type, prefix: str, offered: Mapping[str, Choices] | None = None
) -> dict[str, Component]:
    """Build one component for each field of a settings dataclass, built in the present layout context.

    Args:
        cls: a dataclass whose fields were made by `pipelines.core.registry.setting`.
        prefix: begins each component's id; two uses on one page need two prefixes.
        offered: setting name to what there is to choose from at this moment, for texts that name a file.

    Returns:
        Field name to component, in the dataclass's order, showing the defaults.
    """
    return {
        field.name: _build_component(cls, field, build_elem_id(prefix, field.name), (offered or {}).get(field.name))
        for field in dataclasses.fields(cls)
    }


def read_settings_values(
    components: Mapping[str, Component], data: Mapping[Block, object], cls: type
) -> dict[str, Any]:
    """Read the plain values that differ from the dataclass's defaults, from an event's data (component to value)."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    return {name: data[component] for name, component in components.items() if data[component] != defaults[name]}


def _build_component(cls: type, field: dataclasses.Field, identity: str, offered: Choices | None = None) -> Component:
    kind, meta = setting_type(cls, field.name), field.metadata
    common: dict[str, Any] = {
        "label": format_setting_label(field),
        "info": meta.get("help") or None,
        "value": field.default,
        "elem_id": identity,
    }
    if kind is bool:
        return gr.Checkbox(**common)
    if offered is not None:  # what a stored picture names may be gone: the run says so
        return gr.Dropdown(choices=list(offered), allow_custom_value=True, **common)
    if meta.get("choices"):
        return gr.Dropdown(choices=list(meta["choices"]), filterable=False, **common)
    if kind is str:
        return gr.Textbox(lines=meta.get("lines") or 1, **common)
    low, high = meta.get("low"), meta.get("high")
    step = meta.get("step") or (1 if kind is int else None)
    if low is not None and high is not None and (high - low) / (step or high - low) <= _FINEST_SLIDER:
        return gr.Slider(low, high, step=step or (high - low) / 100, buttons=[], **common)
    return gr.Number(minimum=low, maximum=high, step=step or 1, precision=0 if kind is int else None, **common)


@dataclasses.dataclass(frozen=True)
class MethodControls:
    """Holds the controls of one choice from a table; made by `build_method_controls`.

    Attributes:
        table: the methods.
        method: the dropdown of keys.
        panels: method key to its settings panel; a method without settings has none.
        settings: method key to its components by setting name.
    """

    table: Table
    method: gr.Dropdown
    panels: Mapping[str, gr.Column]
    settings: Mapping[str, Mapping[str, Component]]

    @property
    def fields(self) -> set[Component]:
        """Return every component that holds a setting; with `method` these are an event's inputs."""
        return {component for components in self.settings.values() for component in components.values()}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        return {self.method, *self.panels.values(), *self.fields}

    def choice(self, data: Mapping[Block, Any]) -> dict[str, Any] | None:
        """Read what is chosen, as `Choice.parse` reads it: the key, and the settings that differ from their defaults.

        Args:
            data: component to value, of an event whose inputs were `method` and `fields`.

        Returns:
            None where no method fits the model, and so none is chosen.
        """
        key = data[self.method]
        if key is None:
            return None
        components = self.settings.get(key, {})
        return (
            {"key": key, **read_settings_values(components, data, self.table[key].settings)}
            if components
            else {"key": key}
        )

    def updates(self, choice: object = None, traits: Traits | CatalogEntry | None = None) -> Data:
        """Map each component to the update that shows a choice and offers only what fits a model.

        Args:
            choice: what `Choice.parse` reads; None, or a method that does not fit, takes the first that fits.
            traits: of the model, or its entry for video methods; None offers every method. Where none fits, the
                whole choice is hidden.

        Raises:
            SettingsError: the choice names no method of the table.
        """
        methods = self.table.fitting(traits) if traits else list(self.table.values())
        if not methods:
            return {self.method: gr.update(choices=[], value=None, visible=False), **self.panel_updates("")}
        choice_parsed = Choice.parse(choice) if choice is not None else None
        method = self.table[choice_parsed.key] if choice_parsed else methods[0]
        values = choice_parsed.settings if choice_parsed else {}
        if method not in methods:
            method, values = methods[0], {}
        updates = {
            self.method: gr.update(
                choices=_list_choices(methods), value=method.key, info=_format_info(method), visible=True
            ),
            **self.panel_updates(method.key),
        }
        defaults = {field.name: field.default for field in dataclasses.fields(method.settings)}
        fields = self.settings.get(method.key, {})
        return updates | {
            component: gr.update(value=values.get(name, defaults[name])) for name, component in fields.items()
        }

    def panel_updates(self, key: str) -> Data:
        """Map each component to the update that opens one method's panel and closes the others."""
        return {panel: gr.update(visible=name == key) for name, panel in self.panels.items()}

    def follow(self) -> None:
        """Wire the panels to the dropdown, once, inside the Blocks."""
        outputs = {self.method, *self.panels.values()}

        def show(data: dict[Component, Any]) -> Data:
            key = data[self.method]
            return {self.method: gr.update(info=_format_info(self.table[key])), **self.panel_updates(key)}

        self.method.input(show, inputs={self.method}, outputs=in_order(outputs), **PLUMBING)


def build_method_controls(
    table: Table,
    prefix: str,
    *,
    label: str = "",
    choice: object = None,
    traits: Traits | CatalogEntry | None = None,
    offered: Mapping[str, Choices] | None = None,
) -> MethodControls:
    """Build a dropdown of a table's methods and a settings panel that follows it, in the present layout context.

    Args:
        table: SAMPLERS, SCHEDULES, GUIDANCE, ...
        prefix: begins every component's id.
        label: of the dropdown; by default the table's kind.
        choice: chosen at first, as `Choice.parse` reads it; by default the first method that fits.
        traits: of the model chosen at first; None offers every method.
        offered: as `build_settings_controls` takes it.
    """
    methods = table.fitting(traits) if traits else list(table.values())
    initial = (
        Choice.parse(choice) if choice is not None and methods else Choice(next(iter(methods or table.values())).key)
    )
    initial_method = table[initial.key]
    method = gr.Dropdown(
        _list_choices(methods),
        value=initial_method.key if methods else None,
        label=label or table.kind.capitalize(),
        info=_format_info(initial_method),
        visible=bool(methods),
        filterable=False,
        elem_id=build_elem_id(prefix, table.kind),
    )
    panels, settings = {}, {}
    for candidate in table.values():
        if candidate.settings is NoSettings:
            continue
        with gr.Column(
            visible=bool(methods) and candidate.key == initial_method.key, elem_classes="sw-panel", min_width=0
        ) as panel:
            panel.allow_expected_parents = False  # a Form more in each would be a seventh of the page's components
            settings[candidate.key] = build_settings_controls(
                candidate.settings, build_elem_id(prefix, table.kind, candidate.key), offered
            )
        panels[candidate.key] = panel
    for name, value in initial.settings.items():
        settings[initial_method.key][name].value = value
    controls = MethodControls(table, method, panels, settings)
    controls.follow()
    return controls


def _list_choices(methods: list[Method]) -> list[tuple[str, str]]:
    return [(method.label, method.key) for method in methods]


def _format_info(method: Method) -> str:
    return method.help or " "
