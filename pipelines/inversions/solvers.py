"""Inversion by DPM-Solver++: the second-order solver over rising noise levels."""

from __future__ import annotations

import dataclasses

from pipelines.core.prediction import Query
from pipelines.core.registry import NoSettings
from pipelines.core.sampler import Past, Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits, Trajectory
from pipelines.inversions.ddim import DdimInversion, DdimInversionSettings, ReverseDdim, fits_ddim_inversion
from pipelines.samplers.dpmpp import DpmSolver2M, exponential_step, two_step_data

__all__ = ["DpmSolverInversion", "DpmSolverInversionSettings", "ReverseDpmSolver", "fits_dpm_solver"]


@dataclasses.dataclass(frozen=True)
class DpmSolverInversionSettings(DdimInversionSettings):
    """The settings of DPM-Solver++ inversion: those of DDIM inversion."""


def fits_dpm_solver(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.flow:
        return "a flow model's first level has no signal, where its steps are of first order. Choose DDIM inversion"
    return fits_ddim_inversion(traits)


class ReverseDpmSolver:
    """Runs DPM-Solver++(2M) from a level to one with more noise; from the clean picture and to pure noise
    DDIM inversion's step.

    Source: Lu et al., DPM-Solver++, arXiv:2211.01095, algorithm 2, the ODE in the other direction.
    Differs: diffusers' `DPMSolverMultistepInverseScheduler` takes the picture for latents at its first level; here it
    is clean.
    """

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        if level.sigma == 0 or next_level.alpha == 0:
            return (yield from ReverseDdim().step(state, level, next_level, context))
        denoised = (yield Query(state.latents, level)).denoised
        data = two_step_data(denoised, level, next_level, state.history)
        return State(exponential_step(state.latents, level, next_level, data), denoised, (Past(level, denoised),))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class DpmSolverInversion(DdimInversion):
    """Inverts and samples with DPM-Solver++(2M): closer to the exact flow than DDIM at as many evaluations.

    Source: as `ReverseDpmSolver`.
    """

    def __init__(self, settings: DpmSolverInversionSettings = DpmSolverInversionSettings()):
        super().__init__(settings)

    def noising(self) -> Sampler:
        return ReverseDpmSolver()

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return DpmSolver2M(NoSettings())
