"""EDICT: two coupled latents, each moved by the noise predicted from the other, so that every step can be undone."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.prediction import Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits, Trajectory

__all__ = ["Coupled", "EdictInversion", "EdictSettings", "Uncoupled", "fits_edict"]


@dataclasses.dataclass(frozen=True)
class EdictSettings:
    p: float = setting(
        0.93,
        "How much of itself each of the two latents keeps when they are mixed; below 0.9 they fly apart.",
        low=0.9,
        high=1,
        step=0.01,
        label="mixing p",
    )
    strength: float = setting(
        0.8, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


def fits_edict(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline only"
    if traits.prediction_type == "sample":
        return "its network returns the picture instead of the noise"
    return "a flow model's first level has no signal, which its equations divide by" if traits.flow else None


def _build_factors(level: Level, next_level: Level) -> tuple[float, float]:
    """a = alpha' / alpha and b = sigma' - a * sigma of the step x' = a * x + b * eps from `level` down to `next_level`.

    Source: Wallace et al., arXiv:2211.12446, section 4, where a_t and b_t are defined.
    """
    a = next_level.alpha / level.alpha
    return a, next_level.sigma - a * level.sigma


class Coupled:
    """Takes one step down of both latents, which stand one after the other in the state's rows: all x, then all y.

    The one that is moved first takes turns, so that neither is favored: step i of N starts with x where N - i
    is even. With p = 1 nothing is mixed.

    Source: Wallace, Gokul, Naik, EDICT, arXiv:2211.12446, section 4, the denoising process.
    Differs: the published code, run beside this, has the same weights; it mixes the first row first in every step and
    counts the turns from the noisy end, where this counts from the clean one and mixes the row that was moved first.
    """

    def __init__(self, p: float):
        self.p = p

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        x, y = state.latents.chunk(2)
        a, b = _build_factors(level, next_level)
        swapped = _is_swapped(context.num_steps - context.index)
        if swapped:
            x, y = y, x
        first = yield Query(y, level)
        x = a * x + b * first.noise
        second = yield Query(x, level)
        y = a * y + b * second.noise
        x = self.p * x + (1 - self.p) * y
        y = self.p * y + (1 - self.p) * x
        return _build_state(x, y, first.denoised, second.denoised, swapped)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return 2 * num_steps


class Uncoupled(Coupled):
    """Undoes the same step: unmixes y, unmixes x, then takes the noise off y and off x.

    Source: Wallace et al., arXiv:2211.12446, section 4, the inversion process.
    """

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        x, y = state.latents.chunk(2)
        a, b = _build_factors(next_level, level)
        swapped = _is_swapped(context.index + 1)
        if swapped:
            x, y = y, x
        y = (y - (1 - self.p) * x) / self.p
        x = (x - (1 - self.p) * y) / self.p
        second = yield Query(x, next_level)
        y = (y - b * second.noise) / a
        first = yield Query(y, next_level)
        x = (x - b * first.noise) / a
        return _build_state(x, y, first.denoised, second.denoised, swapped)


def _is_swapped(steps_to_clean: int) -> bool:
    """Counted from the clean end, so that the way up and the way down agree on each step."""
    return steps_to_clean % 2 == 1


def _build_state(
    x: torch.Tensor, y: torch.Tensor, denoised_x: torch.Tensor, denoised_y: torch.Tensor, is_swapped: bool
) -> State:
    if is_swapped:
        x, y, denoised_x, denoised_y = y, x, denoised_y, denoised_x
    return State(torch.cat([x, y]), torch.cat([denoised_x, denoised_y]))


class EdictInversion:
    """Inverts exactly at any guidance: the way up has the guidance of the way down.

    Source: Wallace et al., arXiv:2211.12446, section 4; p 0.93, 50 steps, strength 0.8 and guidance 3 are theirs.
    Differs: latents are float32 here, in which the round trip ends 1e-5 to 1e-4 from its start; in float64 1e-13.
    """

    is_random = False
    replaces_negative = False
    is_wordless = False
    holds_source = False

    def __init__(self, settings: EdictSettings = EdictSettings()):
        self.p, self.strength = settings.p, settings.strength

    def guidance_scale(self, edit_scale: float) -> float:
        return edit_scale

    def start(self, image_latents: torch.Tensor) -> torch.Tensor:
        return torch.cat([image_latents, image_latents])

    def noising(self) -> Sampler:
        return Uncoupled(self.p)

    def denoising(self, trajectory: Trajectory, guidance_scale: float = 1.0) -> Sampler:
        return Coupled(self.p)

    def forked(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(2, dim=0)

    def visible(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.chunk(2)[0]
