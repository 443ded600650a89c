"""What the tests of learned share."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import CLEAN
from pipelines.guidance.cfg import Unguided
from pipelines.learning.cases import Cases
from pipelines.learning.problem import Pictures, Problem
from pipelines.samplers import SAMPLERS
from tests.pipelines.gaussian import MEAN, VARIANCE, CosineSchedule, exact

COSINE = CosineSchedule()


class Smooth:
    """The perfect denoiser of the Gaussian, with its noise estimate differentiable in the time too."""

    prediction_type, max_rows = "epsilon", 0

    def predict_raw(self, latents, timesteps, conditioning):
        angle = (COSINE._low + COSINE._span * timesteps)[:, None, None, None]
        alpha, sigma = angle.cos(), angle.sin()
        return sigma * (latents - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


def problem(key="dpmpp_2m", steps=6, count=8, **settings):
    """A sampler on the Gaussian, whose exact ends are a formula."""

    def pictures(seeds):
        source = NoiseSource(seeds)
        noise = source(torch.empty(len(seeds), 1, 4, 4, dtype=torch.float64))
        levels = [*(COSINE.at(time) for time in np.linspace(1000, 1, 60)), CLEAN]
        path = torch.stack([exact(noise, levels[0], level) for level in levels])
        return Pictures(Cases({"positive": Conditioning()}, noise, tuple(seeds)), path[-1], path, tuple(levels))

    return Problem(
        Smooth(),
        COSINE,
        Unguided(),
        SAMPLERS[key].build(settings),
        steps,
        pictures(range(count)),
        pictures(range(count, 2 * count)),
    )
