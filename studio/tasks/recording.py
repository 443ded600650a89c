"""From the loop's steps to what a job keeps of them."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.core.types import Step
from pipelines.families.base import Family
from pipelines.requests.encoding import decode
from pipelines.requests.step_pictures import StepPictures
from studio.jobs.job import Frame, Job, StepRow

__all__ = ["KEPT_BYTES", "decode_sharp", "note_decoding", "record"]

KEPT_BYTES = 8 * 2**20
"""Latents that a run may keep for sharp pictures of its steps."""


def decode_sharp(frame: Frame, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """Decode the step's pictures (B, H, W, 3), uint8, through the model's own decoder: noisy latents, estimate of x0.

    Args:
        frame: with its latents kept.
        family: of the model that made it.
    """
    noisy, denoised = torch.from_numpy(frame.latents).float().to(family.device)
    return decode(family, noisy), decode(family, denoised)


def record(job: Job, cell: int, step: Step, pictures: StepPictures) -> None:
    """Add a step to the job's cell; a note of the sampler on the whole run joins the cell's note."""
    sigma, time = step.next_level.sigma_ve, step.level.timestep
    row = StepRow(step.index, sigma, time, step.evaluations, step.seconds, step.skipped)
    job.add_step(cell, row, Frame(pictures.noisy, pictures.denoised, pictures.latents, pictures.sharp))
    if step.note and step.index + 1 == step.num_steps:
        note = job.view().cells[cell].note
        job.update_cell(cell, note=f"{note} {step.note}".strip())


def note_decoding(job: Job, cell: int, family: Family) -> None:
    """Add what the last decoding had to do otherwise to the cell's note."""
    if family.notes:
        note = job.view().cells[cell].note
        job.update_cell(cell, note=" ".join(filter(None, [note, *family.notes])))
