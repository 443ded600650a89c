"""Small valid requests for every endpoint and every run button: malformed ones are these with something wrong.

Those of a task are the examples of its endpoint, with every field of a `Request`; a new task needs no line here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.core.errors import StepwiseError
from pipelines.core.types import Choice, Request
from studio.reliability.jobs import encode_mask_picture, encode_source_picture
from studio.reliability.page import PageForm
from studio.reliability.wrong import walk_paths
from studio.results.options import ORDERS
from studio.tasks import TASKS
from studio.tasks.entry import MASK, PICTURE, Endpoint

__all__ = ["OVERRULED", "build_endpoint_requests", "list_fields", "shrink_form"]

FOX = "a fox on a blue background"
_BASE = Request(
    negative_prompt="red",
    prompt_weighting="norm",
    sampler=Choice("ddim", {"eta": 0.5}),
    schedule=Choice("karras", {"rho": 7}),
    guidance=Choice("cfg", {"guidance_scale": 3}),
    reward=Choice("sharpness"),
    num_inference_steps=2,
    width=64,
    height=64,
    seed=7,
    variation_seed=3,
    variation_strength=0.1,
)
_ENDPOINTS = {task.endpoint.name: task.endpoint for task in TASKS.values() if task.endpoint}
_LISTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "gallery": [
        {"search": "fox", "kind": "", "limit": 1, "before": "", "model": "", "favorites": False, "order": order}
        for order in ORDERS
    ],
    "gallery_change": [{"action": action, "ids": ["nobody"]} for action in ("restore", "star")],
    "cancel": [{"job": "nobody"}],
    "models": [{}],
    "models_change": [{"action": "rescan", "model": ""}, {"action": "release", "model": "emoji"}],
}
"""Requests to the endpoints that are no task's."""

_SMALL: Mapping[str, Any] = {
    "steps": 2,
    "cmp_steps": 2,
    "reference_steps": 2,
    "reference": 20,
    "samplers": "ddim",
    "evaluations": "2, 4",
    "settings": {"": {"fitted": 2, "held_out": 2, "teacher_steps": 10}},
    "frames": 3,
    "format": "webp",
    "measure": False,
    "variants": ["int8"],
    "edits": ["image_to_image"],
    "factor": 1.5,
    "inspection_settings": {"word_attention": {"draws": 1}},
}
"""What makes a form's job small, wherever a form has a field of this name and kind of value."""

_ALREADY_SMALL = frozenset({"edit_words"})
"""Forms whose jobs are some evaluations of a finished picture, and whose fields name no number of them."""

OVERRULED: Mapping[str, frozenset[str]] = {
    name: task.endpoint.overrules for key, task in TASKS.items() if task.endpoint for name in (key, task.endpoint.name)
}
"""Key and endpoint of a task to the fields of a request that it sets itself."""


def build_endpoint_requests() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Map each endpoint to right requests, each its arguments by name in their order."""
    of_tasks = {name: [*_build_requests(endpoint)] for name, endpoint in _ENDPOINTS.items()}
    return {**of_tasks, **_LISTS}


def _build_requests(endpoint: Endpoint) -> Iterator[Mapping[str, Any]]:
    files = {PICTURE: encode_source_picture(), MASK: encode_mask_picture()}
    base = {name: value for name, value in _BASE.to_json().items() if name != "prompt"}
    is_request = any(one.place == ("prompt",) for one in endpoint.arguments)
    texts = {one.name: FOX if one.name == "prompt" else files[PICTURE] for one in endpoint.arguments}
    for example in endpoint.examples:
        filled = {name: files.get(value, value) if isinstance(value, str) else value for name, value in example.items()}
        yield {**texts, "settings": {**base, **filled} if is_request else {"base": base, **filled}}


def list_fields(endpoint: str) -> frozenset[str]:
    """List what an endpoint takes, by name: none of it may be left untried."""
    requests = build_endpoint_requests()[endpoint]
    names = {name for request in requests for path in walk_paths(request) for name in path if isinstance(name, str)}
    return frozenset(names) | (_ENDPOINTS[endpoint].unfit if endpoint in _ENDPOINTS else frozenset())


def shrink_form(form: PageForm) -> PageForm:
    """Return a run button's form as the page shows it, but for what makes its job small.

    Raises:
        StepwiseError: the page has no field that does.
    """
    shown = dict(zip(form.names, form.values, strict=True))
    small = {name: value for name, value in _SMALL.items() if name in shown and _is_alike(shown[name], value)}
    if not small and form.tab not in _ALREADY_SMALL:
        raise StepwiseError(
            f"The form of {form.tab} has no field that makes its job small. It has: {', '.join(shown)}."
        )
    return dataclasses.replace(form, values=tuple(form.filled(**small)))


def _is_alike(shown: object, value: object) -> bool:
    """Whether a field shows a value of the same kind: a checkbox may have the name of another form's slider."""
    return isinstance(shown, bool) is isinstance(value, bool)
