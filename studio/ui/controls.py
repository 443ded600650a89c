"""A choice from a table as components, and components as plain values.

A tab builds a method's controls inside its own layout and reads them back by component, never by position:

    sampler = build_method_controls(SAMPLERS, prefix="compare-a")    # a list of methods, and their settings
    button.click(run, inputs={sampler.method, *sampler.fields}, outputs=...)
    def run(data): values = {"sampler": sampler.choice(data)}     # {"key": "ddim", "eta": 0.5}
    return sampler.updates({"key": "ddim", "eta": 0.5}, traits)   # component -> update; outputs=sampler.outputs

Nothing is validated here: `Request.parse` and `parse_settings` do that on the server, with the message the person sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from pipelines.core.registry import Method, Table
from pipelines.core.types import Choice, Traits
from pipelines.models.entry import CatalogEntry
from studio.ui.component_data import Block, Data
from studio.ui.settings_panel import (
    Alterations,
    SettingsPanel,
    build_elem_id,
    build_settings_panel,
)

__all__ = [
    "PLUMBING",
    "MethodControls",
    "build_elem_id",
    "build_method_controls",
]

PLUMBING: Mapping[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Keyword arguments of an event that only moves things about on the page."""


@dataclasses.dataclass(frozen=True)
class MethodControls:
    """Holds the controls of one choice from a table; made by `build_method_controls`.

    Attributes:
        table: the methods.
        method: the dropdown of keys.
        panel: the settings of the chosen method.
    """

    table: Table
    method: gr.Dropdown
    panel: SettingsPanel

    @property
    def fields(self) -> set[Component]:
        """Return every component that holds settings; with `method` these are an event's inputs."""
        return {self.panel.component}

    @property
    def outputs(self) -> set[Block]:
        """Return everything that `updates` may change."""
        return {self.method, *self.panel.outputs}

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
        return {"key": key, **self.panel.read(data, self.table[key].key)}

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
            return {
                self.method: gr.update(choices=[], value=None, visible=False),
                **self.panel.hide(),
            }
        choice_parsed = Choice.parse(choice) if choice is not None else None
        method = self.table[choice_parsed.key] if choice_parsed else methods[0]
        values = choice_parsed.settings if choice_parsed else {}
        if method not in methods:
            method, values = methods[0], {}
        update = gr.update(choices=_list_choices(methods), value=method.key, info=_format_info(method), visible=True)
        return {self.method: update, **self.panel.show(values, method.key)}

    def follow(self) -> None:
        """Have the settings follow the dropdown, once, inside the Blocks: in the browser, whatever changes it."""
        show = f"(key) => stepwise.showMethod({self.panel.component.elem_id!r}, key)"
        self.method.change(None, self.method, self.method, js=show, **PLUMBING)


def build_method_controls(
    table: Table,
    prefix: str,
    *,
    label: str = "",
    choice: object = None,
    traits: Traits | CatalogEntry | None = None,
    altered: Alterations | None = None,
) -> MethodControls:
    """Build a dropdown of a table's methods and the settings that follow it, in the present layout context.

    Args:
        table: SAMPLERS, SCHEDULES, GUIDANCE, ...
        prefix: begins every component's id.
        label: of the dropdown; by default the table's kind.
        choice: chosen at first, as `Choice.parse` reads it; by default the first method that fits.
        traits: of the model chosen at first; None offers every method.
        altered: settings that are shown otherwise than their methods describe them.
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
    panel = build_settings_panel(
        table.kind,
        table.values(),
        build_elem_id(prefix, table.kind),
        initial_method.key,
        initial.settings if methods else None,
        altered,
    )
    controls = MethodControls(table, method, panel)
    controls.follow()
    return controls


def _list_choices(methods: list[Method]) -> list[tuple[str, str]]:
    return [(method.label, method.key) for method in methods]


def _format_info(method: Method) -> str:
    return method.help or " "
