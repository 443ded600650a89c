"""Optimal-transport start (DPM-OT): noise goes to partly noised data in one move, by a fitted map."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.schedule import Level
from pipelines.initializations.base import Beginning, StartContext, count_skipped_steps
from pipelines.initializations.fitted import TRANSPORT, Transport, fitted_file, load_transport, require_shape

__all__ = ["OptimalTransport", "OptimalTransportSettings", "cells", "fit_transport", "masses"]


@dataclasses.dataclass(frozen=True)
class OptimalTransportSettings:
    share: float = setting(
        0.3,
        "Share of the steps that the map replaces: the more, the less the prompt says.",
        low=0,
        high=0.9,
        step=0.05,
        label="steps skipped",
    )


def cells(noise: torch.Tensor, transport: Transport) -> torch.Tensor:
    """Return (B,), int64: the point that each noise z (B, C, h, w) is sent to, argmax_i <z, y_i> + height_i.

    Source: Brenier's theorem for a discrete target, as in Li et al., DPM-OT, arXiv:2307.11308, section 3.
    """
    points = transport.points.to(noise.device).flatten(1)
    return (noise.float().flatten(1) @ points.T + transport.heights.to(noise.device)).argmax(dim=1)


def masses(transport: Transport, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Return (N,): the share of `draws` unit normal noises that each point receives."""
    count, counts, remaining = len(transport.points), torch.zeros(len(transport.points)), draws
    while remaining > 0:
        noise = torch.randn((min(remaining, 8192), *transport.points.shape[1:]), generator=generator)
        counts += torch.bincount(cells(noise, transport), minlength=count)
        remaining -= len(noise)
    return counts / draws


def fit_transport(points: torch.Tensor, generator: torch.Generator, steps: int = 300, batch: int = 8192) -> Transport:
    """Fit heights for which every point receives the same share of the noise.

    They minimize the convex E max_i(<z, y_i> + h_i) - mean(h), whose gradient is the points' masses minus 1 / N. A
    step moves each height by the logarithm of what its point lacks, times a scale of the likenesses, and is made on
    fresh noise; the steps shrink, so that the last heights are averages over many draws.

    Args:
        points: (N, C, h, w), scaled latents.
        generator: draws the noise.
        steps, batch: of the descent.

    Source: Li et al., arXiv:2307.11308, algorithm 1, and An et al., AE-OT, ICLR 2020, whose energy and Monte Carlo
    masses it takes over.
    Differs: they take Adam's steps; the logarithm is as good a scale for every point and needs no rate to be tuned.
    """
    count, flat = len(points), points.float().flatten(1)
    squares = flat.square().sum(1)
    heights = -squares.sqrt() * math.sqrt(2 * math.log(max(2, count)))
    scale = squares.mean().sqrt() / math.sqrt(2 * math.log(max(2, count)))
    for step in range(steps):
        noise = torch.randn((batch, flat.shape[1]), generator=generator)
        received = torch.bincount((noise @ flat.T + heights).argmax(dim=1), minlength=count).float()
        target = batch / count
        heights = heights + scale * (1 - step / steps) ** 1.5 * ((target + 0.5) / (received + 0.5)).log()
    return Transport(points.float(), heights - heights.mean())


class OptimalTransport:
    """Sends the noise to a point of the data by the transport map, noises that point, and leaves the last steps.

    Taken from the paper: the semi-discrete optimal-transport map from white noise to latents of the data, found by
    convex minimization, and that only the last steps of the schedule are walked.

    Source: Li et al., DPM-OT: a new diffusion probabilistic model based on optimal transport, arXiv:2307.11308.
    Differs: the paper's map leads to latents that were noised once and for all, and fresh noise in each later step
    makes the pictures differ. Here the points are kept clean and noised with the run's own noise, so that
    deterministic solvers too give a picture of its own to every seed. The data's captions are not used: what the
    point shows and the prompt doesn't has to be painted over in the steps that are left.
    """

    most_pictures: ClassVar[int] = 0

    def __init__(self, settings: OptimalTransportSettings = OptimalTransportSettings()):
        self.share = settings.share

    def begin(self, latents: torch.Tensor, levels: Sequence[Level], context: StartContext) -> Beginning:
        skipped_steps = count_skipped_steps(len(levels) - 1, self.share)
        if not skipped_steps:
            return latents, levels
        transport = load_transport(fitted_file(context, TRANSPORT))
        require_shape(context, transport.points.shape[1:], latents)
        noise = latents / context.noise_schedule.initial_scale(levels[0])
        points = transport.points[cells(noise, transport).cpu()].to(latents)
        level = levels[skipped_steps]
        return level.alpha * points + level.sigma * noise, levels[skipped_steps:]
        yield  # a generator without a question

    def list_files(self, num_steps: int) -> Sequence[str]:
        return (TRANSPORT,) if count_skipped_steps(num_steps, self.share) else ()

    def remaining_steps(self, num_steps: int) -> int:
        return num_steps - count_skipped_steps(num_steps, self.share)

    def nfe(self, num_steps: int, sampler: Sampler, ends_clean: bool = True) -> int:
        return sampler.nfe(self.remaining_steps(num_steps), ends_clean)
