"""The one denoising loop: a generator of steps.

Preview, progress, recording and cancel are its consumers. Several runs advance together and share the
network's batches, whatever their samplers, because a sampler asks for evaluations by yielding them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch

from pipelines.core.denoiser import Denoiser, Prediction, Query, predict_together
from pipelines.core.errors import SettingsError
from pipelines.core.noise import NoiseSource
from pipelines.core.sampler import Sampler, State, StepContext
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.types import Step

__all__ = ["Begin", "Run", "denoise", "denoise_together"]

Begin = Callable[[torch.Tensor, Sequence[Level]], Generator[Query, Prediction, tuple[torch.Tensor, Sequence[Level]]]]
"""Makes a run's first latents and the levels that are left, of its noise and all levels; may ask the network."""


@dataclasses.dataclass(frozen=True)
class Run:
    """All that one trajectory needs.

    Attributes:
        denoiser: the network with this run's prompt and guidance.
        sampler: from the sampler table.
        levels: N + 1 noise levels, descending, the last usually clean.
        latents: (B, C, h, w), float32, at levels[0].
        noise: for stochastic samplers, one generator a sample.
        noise_schedule: the family's own.
        begin: how the first latents come to be; None begins with `latents` and walks all levels.
    """

    denoiser: Denoiser
    sampler: Sampler
    levels: Sequence[Level]
    latents: torch.Tensor
    noise: NoiseSource
    noise_schedule: NoiseSchedule
    begin: Begin | None = None


class _Cell:
    """One run in progress: the sampler's state, and the generator of the start or the step it is in."""

    def __init__(self, run: Run):
        if len(run.levels) < 2:
            raise SettingsError(f"The schedule has {len(run.levels)} noise levels. It needs at least two.")
        self.run = run
        self.levels = run.levels
        self.state = State(run.latents)
        self.begun = run.begin is None
        self.index = 0
        self.own_seconds = 0.0
        self.query: Query | None = None
        self._ask(None)

    def _ask(self, answer: Prediction | None) -> Step | None:
        """Give start or sampler its answer; returns the step if that finished one, and leaves the next query."""
        self._asked = time.perf_counter()
        try:
            if answer is None and self.begun:
                self._begin()
                return None
            if answer is None:
                self._asking = self.run.begin(self.state.latents, self.levels)
            try:
                self.query = self._asking.send(answer)
                return None
            except StopIteration as done:
                return self._moved_on(done.value)
        finally:
            self.own_seconds += time.perf_counter() - self._asked

    def _moved_on(self, outcome: Any) -> Step | None:
        """What a finished start or step leads to."""
        if not self.begun:
            latents, self.levels = outcome
            self.state, self.begun = State(latents), True
            self._begin()
            return None
        self.state = outcome
        step = self._finished()
        if step.index + 1 < step.num_steps:
            self._begin()
        else:
            self.query = None
        return step

    def _begin(self) -> None:
        run, levels = self.run, self.levels
        context = StepContext(self.index, len(levels) - 1, run.noise, run.noise_schedule)
        self._asking = run.sampler.step(self.state, levels[self.index], levels[self.index + 1], context)
        self.query = next(self._asking)

    def _finished(self) -> Step:
        run, index, levels = self.run, self.index, self.levels
        self.index += 1
        return Step(
            index=index,
            num_steps=len(levels) - 1,
            level=levels[index],
            next_level=levels[index + 1],
            latents=self.state.latents,
            denoised=self.state.denoised,
            evaluations=run.denoiser.evaluations,
            seconds=self.own_seconds + time.perf_counter() - self._asked + run.denoiser.seconds,
            note=self.state.note,
        )

    def answer(self, prediction: Prediction) -> Step | None:
        """The step that this prediction finished, if it did."""
        return self._ask(prediction)


@torch.no_grad()
def denoise_together(runs: Sequence[Run]) -> Iterator[tuple[int, Step]]:
    """Advance all runs in lockstep and yield (run's index, step) as each step ends.

    Raises:
        Cancelled: one of the runs was stopped.
        SettingsError: a schedule is too short.
    """
    cells = [_Cell(run) for run in runs]
    while asking := [(index, cell) for index, cell in enumerate(cells) if cell.query is not None]:
        predictions = predict_together([(cell.run.denoiser, cell.query) for _, cell in asking])
        for (index, cell), prediction in zip(asking, predictions, strict=True):
            step = cell.answer(prediction)
            if step is not None:
                yield index, step


def denoise(run: Run) -> Iterator[Step]:
    """The steps of one run."""
    for _, step in denoise_together([run]):
        yield step
