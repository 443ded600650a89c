"""What a stored result says of how it was made: our metadata, and the `parameters` text that other programs read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from pipelines.core.registry import parse_settings
from pipelines.core.types import Request, Traits
from pipelines.requests.limits import TABLES
from pipelines.requests.wildcards import escape_wildcards
from studio import __version__, infotext
from studio.jobs.job import Job

__all__ = ["describe_result", "find_typed_prompts", "find_typed_prompts_of_job"]

PROMPTS = ("prompt", "negative_prompt")


def describe_result(
    request: Request,
    label: str,
    traits: Traits | None,
    figures: Mapping[str, object] | None = None,
    unread: Collection[str] = (),
    typed: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], str]:
    """Return a result's metadata, and the same as text; neither claims what the model took no notice of.

    Args:
        request: with the finished picture's own size and seed.
        label: the model's name for people.
        traits: of the model: a method that does not fit it was not used.
        figures: measured in the run.
        unread: further methods that the model took no notice of, by their field.
        typed: the prompts by their field as they were before wildcards were drawn, where any were.

    Returns:
        The metadata and the text. In the metadata's request a prompt's braces and double underscores are escaped, so
        that it is drawn to itself when the request is made again; the text holds the prompts as the model read them.
    """
    dropped = {
        *unread,
        *(name for name, table in TABLES.items() if traits and table[getattr(request, name).key].fit(traits)),
    }
    request_values, complete = (
        {name: value for name, value in one.items() if name not in dropped}
        for one in (request.to_json(), _complete_settings(request))
    )
    request_values |= {name: escape_wildcards(request_values[name]) for name in PROMPTS}
    metadata = {"request": request_values, "figures": dict(figures or {}), "version": __version__}
    if typed:
        metadata["typed"] = dict(typed)
    return metadata, infotext.write(complete, infotext.Labels(model=label, version=f"Stepwise {__version__}"))


def _complete_settings(request: Request) -> dict[str, Any]:
    """The request's JSON with every method setting spelled out, as the infotext wants it."""
    values = request.to_json()
    for name, table in TABLES.items():
        choice = getattr(request, name)
        settings = parse_settings(table[choice.key].settings, choice.settings)
        values[name] = {"key": choice.key, **dataclasses.asdict(settings)}
    return values


def find_typed_prompts(values: Mapping[str, object], request: object) -> dict[str, str]:
    """Find the prompts of untrusted values in which wildcards were drawn for the task's request."""
    base, values = _find_base_request(request, values)
    if base is None or not isinstance(values, Mapping):
        return {}
    texts = {name: values.get(name) for name in PROMPTS}
    return {name: text for name, text in texts.items() if isinstance(text, str) and text != getattr(base, name)}


def find_typed_prompts_of_job(request: Request, job: Job) -> dict[str, str]:
    """Find what a job's prompts were before they were drawn, as far as this picture has the job's own prompts."""
    base, _ = _find_base_request(job.request, {})
    if base is None:
        return {}
    return {name: text for name, text in job.typed.items() if getattr(request, name) == getattr(base, name)}


def _find_base_request(request: object, values: Any) -> tuple[Request | None, Any]:
    """The text-to-image request in a task's, and the values that it was read from."""
    if isinstance(request, Request):
        return request, values
    base = getattr(request, "base", None)  # of any task, or none
    return (base, values.get("base")) if isinstance(base, Request) else (None, values)
