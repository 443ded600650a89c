"""What the tests of edits share."""

from __future__ import annotations

import numpy as np

from pipelines.core.loop import denoise
from pipelines.core.types import Choice, Request, Trajectory
from pipelines.edits import EDITS
from pipelines.requests.text_to_image import resolve
from pipelines.workflows.edit.canvas import canvas_of
from pipelines.workflows.edit.request import EditRequest, Picture
from pipelines.workflows.edit.runs import Editing

WORDS = {
    "replace": {},
    "refine": {"blend": "fox, cat"},
    "reweight": {"words": "cat=2"},
    "move": {"right": 0.25, "strength": 1.0},
    "dragon": {"right": 0.25},
    "ledits": {"concepts": "cat=6@0.5, -fox"},
    "dream_sampler": {"scale": 1.0},
    "time": {"concept": "cat", "destination": "green cat"},
    "style_tracking": {"strength": 1.0},
    "style_aligned": {"strength": 1.0},
}
BASE = Request(
    prompt="a red cat",
    negative_prompt="blurry",
    num_inference_steps=4,
    width=32,
    height=32,
    seed=3,
    guidance=Choice("cfg", {"guidance_scale": 4.0}),
)
REFERENCE = Picture(np.random.default_rng(7).integers(0, 90, (24, 40, 3), np.uint8))
"""Darker than the pictures that are edited, and of another size."""


def request_of(picture, edit, mask=None, source="a red fox", inversion="direct", **changes):
    edit = edit if isinstance(edit, Choice) else Choice(edit, WORDS.get(edit, {}))
    takes = edit.key in EDITS and EDITS.build(edit).takes_reference
    base = BASE.replace(**changes)
    return EditRequest(
        base, picture, mask, source, Choice.parse(inversion), edit, reference=REFERENCE if takes else None
    )


def edited(family, request, cancelled=lambda: False):
    """The editing, its trajectory or None, and the steps of the way down."""
    canvas = canvas_of(request, (request.base.width, request.base.height))
    request = request.replace(base=request.base.replace(width=canvas.size[0], height=canvas.size[1]))
    editing = Editing(request, resolve(request.base, family), family, canvas, cancelled)
    trajectory = None
    if editing.edit.inverts:
        up = editing.inversion_run()
        trajectory = Trajectory(up.latents, tuple(denoise(up)))
    with editing.run(trajectory) as run:
        return editing, trajectory, list(denoise(run))
