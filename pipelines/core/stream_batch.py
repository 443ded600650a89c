"""The stream batch: runs that began one after another, each at its own noise level, in one batch of the network."""

from __future__ import annotations

from typing import Generic, TypeVar

from pipelines.core.denoiser import predict_together
from pipelines.core.gradients import no_grad
from pipelines.core.loop import Run, RunInProgress
from pipelines.core.types import Step

__all__ = ["StreamBatch"]

Tag = TypeVar("Tag")


class StreamBatch(Generic[Tag]):
    """Advances runs by one evaluation a tick, all in one batch: a run that began k ticks ago is at its step k.

    If a run begins at every tick, one ends at every tick, and the batch has as many rows as a run has evaluations.

    Source: Kodaira et al., StreamDiffusion, arXiv:2312.12491, section 3.1.
    Differs: a run is any run of the loop, so any sampler, guidance and family serves, and settings may change from run
        to run; where no new run begins the batch shrinks instead of being padded.
    """

    def __init__(self) -> None:
        self._running: list[tuple[Tag, RunInProgress]] = []

    def __len__(self) -> int:
        """Count the runs that have begun and not ended."""
        return len(self._running)

    @no_grad
    def begin(self, tag: Tag, run: Run) -> None:
        """Add a run, to be advanced by the next tick.

        Args:
            tag: comes back with the run's last step.
            run: of at least one step.

        Raises:
            SettingsError: its schedule is too short.
        """
        self._running.append((tag, RunInProgress(run)))

    @no_grad
    def tick(self) -> list[tuple[Tag, Step]]:
        """Answer one query of every run.

        Returns:
            Tag and last step of the runs that this ended, in the order in which they began.

        Raises:
            Cancelled: one of the runs was stopped.
        """
        asking = [(tag, run, run.query) for tag, run in self._running if run.query is not None]
        predictions = predict_together([(run.run.denoiser, query) for _, run, query in asking])
        ended = []
        for (tag, run, _), prediction in zip(asking, predictions, strict=True):
            step = run.answer(prediction)
            if step is not None and run.query is None:
                ended.append((tag, step))
        self._running = [(tag, run) for tag, run in self._running if run.query is not None]
        return ended

    def clear(self) -> None:
        """Forget all runs."""
        self._running.clear()
