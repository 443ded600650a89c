"""A request's run with its second pass: the picture, and then the picture again at a larger size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.schedule import Level
from pipelines.core.types import Request, Step
from pipelines.families.base import Family
from pipelines.requests.encoding import Encode, encode_request
from pipelines.requests.text_to_image import ResolvedRun, assemble_run, build_run, resolve
from pipelines.samplers.fitted_factors import FittedFactors
from pipelines.second_passes import SECOND_PASSES
from pipelines.second_passes.base import EnlargeContext, PassStart, SecondPass, SteeringPass, round_size
from pipelines.upscaling.upscalers import Upscaler

__all__ = ["FirstPass", "Passes", "partial", "resolve_passes"]


def partial(levels: Sequence[Level], strength: float) -> list[Level]:
    """Return the levels of the last int(N * strength) steps, as diffusers counts them; a single level is no step."""
    steps = min(len(levels) - 1, math.floor((len(levels) - 1) * strength + 1e-9))
    return list(levels[len(levels) - 1 - steps :])


@dataclasses.dataclass(frozen=True)
class FirstPass:
    """Says how a first pass ended, and what of it the second one counts on.

    Attributes:
        latents: clean, (B, C, h, w).
        noise: where it stopped drawing.
        num_steps: that it took.
        evaluations, seconds: spent on it; 0 where it was finished before.
        note: of its sampler.
    """

    latents: torch.Tensor
    noise: NoiseSource
    num_steps: int
    evaluations: float = 0.0
    seconds: float = 0.0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Passes:
    """Holds a request settled on a loaded model, both passes of it.

    Attributes:
        request: with the model's own size where none was given, that of the first pass.
        first: the run at that size.
        second: the same methods at the larger size; None where there is no second pass.
        method: how the finished latents are enlarged.
    """

    request: Request
    first: ResolvedRun
    second: ResolvedRun | None
    method: SecondPass

    @property
    def levels(self) -> list[Level]:
        """The levels of the second pass, of at least one step; none without one."""
        if self.second is None:
            return []
        levels = partial(self.second.levels, self.method.strength)
        return levels if len(levels) > 1 else list(self.second.levels[-2:])

    @no_grad
    def denoise(
        self,
        family: Family,
        find_upscaler: Callable[[str], Upscaler | None],
        cancelled: Callable[[], bool] = lambda: False,
        encode: Encode = encode_request,
        first: FirstPass | None = None,
        keep_first: Callable[[FirstPass], None] = lambda first: None,
    ) -> Iterator[Step]:
        """Yield the steps of both passes, counted through; the last one's latents are the finished picture.

        Args:
            family: the loaded model, its LoRAs already applied.
            find_upscaler: from an upscaler's key to its network.
            cancelled: polled before every evaluation.
            encode: makes the conditionings.
            first: the first pass where it was finished before; then only the second's steps are yielded.
            keep_first: called with a first pass as soon as it is finished.
        """
        if first is None:
            run, more = build_run(self.first, family, cancelled, encode), len(self.levels) - 1
            step: Step | None = None
            for step in denoise(run):
                yield step if self.second is None else dataclasses.replace(step, num_steps=step.num_steps + more)
            if step is None:
                return
            first = FirstPass(step.latents, run.noise, step.num_steps, step.evaluations, step.seconds, step.note)
            keep_first(first)
        if self.second is None:
            return
        size = self.second.request.width, self.second.request.height
        enlarged = self.method.enlarge(first.latents, EnlargeContext(family, size, find_upscaler, cancelled))
        # A clone: who keeps the first pass may begin another second one where it stopped drawing.
        noise = first.noise.clone()
        fresh = noise(enlarged)
        second = _build_second(self.second, self.levels, (enlarged, fresh, noise), family, cancelled, encode)
        if isinstance(self.method, SteeringPass):
            whole = len(self.second.levels) - 1
            skipped = whole - len(self.levels) + 1
            start = PassStart(family, first.latents, enlarged, fresh, skipped, whole)
            second = self.method.steer(second, start)
        yield from (_count_on(first, later) for later in denoise(second))


def resolve_passes(request: Request, family: Family) -> Passes:
    """Settle a checked request on a loaded model, both passes of it.

    Raises:
        SettingsError: as `resolve`; or a learned solver, whose steps cannot be run in part.
        MethodFitError: a method that does not fit the model.
    """
    method = SECOND_PASSES.build(request.second_pass)
    first = resolve(request.replace(second_pass=Request.second_pass), family)
    resolved = first.request.replace(second_pass=request.second_pass)
    if request.second_pass == Request.second_pass:
        return Passes(resolved, first, None, method)
    width, height = round_size((resolved.width, resolved.height), method.factor, family.size_step)
    larger = first.request.replace(width=width, height=height, start=Request.start)
    second = resolve(larger, family)
    if isinstance(second.sampler, FittedFactors):
        raise SettingsError(
            "The learned schedule is a Bespoke solver, which needs all of its steps, and a second pass runs a part of "
            "them. Choose another schedule, or no second pass."
        )
    return Passes(resolved, first, second, method)


def _build_second(
    resolved: ResolvedRun,
    levels: Sequence[Level],
    start: tuple[torch.Tensor, torch.Tensor, NoiseSource],
    family: Family,
    cancelled: Callable[[], bool],
    encode: Encode,
) -> Run:
    """Build the run from enlarged latents, noised to the first level that is left.

    Args:
        resolved: the second pass.
        levels: of it that are left.
        start: clean latents (B, C, h, w) at its size, unit normal noise as they are, and the source, which goes on
            where the first pass stopped drawing, so that a seed gives one picture.
        family: the loaded model.
        cancelled: polled before every evaluation.
        encode: makes the conditionings.

    Source: Meng et al., SDEdit, arXiv:2108.01073, algorithm 1.
    """
    enlarged, fresh, noise = start
    request = resolved.request
    # Only the steps of this run count for a prompt that switches, as in an edit.
    conditionings, plan = encode(request, family, request.batch_size, len(levels) - 1)
    run = assemble_run(resolved, family, (fresh, noise), conditionings, cancelled, plan)
    latents = levels[0].alpha * enlarged + levels[0].sigma * fresh
    return dataclasses.replace(run, levels=levels, latents=latents)


def _count_on(first: FirstPass, step: Step) -> Step:
    """Return a step of the second pass counted on from the end of the first."""
    return dataclasses.replace(
        step,
        index=first.num_steps + step.index,
        num_steps=first.num_steps + step.num_steps,
        evaluations=first.evaluations + step.evaluations,
        elapsed=lambda: first.seconds + step.seconds,
        note=" ".join(filter(None, (first.note, step.note))),
    )
