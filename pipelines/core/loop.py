"""The one denoising loop: a generator of steps.

Preview, progress, recording and cancel are its consumers. Several runs advance together and share the
network's batches, whatever their samplers, because a sampler asks for evaluations by yielding them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import pairwise

import torch

from pipelines.core.denoiser import Denoiser, predict_together
from pipelines.core.devices import Timer, mark_time
from pipelines.core.errors import SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Prediction, Query, ShiftingGuidance
from pipelines.core.sampler import Sampler, State, StepContext
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Step

__all__ = ["Begin", "Run", "RunInProgress", "denoise", "denoise_together"]

Begin = Callable[
    ["torch.Tensor", Sequence[Level]], Generator[Query, Prediction, tuple["torch.Tensor", Sequence[Level]]]
]
"""Makes a run's first latents and the levels that are left, of its noise and all levels; may ask the network."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run holds all that one trajectory needs.

    Attributes:
        denoiser: the network with this run's prompt and guidance.
        sampler: from the sampler table.
        levels: N + 1 noise levels, descending, the last usually clean.
        latents: (B, C, h, w), float32, at levels[0].
        noise: for stochastic samplers, one generator a sample.
        noise_schedule: the family's own.
        begin: how the first latents come to be; None begins with `latents` and walks all levels.
        first: steps of the whole schedule that were walked before `levels`, by which prompts switch.
        between: called with each finished step; returns the state that the next begins with; None leaves it alone.
    """

    denoiser: Denoiser
    sampler: Sampler
    levels: Sequence[Level]
    latents: torch.Tensor
    noise: NoiseSource
    noise_schedule: NoiseSchedule
    begin: Begin | None = None
    first: int = 0
    between: Callable[[State, Step], State] | None = None


class RunInProgress:
    """Walks one run as a generator of its queries and steps.

    Args:
        run: whose first query is asked at once.

    Attributes:
        query: that waits for an answer; None once the run is over.

    Raises:
        SettingsError: the schedule is too short.
    """

    def __init__(self, run: Run):
        if len(run.levels) < 2:
            raise SettingsError(f"The schedule has {len(run.levels)} noise levels. It needs at least two.")
        self.run = run
        self.query: Query | None = None
        self._events = self._walk()
        self._timer = Timer()
        self._counted: tuple[float, int] = (0, 0)
        self.answer(None)

    def answer(self, prediction: Prediction | None) -> Step | None:
        """Give the query its prediction; returns the step that this finished, if it did, and leaves the next query.

        Args:
            prediction: for `query`; None begins the run.
        """
        self._resumed = mark_time(self.run.latents.device)
        event: Query | Step | None = self._events.send(prediction)
        step = None
        if isinstance(event, Step):
            step, event = event, next(self._events, None)
        self.query = event if isinstance(event, Query) else None
        self._count_sampler_time()
        return step

    def _walk(self) -> Generator[Query | Step, Prediction | None, None]:
        run = self.run
        latents, levels = run.latents, run.levels
        if run.begin is not None:
            latents, levels = yield from run.begin(latents, levels)
        state, num_steps = State(latents), len(levels) - 1
        run.denoiser.num_steps = whole = run.first + len(run.levels) - 1
        for index, (level, next_level) in enumerate(pairwise(levels)):
            run.denoiser.step = whole - num_steps + index  # of the whole schedule: a start may spare some
            run.denoiser.coming = levels[index:-1]
            context = StepContext(index, num_steps, run.noise, run.noise_schedule)
            state = yield from self._shift(state, level)
            state = yield from run.sampler.step(state, level, next_level, context)
            step = self._finish_step(context, level, next_level, state)
            yield step
            if run.between is not None:
                state = run.between(state, step)

    def _shift(self, state: State, level: Level) -> Generator[Query, Prediction, State]:
        """What the guidance makes of the latents that a step begins with."""
        denoiser = self.run.denoiser
        if not isinstance(denoiser.guidance, ShiftingGuidance):
            return state
        latents = yield from denoiser.guidance.shift(state.latents, level, denoiser.step, denoiser.num_steps)
        return state if latents is state.latents else dataclasses.replace(state, latents=latents)

    def _share_skipped(self) -> float:
        """The share of the network's work that a cache left out of the answers since the last step."""
        denoiser = self.run.denoiser
        served = denoiser.evaluations + denoiser.moved
        evaluations, calls = served - self._counted[0], denoiser.calls - self._counted[1]
        self._counted = served, denoiser.calls
        return 1 - evaluations / calls if calls and denoiser.cache is not None else 0.0

    def _finish_step(self, context: StepContext, level: Level, next_level: Level, state: State) -> Step:
        if state.denoised is None:
            raise TypeError(f"{type(self.run.sampler).__name__} finished a step without an estimate of x0.")
        return Step(
            index=context.index,
            num_steps=context.num_steps,
            level=level,
            next_level=next_level,
            latents=state.latents,
            denoised=state.denoised,
            evaluations=self.run.denoiser.evaluations,
            elapsed=self._elapsed(),
            note=state.note,
            skipped=self._share_skipped(),
        )

    def _elapsed(self) -> Callable[[], float]:
        """The run's time up to now, the sampler's and the network's, to be read off the device later."""
        self._count_sampler_time()
        sampler, network = self._timer.reading(), self.run.denoiser.timer.reading()
        return lambda: sampler() + network()

    def _count_sampler_time(self) -> None:
        now = mark_time(self.run.latents.device)
        self._timer.add(self._resumed, now)
        self._resumed = now


@no_grad
def denoise_together(runs: Sequence[Run]) -> Iterator[tuple[int, Step]]:
    """Advance all runs in lockstep and yield (run's index, step) as each step ends.

    Raises:
        Cancelled: one of the runs was stopped.
        SettingsError: a schedule is too short.
    """
    progress = [RunInProgress(run) for run in runs]
    while asking := [
        (index, active, active.query) for index, active in enumerate(progress) if active.query is not None
    ]:
        predictions = predict_together([(active.run.denoiser, query) for _, active, query in asking])
        for (index, active, _), prediction in zip(asking, predictions, strict=True):
            step = active.answer(prediction)
            if step is not None:
                yield index, step


def denoise(run: Run) -> Iterator[Step]:
    """Advance one run and yield each step as it ends.

    Raises:
        Cancelled: the run was stopped.
        SettingsError: the schedule is too short.
    """
    for _, step in denoise_together([run]):
        yield step
