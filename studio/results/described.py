"""What a stored result says of how it was made: our metadata, and the `parameters` text that other programs read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from pipelines.core.registry import parse_settings
from pipelines.core.types import Request, Traits
from pipelines.requests.limits import TABLES
from studio import __version__, infotext

__all__ = ["described"]


def described(
    request: Request,
    label: str,
    traits: Traits | None,
    figures: Mapping[str, Any] | None = None,
    unread: Collection[str] = (),
) -> tuple[dict[str, Any], str]:
    """A result's metadata, and the same as text; neither claims what the model took no notice of.

    Args:
        request: with the finished picture's own size and seed.
        label: the model's name for people.
        traits: of the model: a method that does not fit it was not used.
        figures: measured in the run.
        unread: further methods that the model took no notice of, by their field.
    """
    left = {
        *unread,
        *(name for name, table in TABLES.items() if traits and table[getattr(request, name).key].fit(traits)),
    }
    plain, complete = (
        {name: value for name, value in one.items() if name not in left}
        for one in (request.to_json(), _complete(request))
    )
    metadata = {"request": plain, "figures": dict(figures or {}), "version": __version__}
    return metadata, infotext.write(complete, infotext.Labels(model=label, version=f"Stepwise {__version__}"))


def _complete(request: Request) -> dict[str, Any]:
    """The request's JSON with every method setting spelled out, as the infotext wants it."""
    plain = request.to_json()
    for name, table in TABLES.items():
        choice = getattr(request, name)
        settings = parse_settings(table[choice.key].settings, choice.settings)
        plain[name] = {"key": choice.key, **dataclasses.asdict(settings)}
    return plain
