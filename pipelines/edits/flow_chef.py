"""FlowChef: a flow model's path steered to a picture, or to what is left of one, without gradients of the network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch

from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.core.types import Traits
from pipelines.edits.base import EditContext, EditPictures, UnpatchedEdit
from pipelines.edits.degradations import DAMAGES, Degradation

__all__ = [
    "FlowChef",
    "FlowChefRestore",
    "FlowChefRestoreSettings",
    "FlowChefSettings",
    "Residual",
    "Steered",
    "descend",
    "fits_flow_chef",
    "pull_to",
]

Steer = Callable[["torch.Tensor", StepContext], "torch.Tensor"]
"""From the estimate of x0, (1, C, h, w), to what is added to it."""


@dataclasses.dataclass(frozen=True)
class FlowChefSettings:
    """The settings of FlowChef's edits."""

    pull: float = setting(
        0.8, "Share of the way to the source by which each step is steered, where it is.", low=0, high=1, step=0.05
    )
    whole_until: float = setting(
        0.3,
        "Share of the steps, from the first, in which all of the picture is steered to the source; after them only "
        "what lies outside the mask.",
        low=0,
        high=1,
        step=0.05,
    )


@dataclasses.dataclass(frozen=True)
class FlowChefRestoreSettings:
    """The settings of FlowChef's inverse problems."""

    damage: str = setting(
        DAMAGES[0], "What happened to the picture. Of a missing part, draw over it.", choices=DAMAGES, label="Damage"
    )
    factor: int = setting(4, "Of low resolution: how many pixels of the result are one of the source.", low=2, high=8)
    blur: float = setting(2.0, "Of a blur: its standard deviation in pixels.", low=0.5, high=20, step=0.5)
    descents: int = setting(
        3, "Steps of descent on the pixels in each step; each decodes the picture, with gradients.", low=1, high=20
    )
    strength: float = setting(
        1.0, "Share of the steps that are run: less starts from the picture as it is.", low=0.05, high=1, step=0.05
    )


def fits_flow_chef(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline only"
    return None if traits.flow else "it steers the velocity of a flow model, and this is none. Choose another edit"


class Steered:
    """Computes x' = x + d + (sigma' - sigma) * v, d being what the estimate x - sigma * v lacks.

    v is taken as constant, so that x and its estimate move by the same d, and no gradient goes through the network.

    Args:
        steer: gives d.

    Source: Patel et al., Steering rectified flow models in the vector field, arXiv:2412.00100, algorithm 1.
    """

    def __init__(self, steer: Steer):
        self.steer = steer

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        prediction: Prediction = yield Query(state.latents, level)
        velocity = prediction.noise - prediction.denoised
        change = self.steer(prediction.denoised, context)
        latents = state.latents + change + (next_level.sigma - level.sigma) * velocity
        return State(latents, prediction.denoised + change)

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return num_steps


def pull_to(picture: torch.Tensor, mask: torch.Tensor | None, settings: FlowChefSettings) -> Steer:
    """Build the steering of an edit: d = pull * M * (picture - estimate), M being 1 where the source is kept.

    One step of descent on |M * (estimate - picture)|^2 with learning rate pull / 2.

    Args:
        picture: (1, C, h, w) latents.
        mask: (1, 1, h, w) bool, where it may change; None without: then nothing is kept after `whole_until`.
        settings: of the method.
    """
    places = picture[:, :1]
    kept = torch.zeros_like(places) if mask is None else torch.ones_like(places).masked_fill(mask, 0.0)

    def steer(denoised: torch.Tensor, context: StepContext) -> torch.Tensor:
        whole = context.index < settings.whole_until * context.num_steps
        return settings.pull * (1 if whole else kept) * (picture - denoised)

    return steer


class FlowChef(UnpatchedEdit):
    """Draws a picture of the prompt that is steered to the source: all of it first, then what a mask leaves.

    Source: as `Steered`; for FLUX.1 the authors take 30 steps, of which up to 5 are steered as a whole.
    Differs: the step of descent is given as a share of the way, which a learning rate of half of it is, instead of a
    learning rate for Adam.
    """

    def __init__(self, settings: FlowChefSettings = FlowChefSettings()):
        self.settings = settings

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        yield Steered(pull_to(context.image_latents, context.mask, self.settings))


class Residual:
    """Computes A(D(z)) - y of latents, y being what was given.

    Args:
        degradation: A.
        pictures: with the decoder D and the picture that was given.
    """

    def __init__(self, degradation: Degradation, pictures: EditPictures):
        self.degradation, self.pictures = degradation, pictures
        self.measured = degradation.measure(pictures.pixels)

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        return self.of_pixels(self.pictures.decode(latents))

    def of_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute A(x) - y of pixels (1, 3, H, W)."""
        return self.degradation(pixels) - self.measured.to(pixels)


def descend(latents: torch.Tensor, residual: Callable[[torch.Tensor], torch.Tensor], steps: int) -> torch.Tensor:
    """Descend on |residual|^2, each step as long as is best for a residual that is linear along it.

    With g the gradient and J g its image, measured by one more residual, the length is <r, J g> / |J g|^2; a step that
    makes the residual larger is halved up to four times, or not made.

    Args:
        latents: (1, C, h, w).
        residual: differentiable.
        steps: at most so many.
    Returns: (1, C, h, w).
    """
    for _ in range(steps):
        with torch.enable_grad():
            at = latents.detach().clone().requires_grad_()
            rest = residual(at)
            (gradient,) = torch.autograd.grad(rest.square().sum() / 2, at)
        rest = rest.detach()
        size = _norm(gradient)
        if size == 0 or _norm(rest) == 0:
            break
        direction = gradient / size
        probe = max(1e-3 * _norm(latents).item(), 1e-6)
        image = (rest - residual(latents - probe * direction).detach()) / probe
        length = ((rest * image).sum() / image.square().sum().clamp_min(1e-30)).item()
        for _ in range(5):
            moved = latents - length * direction
            if _norm(residual(moved).detach()) < _norm(rest):
                latents = moved
                break
            length /= 2
        else:
            break
    return latents


def _norm(values: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(values)
    return norm


class FlowChefRestore(UnpatchedEdit):
    """Draws a picture that, spoiled as the given one was, is the given one: super-resolution, deblurring, filling in.

    Source: as `Steered`, inverse problems, the cost being |A(D(x0_hat)) - y|^2.
    Differs: each step of descent has the length that a line search finds, where the authors give Adam a learning rate.
    """

    def __init__(self, settings: FlowChefRestoreSettings = FlowChefRestoreSettings()):
        self.settings, self.strength = settings, settings.strength
        self.masked = settings.damage == DAMAGES[2]

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        settings, pictures = self.settings, context.pictures
        residual = Residual(Degradation(settings.damage, settings.factor, settings.blur, pictures.mask), pictures)

        def steer(denoised: torch.Tensor, context: StepContext) -> torch.Tensor:
            return descend(denoised, residual, settings.descents) - denoised

        yield Steered(steer)
