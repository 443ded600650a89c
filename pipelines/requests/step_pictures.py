"""What a run's steps show, on its way to the host while the device already works on the next step."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from pipelines.core.devices import Readback
from pipelines.core.errors import ModelError, describe_overflow
from pipelines.core.gradients import no_grad
from pipelines.core.types import Step
from pipelines.families.base import Family
from pipelines.requests.encoding import as_uint8

__all__ = ["StepPictures", "one_step_late", "with_pictures"]

PREVIEW_SHARE = 0.03
"""Of a run's time, for the tiny decoder, apart from the last step's picture."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class StepPictures:
    """What one step shows.

    Attributes:
        noisy, denoised: (B, h, w, 3) uint8, small pictures of the noisy latents and of the estimate of x0.
        latents: (2, B, C, h, w), float16, both; None where they are not kept.
        sharp: whether the estimate went through the tiny decoder, where other steps' may not.
    """

    noisy: np.ndarray
    denoised: np.ndarray
    latents: np.ndarray | None = None
    sharp: bool = False

    def rows(self, start: int, stop: int) -> StepPictures:
        """The pictures of rows start to stop."""
        latents = None if self.latents is None else self.latents[:, start:stop]
        return StepPictures(self.noisy[start:stop], self.denoised[start:stop], latents, self.sharp)


class _Painter:
    """Paints a run's estimates by the tiny decoder while that has taken no more than `PREVIEW_SHARE` of the run's time.

    The last one it paints always. The others, and the noisy latents, are mapped to colors linearly. A model with one of
    the two ways uses it always. Time is that of the loop's thread: beside other programs the clock on the wall would
    count theirs.
    """

    def __init__(self, family: Family):
        self._family = family
        self._start: float | None = None
        self._spent = 0.0

    def paint(
        self, noisy: torch.Tensor, denoised: torch.Tensor, is_last: bool
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Return pictures (B, 3, h, w) of both, and whether the estimate's are sharp."""
        family = self._family
        if not (family.paints_twice and (self._is_due() or is_last)):
            paint = family.sketch if family.paints_twice else family.paint
            painted = paint(torch.cat([noisy, denoised]))
            return painted[: len(noisy)], painted[len(noisy) :], False
        begin = time.thread_time()
        picture = family.paint(denoised)
        self._spent += time.thread_time() - begin
        return family.sketch(noisy), picture, True

    def _is_due(self) -> bool:
        """Whether the tiny decoder may paint: never the first preview of all, which comes at once."""
        now = time.thread_time()
        if self._start is None:
            self._start = now
            return False
        return self._spent <= PREVIEW_SHARE * (now - self._start)


class _Arriving:
    """One step's pictures, painted where the latents are and read back in one copy that does not block."""

    def __init__(
        self,
        step: Step,
        painter: _Painter,
        dtype: torch.dtype,
        keep_bytes: int,
        visible: Callable[[torch.Tensor], torch.Tensor],
    ):
        both = torch.stack([visible(step.latents), visible(step.denoised)])
        self._dtype = dtype
        noisy, denoised, self._is_sharp = painter.paint(both[0], both[1], step.index + 1 == step.num_steps)
        # Whether all is finite comes with the pictures: asking for it alone would stop the device.
        sent = [both.isfinite().all()[None].to(torch.uint8), as_uint8(noisy), as_uint8(denoised)]
        if 2 * both.numel() * step.num_steps <= keep_bytes:
            sent.append(both.half())
        self._readback = Readback(sent)

    def pictures(self) -> StepPictures:
        """The pictures; waits until they are there.

        Raises:
            ModelError: the latents hold NaN or infinity, which no further step takes away.
        """
        finite, *arrived = (tensor.numpy() for tensor in self._readback.tensors())
        if not finite.all():
            raise ModelError(describe_overflow(self._dtype))
        noisy, denoised, *latents = arrived
        return StepPictures(noisy, denoised, latents[0] if latents else None, self._is_sharp)


@no_grad
def with_pictures(
    steps: Iterable[tuple[int, Step]],
    families: Sequence[Family],
    keep_bytes: int = 0,
    visible: Callable[[torch.Tensor], torch.Tensor] = lambda latents: latents,
) -> Iterator[tuple[int, Step, StepPictures]]:
    """Steps of one or several runs with what they show, late as `one_step_late` says.

    Args:
        steps: (index of the run, step) pairs of the loop.
        families: the model of each run.
        keep_bytes: a run's latents are kept, too, where all of them take at most so many bytes in float16.
        visible: what is shown of latents (B, C, h, w).

    Raises:
        ModelError: a step's latents hold NaN or infinity.
    """
    painters = [_Painter(family) for family in families]
    sent = (
        (index, step, _Arriving(step, painters[index], families[index].network_dtype, keep_bytes, visible))
        for index, step in steps
    )
    for index, step, arriving in one_step_late(sent, families):
        yield index, step, arriving.pictures()


def one_step_late(items: Iterable[T], families: Sequence[Family]) -> Iterator[T]:
    """What the loop yields of runs that advance together, one step late on a device and at once on the CPU.

    So whoever reads a step waits for work behind which the next step has been launched, and the device never stands
    still until the host has read. Runs that end, fail or are stopped still give all the steps that they finished.

    Args:
        items: one a step and run.
        families: the model of each run.
    """
    waiting: deque[T] = deque()
    late = len(families) if any(family.device.type != "cpu" for family in families) else 0
    failure: Exception | None = None
    arriving = iter(items)
    while failure is None:
        try:
            waiting.append(next(arriving))
        except StopIteration:
            break
        except Exception as error:
            failure = error
        while len(waiting) > late:
            yield waiting.popleft()
    yield from waiting
    if failure is not None:
        raise failure
