"""Convergence on a mixture of two Gaussians, in float64, where the estimate of x0 is curved in x.

The exact solution is an integrator's with a tolerance of 1e-12."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from pipelines.benchmarks.orders import CosineSchedule, falls, grid
from pipelines.core.denoiser import Denoiser
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.guidance.cfg import Unguided
from pipelines.samplers import SAMPLERS

MEANS, WEIGHTS, VARIANCE = (-1.0, 1.2), (0.35, 0.65), 0.09
START = torch.tensor([-1.9, -1.1, -0.4, 0.15, 0.5, 0.9, 1.3, 1.8, 2.2], dtype=torch.float64).reshape(1, 1, 3, 3)
SCHEDULE = CosineSchedule()


def estimate(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """E[x0 | x], by Bayes' rule."""
    spread = alpha**2 * VARIANCE + sigma**2
    logs = np.stack([np.log(w) - (x - alpha * m) ** 2 / (2 * spread) for w, m in zip(WEIGHTS, MEANS, strict=True)])
    shares = np.exp(logs - logs.max(axis=0))
    shares = shares / shares.sum(axis=0)
    means = np.stack([m + VARIANCE * alpha * (x - alpha * m) / spread for m in MEANS])
    return (shares * means).sum(axis=0)


class MixtureNetwork:
    """The perfect denoiser of the mixture."""

    prediction_type = "sample"
    max_rows = 0
    rows_together = 1

    def predict_raw(self, latents, timesteps, conditioning):
        level = SCHEDULE.at(timesteps[0].item())
        return torch.from_numpy(estimate(latents.numpy(), level.alpha, level.sigma))


def exact(levels) -> torch.Tensor:
    """The probability-flow ODE dy/ds = eps in y = x / alpha, s = sigma / alpha."""
    first, last = levels[0], levels[-1]

    def slope(s, y):
        alpha = 1 / np.sqrt(1 + s**2)
        x = alpha * y
        return (x - alpha * estimate(x, alpha, alpha * s)) / (alpha * s)

    begin = START.numpy().ravel() / first.alpha
    span = (first.sigma_ve, last.sigma_ve)
    solved = solve_ivp(slope, span, begin, method="DOP853", rtol=1e-12, atol=1e-13)
    return torch.from_numpy(last.alpha * solved.y[:, -1]).reshape(START.shape)


def measured_order(key: str, settings: dict, counts: tuple[int, int]) -> float:
    errors = []
    for count in counts:
        levels = grid(SCHEDULE, count, high=850, low=250)
        denoiser = Denoiser(MixtureNetwork(), Unguided(), {"positive": Conditioning()})
        run = Run(denoiser, SAMPLERS[key].build(settings), levels, START, NoiseSource([0]), SCHEDULE)
        *_, last = denoise(run)
        errors.append(float((last.latents - exact(levels)).norm()))
    return falls(errors)[0]


@pytest.mark.parametrize(
    ("key", "settings", "order", "counts"),
    [
        ("ddim", {}, 1, (160, 320)),
        ("dpmpp_2m", {}, 2, (160, 320)),
        ("dpmpp_2s", {}, 2, (160, 320)),
        ("heun", {}, 2, (160, 320)),
        ("dpm2", {}, 2, (160, 320)),
        ("deis", {"order": 2}, 2, (160, 320)),
        ("lms", {"order": 2}, 2, (160, 320)),
        ("pndm", {}, 2, (160, 320)),
        ("unipc", {"order": 1, "lower_order_final": False}, 2, (160, 320)),
        (
            "sa_solver",
            {"tau": 0.0, "predictor_order": 2, "corrector_order": 0, "lower_order_final": False},
            2,
            (160, 320),
        ),
    ],
)
def test_the_order_on_a_mixture_is_that_on_a_gaussian(key, settings, order, counts):
    measured = measured_order(key, settings, counts)
    assert measured == pytest.approx(order, abs=0.25), measured
