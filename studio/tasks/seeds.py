"""Random seeds: drawn once, before a request is parsed, so that all that is made from it has the same."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.tasks.base import Task

__all__ = ["draw_omitted_seeds", "draw_seeds", "get_seed"]

_SEEDS = ("seed", "variation_seed")
_SEED_RANGE = 2**32
"""Seeds below this draw different noise: PyTorch's generator of the CPU reads 32 bits."""


def draw_seeds(values: Mapping[str, object]) -> Mapping[str, Any]:
    """Return a request's values with a seed drawn where they say -1 or null, as other programs write a random one."""
    if not isinstance(values, Mapping):
        return values
    is_random = {name: values[name] is None or values[name] == -1 for name in _SEEDS if name in values}
    return {**values, **{name: secrets.randbelow(_SEED_RANGE) for name, wanted in is_random.items() if wanted}}


def draw_omitted_seeds(task: Task, values: Mapping[str, object]) -> Mapping[str, Any]:
    """Return a task's untrusted values with the seeds of its request drawn where they say -1, null or nothing.

    Cells of a comparison and frames of a walk begin from the same noise, so the seed is drawn before they are
    taken apart. A second noise is drawn where there is to be any of it.

    Args:
        task: a request's fields stand where its endpoint puts the prompt; a task without one has no seed.
        values: as they were sent.
    """
    arguments = task.endpoint.arguments if task.endpoint else ()
    places = [argument.place for argument in arguments if argument.name == "prompt"]
    if not places or not isinstance(values, Mapping):
        return values
    way = places[0][:-1]
    return _draw_at(way, values)


def _draw_at(way: tuple[str, ...], values: Mapping[str, object]) -> Mapping[str, Any]:
    if way:
        inner = values.get(way[0])
        return {**values, way[0]: _draw_at(way[1:], inner)} if isinstance(inner, Mapping) else values
    if not any(value != "" for value in values.values()):
        return values  # nothing is said of a request
    omitted = ["seed"] if "seed" not in values else []
    if values.get("variation_strength") and "variation_seed" not in values:
        omitted.append("variation_seed")
    return draw_seeds({**values, **dict.fromkeys(omitted)})


def get_seed(request: object) -> int | None:
    """Return the seed of a task's request; None where it has none."""
    seed = getattr(getattr(request, "base", request), "seed", None)
    return seed if isinstance(seed, int) else None
