"""Directions for sliders: in what the runs of a model differ most, computed and kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipelines.controls.direction_files import check_name
from pipelines.controls.sliders import build_moves, moved_along
from pipelines.controls.window import StepWindow
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.registry import setting
from pipelines.families.base import Family
from pipelines.families.directions import (
    MIDDLE,
    SPACES,
    Directions,
    fit_directions,
    recorded_middle,
)
from pipelines.guidance.cfg import Unguided
from pipelines.inspection.base import Finding, InspectContext
from pipelines.requests.encoding import decode, encode_request
from pipelines.requests.text_to_image import assemble_run

__all__ = ["DirectionSearch", "DirectionSearchSettings"]

_ROWS = 4
"""Runs that are walked together."""

_SHOWN, _FAR = 3, 2.0
"""Directions that are shown, and how far along each, in standard deviations."""


@dataclasses.dataclass(frozen=True)
class DirectionSearchSettings:
    space: str = setting(
        MIDDLE, "In the output of the UNet's middle block at every step (h-space), or in the latents.", choices=SPACES
    )
    runs: int = setting(32, "Pictures that are drawn and compared, a seed each.", low=4, high=512, step=4)
    directions: int = setting(6, "Directions that are kept.", low=1, high=6, step=1)
    prompts: str = setting("", "Further prompts, with ; between: the runs take turns. Empty: the picture's alone.")
    name: str = setting("", "Saves them under this name for the control Sliders; empty saves nothing.")


class DirectionSearch:
    """Draws many pictures and computes the principal components of what the network was thinking meanwhile.

    A direction spans all steps of a run. The pictures show a run of the request's seed, and the same moved two
    standard deviations back and forth along each of the first three directions.

    Source: Haas et al., Discovering interpretable directions in the semantic latent space of diffusion models,
        arXiv:2303.11073, section 4.1.
    Differs: the activations are of guided runs' latents with the prompt, where theirs are of unconditional models.
    """

    needs_picture = False

    def __init__(self, settings: DirectionSearchSettings = DirectionSearchSettings()):
        self.settings = settings

    @property
    def name(self) -> str:
        """What they are saved as; empty for not at all."""
        return self.settings.name

    @property
    def _further(self) -> list[str]:
        return [one.strip() for one in self.settings.prompts.split(";") if one.strip()]

    def check(self) -> None:
        """Check the name and the number of prompts.

        Raises:
            SettingsError: it is no name of a file, or some prompt would have no run.
        """
        if (prompts := len(self._further) + 1) > self.settings.runs:
            raise SettingsError(
                f"{prompts} prompts take turns in {self.settings.runs} runs: choose at least as many runs."
            )
        if self.name:
            check_name(self.name)

    def count_pieces(self) -> int:
        return self.settings.runs + 1 + 2 * min(_SHOWN, self.settings.directions)

    @no_grad
    def inspect(self, context: InspectContext) -> Finding:
        request, chosen = context.resolved.request, self.settings
        times = [level.timestep for level in context.resolved.levels[:-1]]
        prompts, samples = [request.prompt, *self._further], []
        together = _ROWS if len(prompts) == 1 else 1  # so that the prompts take turns, run by run
        for start in range(0, chosen.runs, together):
            rows = min(together, chosen.runs - start)
            samples.append(self._record(context, prompts[start % len(prompts)], start, rows))
        size = request.width, request.height
        found = fit_directions(torch.cat(samples), times, chosen.space, request.model, size, chosen.directions)
        pictures = [_draw(context, found, None)]
        for place in range(min(_SHOWN, len(found.vectors))):
            pictures += [_draw(context, found, (place, far)) for far in (-_FAR, _FAR)]
        shares = found.shares.tolist()
        return Finding(
            {"directions": float(len(shares)), "share of the variance": sum(shares)},
            curve=[(float(place + 1), share) for place, share in enumerate(shares)],
            axes=("Direction", "Share of the variance"),
            sentence=_say(chosen, len(found.vectors)),
            pictures=np.stack(pictures),
            directions=found,
        )

    def _record(self, context: InspectContext, prompt: str, first: int, rows: int) -> torch.Tensor:
        """What runs of further seeds are in the space at each step, (rows, T, ...)."""
        seeds = [context.resolved.request.seed + first + row for row in range(rows)]
        run, prompted = _build(context, prompt, seeds)
        latents = [run.latents]
        for step in denoise(run):
            latents.append(step.latents)
        context.evaluations += rows * step.evaluations
        if self.settings.space == MIDDLE:
            denoiser = Denoiser(context.family, Unguided(), {"positive": prompted}, context.cancelled)
            with recorded_middle(context.family.network) as taken:
                for at, level in zip(latents, context.resolved.levels[:-1], strict=False):
                    before = len(taken)
                    denoiser.predict(at, level)
                    taken[before:] = [torch.cat(taken[before:])]  # where memory parted the rows
            context.evaluations += rows * denoiser.evaluations
        else:
            taken = [one.float().cpu() for one in latents[:-1]]
        for _ in range(rows):
            context.advance()
        return torch.stack(taken, dim=1)


def _build(context: InspectContext, prompt: str, seeds: Sequence[int]) -> tuple[Run, Conditioning]:
    """A run of the request with these seeds and this prompt, and what the prompt alone is encoded into."""
    request, family = context.resolved.request, context.family
    conditionings, plan = encode_request(request.replace(prompt=prompt), family, len(seeds))
    prompted = conditionings.get("positive") or next(iter(conditionings.values()))
    source = NoiseSource(seeds)
    unit = source(torch.empty(len(seeds), *family.latent_shape(request.width, request.height)))
    return assemble_run(context.resolved, family, (unit, source), conditionings, context.cancelled, plan), prompted


def _draw(context: InspectContext, found: Directions, moved: tuple[int, float] | None) -> np.ndarray:
    """The request's picture, moved along one of the directions; None for not at all."""
    family, name = context.family, "these"
    run, _ = _build(context, context.resolved.request.prompt, [context.resolved.request.seed])
    if moved is not None:
        amounts = torch.zeros(1, len(found.vectors), device=family.device)
        amounts[0, moved[0]] = moved[1]
        if found.space == MIDDLE:
            run.denoiser.additions = [*run.denoiser.additions, build_moves(name, amounts, StepWindow())]
        else:
            run = moved_along(run, found.to(family.device), amounts, 0.2)
    with _known(family, name, found):
        *_, step = denoise(run)
    context.evaluations += step.evaluations
    context.advance()
    picture: np.ndarray = decode(family, step.latents)[0]
    return picture


@contextlib.contextmanager
def _known(family: Family, name: str, directions: Directions) -> Iterator[None]:
    """Let a model know directions by a name while the context lasts."""
    before = family.directions
    family.directions = {**before, name: directions.to(family.device)}
    try:
        yield
    finally:
        family.directions = before


def _say(chosen: DirectionSearchSettings, count: int) -> str:
    saved = (
        f"Saved as {chosen.name!r}: Sliders has them now."
        if chosen.name
        else "Not saved: give them a name to keep them."
    )
    return (
        f"The first picture is unmoved; then come {_FAR:g} standard deviations back and forth along each of the first "
        f"{min(_SHOWN, count)} directions. {saved}"
    )
