"""Settings that a picture or a link brings: only what this studio, its caps and the chosen model accept."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipelines.core.errors import StepwiseError
from pipelines.core.registry import Table, parse_settings
from pipelines.core.types import Choice, Request, Traits
from studio.infotext import Restored
from studio.ui.form import TABLES

if TYPE_CHECKING:
    from studio.backend import Studio

__all__ = ["accept_restored"]


def accept_restored(restored: Restored, studio: Studio, model: str) -> Restored:
    """Return untrusted settings as far as a Request, the caps, the tables and the model accept them.

    Args:
        restored: what a picture or a link says.
        studio: knows the caps.
        model: key of the model that is chosen.
    """
    limits = studio.limits
    side = (limits.min_side, limits.max_side)
    caps = {"num_inference_steps": (1, limits.max_steps), "batch_size": (1, limits.max_batch)}
    restored = restored.within({**caps, "width": side, "height": side})
    request_values = Request.parse(restored.values).to_json()
    values, notes = {name: request_values[name] for name in restored.values}, list(restored.notes)
    traits = studio.traits(model)
    for name in [name for name in TABLES if name in values]:
        if reason := _explain_refusal(TABLES[name], Choice.parse(values[name]), traits):
            del values[name]
            notes.append(f"The {name} was not loaded. {reason}")
    return dataclasses.replace(restored, values=values, notes=notes)


def _explain_refusal(table: Table, choice: Choice, traits: Traits | None) -> str:
    """Why a picture's method cannot be taken over, as a sentence; empty when it can."""
    try:
        method = table[choice.key]
        parse_settings(method.settings, choice.settings, method.label)
        if traits:
            method.require_fit(traits)
    except StepwiseError as error:
        return str(error)
    return ""
