"""Samplers whose formulas differ in other programs from ours, in y = x / alpha and sigma / alpha."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from pipelines.core.prediction import Query
from pipelines.core.sampler import Past, PastNoise, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.samplers.dpmpp import exponential_step
from pipelines.samplers.exponential_adams import adams_step, fresh_std, with_fresh_noise
from pipelines.samplers.integral_weights import integral_weights
from pipelines.samplers.pndm import Pndm, adams_weights

__all__ = [
    "ComfyDeis",
    "EqualAdams",
    "HalvedDpm3MSde",
    "PeerSaSolver",
    "PlainLcm",
    "Plms",
    "SigmaAdams",
    "UnequalAdams",
]


class SigmaAdams:
    """A linear multistep method in sigma / alpha whose step to no noise takes the estimate of x0 itself.

    Args:
        order: most estimates used.
        finishes: whether the last step takes x0_hat; without it, it is our LMS.

    Source: ComfyUI 0.3.64, `sample_lms`.
    """

    def __init__(self, order: int = 4, finishes: bool = True):
        self.order, self.finishes = order, finishes

    def weights(self, history: Sequence[PastNoise], next_level: Level) -> list[float]:
        """Find the factors of the estimates in y' - y."""
        newest = history[0].level.sigma_ve
        nodes = [past.level.sigma_ve - newest for past in history]
        return integral_weights(nodes, next_level.sigma_ve - newest)

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction = yield Query(state.latents, level)
        history = (PastNoise(level, prediction.noise), *state.memory)[: self.order]
        if self.finishes and next_level.sigma == 0:
            return State(prediction.denoised, prediction.denoised, memory=history)
        scaled = state.latents / level.alpha
        for weight, past in zip(self.weights(history, next_level), history, strict=True):
            scaled = scaled + weight * past.noise
        return State(next_level.alpha * scaled, prediction.denoised, memory=history)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class EqualAdams(SigmaAdams):
    """iPNDM in sigma / alpha with the weights of equal distances at any distances.

    Source: ComfyUI 0.3.64, `sample_ipndm`; Zhang & Chen, arXiv:2204.13902, appendix (iPNDM).
    """

    def weights(self, history: Sequence[PastNoise], next_level: Level) -> list[float]:
        width = next_level.sigma_ve - history[0].level.sigma_ve
        return [width * weight for weight in adams_weights(len(history))]


class UnequalAdams(SigmaAdams):
    """iPNDM in sigma / alpha with weights of the real distances, from the third order on not Adams-Bashforth's.

    Source: Zhou et al., diff-sampler, `ipndm_v`, as ComfyUI 0.3.64 has it (`sample_ipndm_v`).
    """

    def weights(self, history: Sequence[PastNoise], next_level: Level) -> list[float]:
        sigmas = [next_level.sigma_ve, *(past.level.sigma_ve for past in history)]
        h, *past = [newer - older for newer, older in itertools.pairwise(sigmas)]
        if not past:
            return [h]
        half = h / past[0] / 2
        weights = [1 + half, -half, 0.0, 0.0]
        if len(past) > 1:
            first, second = past[:2]
            ratio = first / second
            bend = (1 - h**2 / (3 * first * (first + second))) / 2
            weights = [one + bend * by for one, by in zip(weights, (1, -1 - ratio, ratio, 0), strict=True)]
        if len(past) > 2:
            third = past[2]
            share = first * (first + second) / (second * (second + third))
            two, three = h + first, h + first + second
            bend = (1 - h / (3 * two)) / 2 + (1 - h / (2 * two)) * h / (6 * three)
            bend *= h * two * three / (first * (first + second) * (first + second + third))
            factors = (1, -1 - ratio - share, ratio + share * (1 + second / third), -share * ratio)
            weights = [one + bend * by for one, by in zip(weights, factors, strict=True)]
        return [h * weight for weight in weights[: len(history)]]


class ComfyDeis(SigmaAdams):
    """tAB-DEIS in the time of a variance-preserving schedule between sigma 0.002 and 80, whatever the model's own.

    Source: Zhang & Chen, DEIS, arXiv:2204.13902; ComfyUI 0.3.64, `sample_deis`, which integrates over 10,000 points as
    a sum of rectangles; so does this.
    """

    _first, _low, _high, _points = 1e-3, 0.002, 80.0, 10_000

    def __init__(self, order: int = 3):
        super().__init__(order)
        low, high = (math.log(sigma**2 + 1) for sigma in (self._low, self._high))
        self.slope = 2 * (low / self._first - high) / (self._first - 1)
        self.start = high - 0.5 * self.slope

    def time(self, sigma: float) -> float:
        """Find the schedule's time of a sigma / alpha."""
        return (math.sqrt(self.start**2 + 2 * self.slope * math.log(sigma**2 + 1)) - self.start) / self.slope

    def weights(self, history: Sequence[PastNoise], next_level: Level) -> list[float]:
        if len(history) == 1:
            return [next_level.sigma_ve - history[0].level.sigma_ve]
        times = [self.time(past.level.sigma_ve) for past in history]
        end = self.time(next_level.sigma_ve)
        taus = np.linspace(times[0], end, self._points)
        alphas = np.exp(-0.5 * taus**2 * self.slope - taus * self.start)
        integrand = 0.5 * (taus * self.slope + self.start) / np.sqrt(alphas * (1 - alphas))
        width = (end - times[0]) / self._points
        return [float((integrand * _lagrange(times, j, taus)).sum() * width) for j in range(len(times))]


def _lagrange(nodes: Sequence[float], index: int, at: np.ndarray) -> np.ndarray:
    value = np.ones_like(at)
    for other, node in enumerate(nodes):
        if other != index:
            value = value * (at - node) / (nodes[index] - node)
    return value


class HalvedDpm3MSde:
    """SDE-DPM-Solver++(3M) with a divided difference in the place of the second derivative.

    Source: k-diffusion, `sample_dpmpp_3m_sde`, which ComfyUI and A1111 run.
    """

    def __init__(self, eta: float = 1.0):
        self.eta = eta

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        history = (Past(level, denoised), *state.history)[:3]
        if next_level.sigma == 0:
            return State(denoised, denoised, history)
        mean = exponential_step(state.latents, level, next_level, denoised, self.eta)
        if len(history) > 1:
            mean = mean + next_level.alpha * self._correction(history, next_level.lam - level.lam)
        fresh = with_fresh_noise(mean, fresh_std(level, next_level, self.eta), context, (level, next_level))
        return State(fresh, denoised, history)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps

    def _correction(self, history: Sequence[Past], h: float) -> torch.Tensor:
        ratios = [(newer.level.lam - older.level.lam) / h for newer, older in itertools.pairwise(history)]
        slopes = [
            (newer.denoised - older.denoised) / ratio
            for newer, older, ratio in zip(history, history[1:], ratios, strict=False)
        ]
        rate = h * (1 + self.eta)
        second = math.expm1(-rate) / rate + 1
        if len(slopes) == 1:
            return second * slopes[0]
        difference = (slopes[0] - slopes[1]) / (ratios[0] + ratios[1])
        third = second / rate - 0.5
        return second * (slopes[0] + difference * ratios[0]) - third * difference


@dataclasses.dataclass(frozen=True)
class PlainLcm:
    """LCM without the boundary conditions of its weights: the estimate of x0, and fresh noise.

    Source: k-diffusion's form in ComfyUI 0.3.64 and A1111, `sample_lcm`.
    """

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        return State(with_fresh_noise(next_level.alpha * denoised, next_level.sigma, context), denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


@dataclasses.dataclass(frozen=True)
class _Stride:
    """The last step, as the corrector needs it: from `latents` at `level`, with the noise it drew."""

    latents: torch.Tensor
    level: Level
    eta: float
    fresh: torch.Tensor | float


class PeerSaSolver:
    """SA-Solver with a predictor of 3 and a corrector of 4 estimates, and fresh noise in the middle of the run.

    The predictor lowers its order a step earlier than ours, the last step takes the estimate of x0, and no corrector
    runs before it.

    Args:
        noisy: the highest and the least sigma / alpha between which a step ends with fresh noise.

    Source: ComfyUI 0.3.64, `sample_sa_solver`; Xue et al., SA-Solver, arXiv:2309.05019.
    """

    predictor, corrector = 3, 4

    def __init__(self, noisy: tuple[float, float]):
        self.noisy = noisy

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        history = (Past(level, denoised), *state.history)[: self.corrector]
        if next_level.sigma == 0:
            return State(denoised, denoised, history)
        left = context.num_steps - context.index
        latents = state.latents
        if state.memory and (estimates := min(self.corrector, len(history), left)):
            stride: _Stride = state.memory[0]
            latents = adams_step(stride.latents, stride.level, level, history[:estimates], stride.eta) + stride.fresh
        eta = 1.0 if self.noisy[0] >= next_level.sigma_ve >= self.noisy[1] else 0.0
        used = history[: min(self.predictor, left - 1)]
        predicted = adams_step(latents, level, next_level, used, eta)
        std = fresh_std(level, next_level, eta)
        fresh = std * context.noise(predicted) if std else 0.0
        return State(predicted + fresh, denoised, history, (_Stride(latents, level, eta, fresh),))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class Plms(Pndm):
    """PLMS with the weights of equal distances, at any distances.

    Source: CompVis, stable-diffusion, `ldm/models/diffusion/plms.py`, which A1111 runs; Liu et al., arXiv:2202.09778.
    """

    def combine(self, history: Sequence[PastNoise], next_level: Level) -> torch.Tensor:
        terms = (weight * past.noise for weight, past in zip(adams_weights(len(history)), history, strict=True))
        return sum(terms, torch.zeros_like(history[0].noise))
