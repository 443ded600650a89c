"""A model that diffusers runs whole is refused before a job is queued, by every task that takes the steps itself."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from pipelines.core.errors import MethodFitError, SettingsError
from pipelines.models.catalog import shipped_motion
from studio.tasks import TASKS
from studio.tasks.own_loop import require_own_loop

MOTION = shipped_motion().key


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("quantize", {"base": {"prompt": "a fox"}, "variants": ["int8"]}),
        ("convergence", {"base": {"prompt": "a fox"}, "samplers": ["euler"]}),
        ("learn", {"base": {"prompt": "a fox"}}),
        ("inspect", {"base": {"prompt": "a fox"}, "inspection": "smoothness"}),
        ("upscale", {"base": {"prompt": "a fox"}, "strength": 0.5}),
        ("edit", {"base": {"prompt": "a fox"}, "edit": "image_to_image"}),
        ("compare_edits", {"base": {"prompt": "a fox"}}),
    ],
)
def test_it_is_refused_before_it_queues(studio, task, values):
    if task in ("upscale", "edit", "compare_edits"):
        Image.new("RGB", (64, 64), "red").save(file := io.BytesIO(), "PNG")
        values = {**values, "picture": base64.b64encode(file.getvalue()).decode()}
    with pytest.raises(SettingsError, match="own pipeline only"):
        TASKS[task].parse({**values, "base": {**values["base"], "model": MOTION}}, studio)


def test_it_is_refused_once_it_is_loaded_where_nothing_was_known_before(studio):
    with pytest.raises(MethodFitError, match="own pipeline only: why"):
        require_own_loop(object(), ": why")
    with studio.loader.model("emoji") as family:
        assert require_own_loop(family, "") is family
