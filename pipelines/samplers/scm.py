"""SCM: the multistep sampler of continuous-time consistency models."""

from __future__ import annotations

from pipelines.core.prediction import Query
from pipelines.core.registry import NoSettings
from pipelines.core.sampler import State, StepContext, Stepping
from pipelines.core.schedule import Level

__all__ = ["Scm"]


class Scm:
    """SCM jumps to the clean estimate and adds fresh noise of the next level: x' = alpha' * x0_hat + sigma' * n.

    In TrigFlow alpha = cos(t) and sigma = sin(t), and the network's output is v, x0_hat = cos(t) * x - sin(t) * v:
    a v-prediction model on a variance-preserving schedule, which the denoiser already is. Unlike LCM the estimate
    needs no boundary scalings, since v gives x itself at t = 0. Meant for distilled weights (sCM, SANA-Sprint).

    Source: Lu & Song, Simplifying, stabilizing and scaling continuous-time consistency models, arXiv:2410.11081,
    section 3 (TrigFlow) and the multistep sampling of Song et al., arXiv:2303.01469, algorithm 1.
    Differs: latents are in units of sigma_data, as everywhere in the studio.
    """

    def __init__(self, settings: NoSettings = NoSettings()):
        pass

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        denoised = (yield Query(state.latents, level)).denoised
        if next_level.sigma == 0:
            return State(denoised, denoised)
        return State(next_level.alpha * denoised + next_level.sigma * context.noise(denoised), denoised)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps
