"""Small valid requests for every endpoint and every run button: malformed ones are these with something wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.types import Request
from pipelines.learning.request import LearnRequest
from pipelines.workflows.compare.request import ComparisonRequest
from pipelines.workflows.convergence import ConvergenceRequest
from pipelines.workflows.edit.request import EditRequest
from pipelines.workflows.inspect import InspectRequest
from pipelines.workflows.quantize import QuantizationRequest
from pipelines.workflows.upscale import UpscaleRequest
from pipelines.workflows.video.request import VideoRequest
from studio.reliability.jobs import encode_mask_picture, encode_source_picture
from studio.reliability.page import PageForm
from studio.results.options import ORDERS

__all__ = ["FIELDS", "build_endpoint_requests", "shrink_form"]

FOX = "a fox on a blue background"
BASE: Mapping[str, Any] = {
    "model": "emoji",
    "negative_prompt": "red",
    "prompt_weighting": "norm",
    "sampler": {"key": "ddim", "eta": 0.5},
    "schedule": {"key": "karras", "rho": 7},
    "guidance": {"key": "cfg", "guidance_scale": 3},
    "start": "noise",
    "made_like": "here",
    "second_pass": "none",
    "cache": "none",
    "search": "none",
    "reward": "sharpness",
    "vae": "own",
    "control": "none",
    "image_prompt": "none",
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
    "live": {"steps": 1},
    "inspect": {"inspection_word_attention_draws": 1},
    "compare": {"steps": 2, "reference_steps": 2},
    "convergence": {"samplers": "ddim", "evaluations": "2, 4", "reference": 20},
    "learn": {"cmp_steps": 2, "fitted": 2, "held_out": 2, "teacher_steps": 10},
    "edit": {"steps": 2},
    "animate": {"steps": 1, "frames": 3, "format": "webp"},
    "quantize": {"steps": 1, "measure": False, "variants": ["int8"]},
    "upscale": {"factor": 1.5},
}
"""Of a run button's form, what makes its job small."""


def _list_fields(kind: type, *names: str) -> frozenset[str]:
    return frozenset({*(field.name for field in dataclasses.fields(kind)), *names}) - {"notes"}


_OF_A_REQUEST = _list_fields(Request)
FIELDS: Mapping[str, frozenset[str]] = {
    "generate": _OF_A_REQUEST,
    "compare": _OF_A_REQUEST | _list_fields(ComparisonRequest),
    "convergence": _OF_A_REQUEST | _list_fields(ConvergenceRequest),
    "edit": _OF_A_REQUEST | _list_fields(EditRequest),
    "upscale": _OF_A_REQUEST | _list_fields(UpscaleRequest) - {"described"},
    "inspect": _OF_A_REQUEST | _list_fields(InspectRequest),
    "animate": _OF_A_REQUEST | _list_fields(VideoRequest),
    "quantize": _OF_A_REQUEST | _list_fields(QuantizationRequest),
    "learn": _list_fields(
        LearnRequest, "model", "sampler", "guidance", "num_inference_steps", "negative_prompt", *_FITTED
    ),
    "gallery": frozenset({"search", "kind", "limit", "before", "model", "favorites", "order"}),
    "gallery_change": frozenset({"action", "ids"}),
    "cancel": frozenset({"job"}),
    "models": frozenset(),
    "models_change": frozenset({"action", "model"}),
}
"""Endpoint to what its task takes, by name: none of it may be left untried."""


def build_endpoint_requests() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Map each endpoint to right requests, each its arguments by name in their order."""
    picture, mask = encode_source_picture(), encode_mask_picture()
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
        "upscale": [
            {"prompt": FOX, "picture": picture, "settings": {"base": BASE, "factor": 2, "strength": 0.5}},
            {"prompt": "", "picture": picture, "settings": {"upscaler": "lanczos", "factor": 1.5}},
        ],
        "inspect": [
            {
                "prompt": FOX,
                "settings": {
                    "base": BASE,
                    "inspection": {"key": "word_attention", "draws": 1},
                    "picture": picture,
                },
            },
            {"prompt": FOX, "settings": {"base": BASE, "inspection": {"key": "seed_shift", "points": 3}}},
        ],
        "animate": [{"prompt": FOX, "settings": {**clip, "keys": [{"prompt": "a cat", "seed": 8}]}}],
        "quantize": [
            {
                "prompt": FOX,
                "settings": {"base": BASE, "variants": ["int8"], "measure": False, "peak": False, "keep": False},
            }
        ],
        "learn": [{"settings": fit}],
        "gallery": [
            {"search": "fox", "kind": "", "limit": 1, "before": "", "model": "", "favorites": False, "order": order}
            for order in ORDERS
        ],
        "gallery_change": [{"action": action, "ids": ["nobody"]} for action in ("restore", "star")],
        "cancel": [{"job": "nobody"}],
        "models": [{}],
        "models_change": [{"action": "rescan", "model": ""}, {"action": "release", "model": "emoji"}],
    }


def shrink_form(form: PageForm) -> PageForm:
    """Return a run button's form as the page shows it, but for what makes its job small.

    Raises:
        StepwiseError: the page has no such field.
    """
    return dataclasses.replace(form, values=tuple(form.filled(**_PAGE.get(form.tab, {}))))
