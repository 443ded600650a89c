"""Choosing a whole family of samplers at once, for a comparison's cells."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from pipelines.core.types import Traits
from pipelines.samplers import SAMPLERS
from pipelines.workflows.compare.request import FEW
from studio.page.compare.cells import FEWEST, Rows, build_family_cells
from studio.ui.controls import build_elem_id

__all__ = ["NONE", "build_family_axis", "build_family_picker", "build_family_rows", "list_families"]

NONE = ""


def list_families(traits: Traits | None) -> list[tuple[str, str]]:
    """List (label, name) of each family of which at least two samplers fit a model, with their number; first, of
    none."""
    fitting = {name: _list_fitting(name, traits) for name in SAMPLERS.groups}
    choices = [(f"All {name} ({len(keys)})", name) for name, keys in fitting.items() if len(keys) >= FEWEST]
    return [("Choose a family", NONE), *choices]


def build_family_rows(name: str, traits: Traits | None) -> Rows | None:
    """Build the family's samplers as cells; None if they are more than a comparison has cells."""
    keys = _list_fitting(name, traits)
    return build_family_cells(keys) if len(keys) <= FEW else None


def build_family_axis(name: str) -> Mapping[str, list[str]]:
    """Build the family's samplers as a grid's columns, and no rows."""
    return {"x": ["sampler", f"all {name}"], "y": [NONE, ""]}


def build_family_picker(prefix: str, traits: Traits | None) -> gr.Dropdown:
    """Build the dropdown, which is a button in disguise: choosing a family fills the cells."""
    return gr.Dropdown(
        list_families(traits),
        value=NONE,
        label="Sampler family",
        filterable=False,
        info="Fills the cells with all samplers of a family, at equal evaluations.",
        elem_id=build_elem_id(prefix, "family"),
    )


def _list_fitting(name: str, traits: object) -> list[str]:
    return [method.key for method in SAMPLERS.group(name) if not (traits and method.fit(traits))]
