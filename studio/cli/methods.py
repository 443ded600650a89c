"""`python -m studio methods`: the tables of methods as Markdown, or one kind's keys and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipelines.core.errors import UnknownMethodError
from pipelines.core.registry import Table

__all__ = ["build_method_tables", "list_keys"]

_FLAGS = {"made_like": "program"}
"""Flags of the command line whose tables are called otherwise."""


def _collect_tables() -> tuple[Table[Any], ...]:
    from pipelines.autoencoders import VAES
    from pipelines.caches import CACHES
    from pipelines.compatibility import COMPATIBILITIES
    from pipelines.controls import CONTROLS, ENSEMBLES, IMAGE_PROMPTS, SLIDERS, T2I_ADAPTERS
    from pipelines.edits import EDITS
    from pipelines.guidance import GUIDANCE
    from pipelines.initializations import INITIALIZATIONS
    from pipelines.inspection import INSPECTIONS
    from pipelines.inversions import INVERSIONS
    from pipelines.quantizers import QUANTIZERS
    from pipelines.rewards import REWARDS
    from pipelines.samplers import SAMPLERS
    from pipelines.schedules import SCHEDULES
    from pipelines.search import SEARCHES
    from pipelines.second_passes import SECOND_PASSES
    from pipelines.stories import STORIES
    from pipelines.workflows.video import VIDEOS

    return (
        SAMPLERS,
        SCHEDULES,
        INITIALIZATIONS,
        COMPATIBILITIES,
        GUIDANCE,
        CACHES,
        SEARCHES,
        REWARDS,
        SECOND_PASSES,
        VAES,
        CONTROLS,
        T2I_ADAPTERS,
        IMAGE_PROMPTS,
        ENSEMBLES,
        SLIDERS,
        STORIES,
        INVERSIONS,
        EDITS,
        VIDEOS,
        QUANTIZERS,
        INSPECTIONS,
    )


def list_keys(kind: str) -> list[str]:
    """List the keys of one kind of method, each with what it is for and its settings.

    Args:
        kind: as its flag is called, e.g. "cache" or "second-pass".

    Raises:
        UnknownMethodError: there is no such kind.
    """
    tables = {table.kind.replace(" ", "_").lower(): table for table in _collect_tables()}
    names = {name for name in tables if name not in _FLAGS.values()} | set(_FLAGS)
    name = kind.lstrip("-").replace("-", "_").replace(" ", "_").lower()
    if _FLAGS.get(name, name) not in tables:
        raise UnknownMethodError("kind of method", kind, sorted(names))
    lines = []
    for method in tables[_FLAGS.get(name, name)].values():
        lines.append(f"{method.key}: {method.label}. {method.help}")
        lines += [
            f"    {field.name}={field.default} {_describe(field.metadata)}"
            for field in dataclasses.fields(method.settings)
        ]
    return lines


def _describe(metadata: Mapping[str, Any]) -> str:
    """A setting's range or choices, and its help."""
    span = (
        f"({metadata['low']:g} to {metadata['high']:g}) " if metadata["low"] is not None is not metadata["high"] else ""
    )
    span = f"({', '.join(map(str, metadata['choices']))}) " if metadata["choices"] else span
    return f"{span}{metadata['help']}"


def build_method_tables() -> str:
    """Build the tables of methods as Markdown, for docs/methods.md."""
    from pipelines.samplers import SAMPLERS

    parts = []
    for table in _collect_tables():
        parts += [f"| {table.kind} | key | what it is for | source |", "| --- | --- | --- | --- |"]
        parts += [f"| {one.label} | `{one.key}` | {one.help} | {one.paper} |" for one in table.values()]
        parts += ["", *build_order_rows(), ""] if table is SAMPLERS else [""]
    return "\n".join(parts).rstrip()


def build_order_rows() -> list[str]:
    """Build the Markdown table of the deterministic samplers' orders of convergence, in theory and as measured."""
    from pipelines.benchmarks.orders import ORDERS, formula_order, whole_run_order
    from pipelines.samplers import SAMPLERS

    parts = [
        "| deterministic sampler | settings | order in theory | of the formula, measured | of a whole run, measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, rows in ORDERS.items():
        for order in rows:
            settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in order.settings.items()) or "–"
            parts.append(
                f"| {SAMPLERS[key].label} | {settings} | {order.theory} | {formula_order(key, order):.2f} "
                f"| {whole_run_order(key, order):.2f} |"
            )
    return parts
