"""Choosing a whole family of samplers at once, for a comparison's cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from pipelines.core.types import Traits
from pipelines.samplers import SAMPLERS
from pipelines.workflows.compare.request import FEW
from studio.page.compare.cells import FEWEST, Rows, family_cells
from studio.ui.controls import elem_id

__all__ = ["NONE", "families", "family_axis", "family_picker", "family_rows"]

NONE = ""


def families(traits: Traits | None) -> list[tuple[str, str]]:
    """(label, name) of each family of which at least two samplers fit a model, with their number; first, of none."""
    fitting = {name: _fitting(name, traits) for name in SAMPLERS.groups}
    offered = [(f"All {name} ({len(keys)})", name) for name, keys in fitting.items() if len(keys) >= FEWEST]
    return [("Choose a family", NONE), *offered]


def family_rows(name: str, traits: Traits | None) -> Rows | None:
    """The family's samplers as cells; None if they are more than a comparison has cells."""
    keys = _fitting(name, traits)
    return family_cells(keys) if len(keys) <= FEW else None


def family_axis(name: str) -> Mapping[str, list[str]]:
    """The family's samplers as a grid's columns, and no rows."""
    return {"x": ["sampler", f"all {name}"], "y": [NONE, ""]}


def family_picker(prefix: str, traits: Traits | None) -> gr.Dropdown:
    """The dropdown, which is a button in disguise: choosing a family fills the cells."""
    return gr.Dropdown(
        families(traits),
        value=NONE,
        label="A whole family of samplers",
        filterable=False,
        info="Fills the cells, at equal evaluations.",
        elem_id=elem_id(prefix, "family"),
    )


def _fitting(name: str, traits: Any) -> list[str]:
    return [method.key for method in SAMPLERS.group(name) if not (traits and method.fit(traits))]
