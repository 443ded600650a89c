"""Edits without an inversion that draw the source beside the edit: InfEdit's DDCM and FlowEdit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping

import torch

from pipelines.core.prediction import Guidance, Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend
from pipelines.inversions.base import SOURCE, TARGET

__all__ = [
    "Ddcm",
    "DifferenceFlow",
    "FlowEdit",
    "FlowEditSettings",
    "InfEdit",
    "InfEditSettings",
    "RowGuidance",
    "fits_flow_edit",
    "fits_paired",
]

_SOURCE_GUIDANCE = "Guidance by the source prompt; that of the edit is the request's."


@dataclasses.dataclass(frozen=True)
class InfEditSettings:
    """The settings of InfEdit."""

    source_guidance_scale: float = setting(1.0, _SOURCE_GUIDANCE, low=0, high=15, step=0.1)
    eta: float = setting(
        1.0,
        "Share of each step's noise that is drawn anew: 1 for all of it, as consistency models do.",
        low=0,
        high=1,
        step=0.05,
        label="eta",
    )
    strength: float = setting(
        1.0, "Share of the steps that are run: less keeps more of the source.", low=0.05, high=1, step=0.05
    )


@dataclasses.dataclass(frozen=True)
class FlowEditSettings:
    """The settings of FlowEdit."""

    source_guidance_scale: float = setting(3.5, _SOURCE_GUIDANCE, low=0, high=15, step=0.1)
    draws: int = setting(1, "Noises over which the difference of a step is averaged.", low=1, high=8, step=1)
    strength: float = setting(
        0.65, "Share of the steps that are run: less keeps more of the source.", low=0.05, high=1, step=0.05
    )


def fits_paired(traits: Traits) -> str | None:
    """Say why not, or return None."""
    return "it runs through its own pipeline only" if traits.backbone == "pipeline" else None


def fits_flow_edit(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if not traits.flow:
        return "it follows the velocity of a flow model, and this is none. Choose InfEdit"
    return fits_paired(traits)


class RowGuidance:
    """Guides the source's row with a scale of its own.

    Args:
        source, target: the guidances of the rows; they remember nothing of their runs.
    """

    perturbation = None

    def __init__(self, source: Guidance, target: Guidance):
        self.source, self.target, self.guidance_scale = source, target, target.guidance_scale

    def plan(self, level: Level) -> tuple[str, ...]:
        return max(self.source.plan(level), self.target.plan(level), key=len)

    def combine(self, branches: Mapping[str, Prediction]) -> Prediction:
        rows = []
        level = branches["positive"].level
        for guidance in (self.source, self.target):
            planned = guidance.plan(level)
            rows.append(guidance.combine({name: branches[name] for name in branches if name in planned}).raw)
        raw = torch.cat([rows[0][SOURCE : SOURCE + 1], rows[1][TARGET : TARGET + 1]])
        return branches["positive"].with_raw(raw)


class Ddcm:
    """Moves (source, edit) by the denoising diffusion consistent model, whose source is the picture by construction.

    x0_edit = z0 + D(x_edit) - D(x_source), and with e the noise that the source's row has from z0,
    x'_source = alpha' z0 + c e + s n, x'_edit = alpha' x0_edit + c (eps_edit - eps_source + e) + s n,
    c = sqrt(sigma'^2 - s^2), s = sqrt(eta) sigma'. Equal predictions leave z0, bit for bit.

    Args:
        image_latents: z0, (1, C, h, w).
        eta: share of the noise's variance that is drawn anew: 1 for all of it, as consistency models do.

    Source: Xu et al., Inversion-free image editing with natural language, arXiv:2312.04965, algorithm 1.
    Differs: the estimate is written by the two denoised pictures, which is the same and needs no division by alpha, so
    that flow models are taken too; for eta below 1 the noise of the source's row counts on.
    """

    def __init__(self, image_latents: torch.Tensor, eta: float):
        self.image_latents, self.eta = image_latents, eta

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        clean = self.image_latents
        prediction = yield Query(state.latents, level)
        denoised, noise = prediction.denoised, prediction.noise
        estimate = clean + (denoised[TARGET] - denoised[SOURCE])
        s = math.sqrt(self.eta) * next_level.sigma
        kept = math.sqrt(max(0.0, next_level.sigma**2 - s**2))
        fresh = s * context.noise(clean) if s else torch.zeros_like(clean)
        source_noise = (state.latents[SOURCE] - level.alpha * clean) / level.sigma
        edit_noise = noise[TARGET] - noise[SOURCE] + source_noise
        source = next_level.alpha * clean + kept * source_noise + fresh
        edit = next_level.alpha * estimate + kept * edit_noise + fresh
        return State(torch.cat([source, edit]), torch.cat([clean, estimate]))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


class DifferenceFlow:
    """Moves the picture itself by the difference of two velocities at noised copies of it.

    x_source = (1 - t) z0 + t n, x_edit = z + x_source - z0, z' = z + (t' - t) * mean(v(x_edit) - v(x_source)).

    Source: Kulikov et al., FlowEdit, arXiv:2412.08629, algorithm 1.
    """

    def __init__(self, image_latents: torch.Tensor, draws: int):
        self.image_latents, self.draws = image_latents, draws

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        clean, latents = self.image_latents, state.latents[TARGET : TARGET + 1]
        difference = torch.zeros_like(clean)
        for _ in range(self.draws):
            source = level.alpha * clean + level.sigma * context.noise(clean)
            prediction = yield Query(torch.cat([source, source + (latents - clean)]), level)
            velocity = prediction.noise - prediction.denoised
            difference = difference + (velocity[TARGET] - velocity[SOURCE]) / self.draws
        estimate = latents - level.sigma * difference
        latents = latents + (next_level.sigma - level.sigma) * difference
        return State(torch.cat([clean, latents]), torch.cat([clean, estimate]))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.draws * num_steps


class _Paired(UnpatchedEdit):
    """What both edits share: two prompts, a guidance for each, and a drawn mask that keeps the edit inside it."""

    paired = True

    def __init__(self, source_guidance: float, strength: float):
        self.source_guidance, self.strength = source_guidance, strength

    def needs_source(self) -> bool:
        return True

    def sampler(self, context: EditContext) -> Sampler:
        """Build the sampler of both rows."""
        raise NotImplementedError

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        sampler = self.sampler(context)
        yield sampler if context.mask is None else LocalBlend(sampler, context.mask)


class InfEdit(_Paired):
    """Edits by virtual inversion: the source is noised by formula, and the edit drawn from the difference.

    Source: as `Ddcm`; there with latent consistency models, 12 steps and guidance 1 and 2.3.
    With its unified attention control it is `ControlledInfEdit`.
    """

    def __init__(self, settings: InfEditSettings = InfEditSettings()):
        super().__init__(settings.source_guidance_scale, settings.strength)
        self.eta = settings.eta

    def sampler(self, context: EditContext) -> Sampler:
        return Ddcm(context.image_latents, self.eta)


class FlowEdit(_Paired):
    """Edits along a straight path from the source to the target distribution, for flow models.

    Source: as `DifferenceFlow`; 50 steps of which 33 are run, guidance 3.5 and 13.5 are theirs for SD3.
    """

    def __init__(self, settings: FlowEditSettings = FlowEditSettings()):
        super().__init__(settings.source_guidance_scale, settings.strength)
        self.draws = settings.draws

    def start(self, image_latents: torch.Tensor, noise: torch.Tensor, level: Level) -> torch.Tensor:
        return image_latents.repeat(2, 1, 1, 1)

    def sampler(self, context: EditContext) -> Sampler:
        return DifferenceFlow(context.image_latents, self.draws)
