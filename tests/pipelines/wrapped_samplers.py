"""What the tests of samplers_wrapped share."""

from __future__ import annotations

from pipelines.samplers import SAMPLERS
from tests.pipelines.gaussian import CosineSchedule, grid, last_of, run_of


def result(key, settings, levels=None, latents=None, form="epsilon"):
    levels = levels or grid(CosineSchedule(), 9, clean=True)
    return last_of(run_of(SAMPLERS[key].build(settings), levels, CosineSchedule(), latents, prediction_type=form))
