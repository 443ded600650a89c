"""Right requests for every endpoint and every run button, small ones: malformed requests are these with something wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.types import Request
from pipelines.learning.fitting import LearnRequest
from pipelines.workflows.compare.request import ComparisonRequest
from pipelines.workflows.convergence import ConvergenceRequest
from pipelines.workflows.edit.request import EditRequest
from pipelines.workflows.quantize import QuantizationRequest
from pipelines.workflows.video.request import VideoRequest
from studio.reliability.jobs import mask_picture, source_picture
from studio.reliability.page import PageForm

__all__ = ["FIELDS", "endpoint_requests", "small_form"]

FOX = "a fox on a blue background"
BASE: Mapping[str, Any] = {
    "model": "emoji",
    "negative_prompt": "red",
    "sampler": {"key": "ddim", "eta": 0.5},
    "schedule": {"key": "karras", "rho": 7},
    "guidance": {"key": "cfg", "guidance_scale": 3},
    "start": "noise",
    "num_inference_steps": 2,
    "width": 64,
    "height": 64,
    "seed": 7,
    "variation_seed": 3,
    "variation_strength": 0.1,
    "batch_size": 1,
    "loras": [],
}
_CELLS = {"cells": [{"sampler": "heun"}, {"guidance.guidance_scale": 2}]}
_AXES = {"x": {"field": "num_inference_steps", "values": "1, 2"}, "y": {"field": "sampler", "values": ["ddim", "heun"]}}
_COMPARED = {"equal": "steps", "reference": True, "reference_steps": 2}
_FITTED = {"fitted": 2, "held_out": 2, "teacher_steps": 10, "seed": 0}
_PAGE: Mapping[str, Mapping[str, Any]] = {
    "text_to_image": {"steps": 2},
    "compare": {"steps": 2, "reference_steps": 2},
    "convergence": {"samplers": "ddim", "evaluations": "2, 4", "reference": 20},
    "learn": {"cmp_steps": 2, "fitted": 2, "held_out": 2, "teacher_steps": 10},
    "edit": {"steps": 2},
    "animate": {"steps": 1, "frames": 3, "format": "webp"},
    "quantize": {"steps": 1, "measure": False, "variants": ["int8"]},
}
"""Of a run button's form, what makes its job small."""


def _fields(kind: type, *more: str) -> frozenset[str]:
    return frozenset({*(field.name for field in dataclasses.fields(kind)), *more}) - {"notes"}


_OF_A_REQUEST = _fields(Request)
FIELDS: Mapping[str, frozenset[str]] = {
    "generate": _OF_A_REQUEST,
    "compare": _OF_A_REQUEST | _fields(ComparisonRequest),
    "convergence": _OF_A_REQUEST | _fields(ConvergenceRequest),
    "edit": _OF_A_REQUEST | _fields(EditRequest),
    "animate": _OF_A_REQUEST | _fields(VideoRequest),
    "quantize": _OF_A_REQUEST | _fields(QuantizationRequest),
    "learn": _fields(LearnRequest, "model", "sampler", "guidance", "num_inference_steps", "negative_prompt", *_FITTED),
    "gallery": frozenset({"search", "kind", "limit", "before"}),
    "gallery_change": frozenset({"action", "ids"}),
    "cancel": frozenset({"job"}),
    "models": frozenset(),
    "models_change": frozenset({"action", "model"}),
}
"""Endpoint to what its task takes, by name: none of it may be left untried."""


def endpoint_requests() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Endpoint to right requests, each its arguments by name in their order."""
    picture, mask = source_picture(), mask_picture()
    learner = {"key": "bespoke", "tries": 0}
    fit = {"base": {**BASE, "sampler": "dpmpp_2m"}, "learner": learner, "pictures": _FITTED, "prompts": [FOX]}
    edit = {"base": BASE, "source_prompt": FOX, "inversion": "direct", "fit": "crop"}
    clip = {"base": BASE, "frames": 3, "fps": 12, "format": "webp", "method": {"key": "walk"}}
    return {
        "generate": [{"prompt": FOX, "settings": BASE}],
        "compare": [{"prompt": FOX, "settings": {"base": BASE, **_COMPARED, **differs}} for differs in (_CELLS, _AXES)],
        "convergence": [
            {
                "prompt": FOX,
                "settings": {"base": BASE, "samplers": ["ddim"], "evaluations": [2, 4], "reference_steps": 20},
            }
        ],
        "edit": [
            {"prompt": FOX, "picture": picture, "settings": {**edit, "edit": {"key": "inpaint"}, "mask": mask}},
            {"prompt": FOX, "picture": picture, "settings": {**edit, "edit": {"key": "replace"}}},
            {"prompt": FOX, "picture": picture, "settings": {**edit, "edit": {"key": "outpaint", "left": 8}}},
        ],
        "animate": [{"prompt": FOX, "settings": {**clip, "keys": [{"prompt": "a cat", "seed": 8}]}}],
        "quantize": [
            {
                "prompt": FOX,
                "settings": {"base": BASE, "variants": ["int8"], "measure": False, "peak": False, "keep": False},
            }
        ],
        "learn": [{"settings": fit}],
        "gallery": [{"search": "fox", "kind": "", "limit": 1, "before": ""}],
        "gallery_change": [{"action": "restore", "ids": ["nobody"]}],
        "cancel": [{"job": "nobody"}],
        "models": [{}],
        "models_change": [{"action": "rescan", "model": ""}, {"action": "release", "model": "emoji"}],
    }


def small_form(form: PageForm) -> PageForm:
    """A run button's form as the page shows it, but for what makes its job small.

    Raises:
        StepwiseError: the page has no such field.
    """
    return dataclasses.replace(form, values=tuple(form.filled(**_PAGE.get(form.tab, {}))))
