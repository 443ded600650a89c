"""Text to image through a stock diffusers pipeline: its own call, our previews, cancel, queue and store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.errors import MethodFitError
from pipelines.guidance import GUIDANCE
from pipelines.registry import parse_settings
from pipelines.text_to_image import to_uint8
from pipelines.types import Request
from studio.jobs import Cell, Frame, Job, JobStatus, StepRow

if TYPE_CHECKING:
    from pipelines.families.stock import StockPipeline, StockStep
    from studio.backend import Studio

__all__ = ["arguments_of", "run_stock"]


def arguments_of(request: Request, pipeline: StockPipeline) -> dict[str, Any]:
    """diffusers' arguments for a request; what a pipeline of this kind never takes is refused if it was set.

    Raises:
        MethodFitError: LoRAs or a variation, which need a denoiser of ours.
    """
    if request.loras:
        raise MethodFitError("LoRAs cannot be applied to a model that runs through its own pipeline. Remove them.")
    if request.variation_strength:
        raise MethodFitError("A model that runs through its own pipeline draws its own noise: set the variation strength to 0.")
    guidance = GUIDANCE[request.guidance.key]
    scale = getattr(parse_settings(guidance.settings, request.guidance.settings), "guidance_scale", None)
    optional = {"guidance_scale": scale, "num_images_per_prompt": request.batch_size,
                "generator": [torch.Generator().manual_seed(request.seed + i) for i in range(request.batch_size)]}
    wanted = {"prompt": request.prompt, "negative_prompt": request.negative_prompt, "width": request.width or None,
              "height": request.height or None, "num_inference_steps": request.num_inference_steps}
    return wanted | {name: value for name, value in optional.items() if name in pipeline.accepted}


def run_stock(request: Request, pipeline: StockPipeline, job: Job, studio: Studio) -> None:
    """Run the call, report its steps, store its pictures.

    Raises:
        Cancelled: the job was stopped.
        MethodFitError: the pipeline does not take what was asked, or makes no pictures.
    """
    from pipelines.families.stock import StockResult

    note = "This model runs through its own pipeline: its own sampler, schedule and guidance."
    job.set_cells([Cell(num_steps=request.num_inference_steps, note=note)])
    job.set_status(JobStatus.RUNNING)
    for event in pipeline.run(arguments_of(request, pipeline), job.cancelled):
        if isinstance(event, StockResult):
            images = _pictures(event.output)
            figures = {"seconds": event.seconds}
            results = tuple(studio.save_picture(image, request.replace(seed=request.seed + i, batch_size=1), job, i, figures)
                            for i, image in enumerate(images))
            job.update_cell(0, images=images, results=results, figures=figures)
        else:
            _record(event, pipeline, job)


def _record(step: StockStep, pipeline: StockPipeline, job: Job) -> None:
    # The pipeline shows no noise level and no estimate of x0: its rows say so with NaN, its frames are the latents.
    picture = pipeline.preview(step)
    small = np.zeros((1, 8, 8, 3), np.uint8) if picture is None else to_uint8(picture)
    job.add_step(0, StepRow(step.index, math.nan, math.nan, 0, step.seconds), Frame(noisy=small, denoised=small))


def _pictures(output: Any) -> np.ndarray:
    images = output.get("images", output.get("rgb")) if isinstance(output, Mapping) else getattr(output, "images", None)
    if images is None:
        raise MethodFitError("This model makes no pictures from a prompt. Choose another for this tab.")
    return np.stack([np.asarray(image.convert("RGB")) for image in images])
