"""From the loop's steps to what a job keeps of them."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.core.types import Step
from pipelines.families.base import Family
from pipelines.requests.text_to_image import decode, to_uint8
from studio.jobs.job import Frame, Job, StepRow

__all__ = ["KEPT_BYTES", "frame_of", "record", "sharp"]

KEPT_BYTES = 8 * 2**20
"""Latents that a run may keep for sharp pictures of its steps."""


def frame_of(step: Step, family: Family) -> Frame:
    """The step's small pictures: of the noisy latents and of the estimate of x0, through the family's preview."""
    kept = None
    if 4 * step.latents.numel() * step.num_steps <= KEPT_BYTES:
        kept = torch.stack([step.latents, step.denoised]).half().cpu().numpy()
    return Frame(_small(step.latents, family), _small(step.denoised, family), kept)


def sharp(frame: Frame, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """The step's pictures (B, H, W, 3), uint8, through the model's own decoder: noisy latents, estimate of x0.

    Args:
        frame: with its latents kept.
        family: of the model that made it.
    """
    noisy, denoised = torch.from_numpy(frame.latents).float().to(family.device)
    return decode(family, noisy), decode(family, denoised)


def _small(latents: torch.Tensor, family: Family) -> np.ndarray:
    return to_uint8(family.preview(latents))


@torch.no_grad()
def record(job: Job, cell: int, step: Step, family: Family) -> None:
    """Add a step to the job's cell; what the sampler has to say of the whole run joins the cell's note."""
    row = StepRow(step.index, step.next_level.sigma_ve, step.level.timestep, step.evaluations, step.seconds)
    job.add_step(cell, row, frame_of(step, family))
    if step.note and step.index + 1 == step.num_steps:
        said = job.view().cells[cell].note
        job.update_cell(cell, note=f"{said} {step.note}".strip())
