"""From a live request and a loaded model to runs of the loop, one a picture, advanced together as a stream batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from pipelines.core.branches import BranchPlan
from pipelines.core.errors import SettingsError
from pipelines.core.loop import Run, denoise
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import Level, NoiseSchedule
from pipelines.core.stream_batch import StreamBatch
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.guidance import GUIDANCE
from pipelines.guidance.residual import Residual
from pipelines.requests.encoding import decode, encode_request
from pipelines.requests.text_to_image import ResolvedRun, assemble_run, starting_noise
from pipelines.workflows.live.request import LiveRequest

__all__ = ["LiveStream", "fit_picture", "levels_from"]


def levels_from(levels: Sequence[Level], noise_schedule: NoiseSchedule, strength: float) -> list[Level]:
    """Return the levels of a run that begins at a share of the network's time: that one, and those below it.

    Args:
        levels: of the whole run, descending.
        noise_schedule: of the model.
        strength: the share, 0 to 1; at 1 all levels are left.

    Differs: diffusers' image to image leaves whole steps out, so that four steps have four strengths; here any is one,
        which a slider that is moved while it draws needs.
    """
    if strength >= 1:
        return list(levels)
    first = noise_schedule.at(noise_schedule.network_time(strength))
    # A step of a thousandth of the way would cost an evaluation and do nothing.
    below = [level for level in levels if level.lam > first.lam + 1e-2]
    return [first, *below] if first.lam > levels[0].lam else list(levels)


def fit_picture(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a picture (H, W, 3), uint8, to (width, height), its middle where the proportions differ."""
    width, height = size
    if pixels.shape[:2] == (height, width):
        return pixels
    rows, columns = pixels.shape[:2]
    scale = min(columns / width, rows / height)
    cut_width, cut_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (columns - cut_width) // 2, (rows - cut_height) // 2
    cut = Image.fromarray(pixels[top : top + cut_height, left : left + cut_width])
    return np.asarray(cut.resize(size, Image.Resampling.BILINEAR))


class LiveStream:
    """Denoises a stream of pictures on one model, its LoRAs already applied.

    Every picture has the same noise, that of the seed, so that a still input gives a still picture.

    Args:
        family: the model.
        request: checked; see `change`.
        resolved: its base, resolved before the LoRAs were applied.
        cancelled: polled before every evaluation.
    """

    def __init__(
        self,
        family: Family,
        request: LiveRequest,
        resolved: ResolvedRun,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        self._family, self._cancelled = family, cancelled
        self._resolved, self._request = resolved, request
        self._encoded: tuple[Request, dict[str, Conditioning], BranchPlan, int] | None = None
        self._batch: StreamBatch[int] = StreamBatch()
        self._latents: tuple[np.ndarray, torch.Tensor] | None = None
        self._begun, self._shown = 0, -1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the pictures, in pixels."""
        return self._resolved.request.width, self._resolved.request.height

    @property
    def in_flight(self) -> int:
        """Count the pictures that have begun and not ended."""
        return len(self._batch)

    def change(self, request: LiveRequest) -> None:
        """Use other prompts, seed, guidance and settings for the pictures that begin from now on.

        Those in flight end as they began. Other methods, another number of steps, size, model or LoRAs need a new
        stream.

        Args:
            request: checked.

        Raises:
            SettingsError: something else has changed.
        """
        before, base = self._request.base, request.base
        same = {name: getattr(before, name) for name in ("prompt", "negative_prompt", "seed", "guidance")}
        if base.replace(**same) != before:
            raise SettingsError("Only prompts, seed, guidance and live mode's own settings can change while it runs.")
        changed = {name: getattr(base, name) for name in same}
        self._request = request
        self._resolved = dataclasses.replace(
            self._resolved,
            request=self._resolved.request.replace(**changed),
            guidance=GUIDANCE.build(base.guidance),
        )

    def begin(self, pixels: np.ndarray) -> None:
        """Begin a picture (H, W, 3), uint8, of any size."""
        self._batch.begin(self._begun, self.build_run(pixels))
        self._begun += 1

    def tick(self) -> np.ndarray | None:
        """Advance all pictures by one evaluation.

        Returns:
            The newest picture (H, W, 3), uint8, that this finished; None where there is none, or a newer one was shown.

        Raises:
            Cancelled: it was stopped.
        """
        if not len(self._batch):
            return None
        ended = [(number, step) for number, step in self._batch.tick() if number > self._shown]
        if not ended:
            return None
        self._shown, step = ended[-1]
        picture: np.ndarray = decode(self._family, step.latents)[0]
        return picture

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        """Make one picture (H, W, 3), uint8, of one alone, as image to image does."""
        *_, step = denoise(self.build_run(pixels))
        picture: np.ndarray = decode(self._family, step.latents)[0]
        return picture

    def build_run(self, pixels: np.ndarray) -> Run:
        """Build the run of one picture (H, W, 3), uint8: its latents, noised to the first level that is left."""
        resolved, strength = self._resolved, self._request.settings.strength
        levels = levels_from(resolved.levels, resolved.noise_schedule, strength)
        clean = self._encode_picture(pixels)
        noise, source = starting_noise(resolved, self._family)
        noise = noise.to(clean)
        conditionings, plan = self._encode_prompts(len(levels) - 1)
        run = assemble_run(resolved, self._family, (noise, source), conditionings, self._cancelled, plan)
        if isinstance(run.denoiser.guidance, Residual):
            run.denoiser.guidance = run.denoiser.guidance.starting_from(clean)
        latents = levels[0].alpha * clean + levels[0].sigma * noise
        return dataclasses.replace(run, levels=levels, latents=latents)

    def _encode_picture(self, pixels: np.ndarray) -> torch.Tensor:
        """The clean latents (1, C, h, w) of a picture; those of the one before where it is the same."""
        if self._latents is None or self._latents[0] is not pixels:
            fitted = fit_picture(pixels, self.size)
            images = torch.from_numpy(fitted.copy()).permute(2, 0, 1)[None].float() / 255
            self._latents = pixels, self._family.encode_images(images)
        return self._latents[1]

    def _encode_prompts(self, num_steps: int) -> tuple[dict[str, Conditioning], BranchPlan]:
        request = self._resolved.request
        if self._encoded is None or self._encoded[::3] != (request, num_steps):
            conditionings, plan = encode_request(request, self._family, 1, num_steps)
            self._encoded = request, conditionings, plan, num_steps
        return self._encoded[1], self._encoded[2]
