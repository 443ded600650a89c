"""Text to image through a stock diffusers pipeline: its own call, our previews, cancel, queue and store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.core.errors import MethodFitError
from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice, Request
from pipelines.guidance.cfg import CfgSettings
from pipelines.prompts.brackets import unescape
from pipelines.requests.encoding import to_uint8
from pipelines.requests.text_to_image import one_of_batch
from studio.jobs.job import Cell, Frame, Job, JobStatus, StepRow

if TYPE_CHECKING:
    from pipelines.families.stock import StockPipeline, StockResult, StockStep
    from studio.tasks.context import TaskContext

__all__ = ["build_arguments", "run_stock"]


def build_arguments(request: Request, pipeline: StockPipeline, defaults: Mapping[str, object]) -> dict[str, Any]:
    """Build diffusers' arguments for a request; what this pipeline does not take is refused if it was set.

    Args:
        request: checked.
        pipeline: knows what its call accepts.
        defaults: the model's own, by `Request` field: nobody chose a value that equals them.

    Raises:
        MethodFitError: LoRAs or a variation, which need a denoiser of ours; or what its call does not take.
    """
    if request.loras:
        raise MethodFitError("LoRAs cannot be applied to a model that runs through its own pipeline. Remove them.")
    if request.variation_strength:
        raise MethodFitError(
            "A model that runs through its own pipeline draws its own noise: set the variation strength to 0."
        )
    optional = {
        "num_images_per_prompt": request.batch_size,
        "generator": [torch.Generator().manual_seed(request.seed + i) for i in range(request.batch_size)],
    }
    required = {
        "prompt": unescape(request.prompt),
        "negative_prompt": unescape(request.negative_prompt),
        "num_inference_steps": request.num_inference_steps,
    }
    sides = {name: getattr(request, name) for name in ("width", "height")}
    size = {
        name: side for name, side in sides.items() if side and (name in pipeline.accepted or side != defaults.get(name))
    }
    accepted = {name: value for name, value in optional.items() if name in pipeline.accepted}
    return required | size | accepted | _build_guidance_arguments(request, pipeline, defaults)


def _build_guidance_arguments(
    request: Request, pipeline: StockPipeline, defaults: Mapping[str, object]
) -> dict[str, Any]:
    """The guidance under the names that the pipeline has for it; nothing where it has none and nobody chose any."""
    settings = parse_settings(CfgSettings, request.guidance.settings)
    untouched = request.guidance in (Request.guidance, Choice.parse(defaults.get("guidance", Request.guidance)))
    arguments: dict[str, Any] = {}
    if pipeline.guidance_name or not untouched:
        arguments[pipeline.guidance_name or "guidance_scale"] = settings.guidance_scale
    if "guidance_rescale" in pipeline.accepted or settings.guidance_rescale:
        arguments["guidance_rescale"] = settings.guidance_rescale
    if pipeline.guidance_name == "true_cfg_scale" and settings.guidance_scale > 1 and not request.negative_prompt:
        # Such a pipeline guides only if it is given a negative prompt; its authors' empty one is a blank.
        arguments["negative_prompt"] = " "
    return arguments


def run_stock(request: Request, pipeline: StockPipeline, job: Job, context: TaskContext) -> None:
    """Run the call, report its steps, store its pictures.

    Raises:
        Cancelled: the job was stopped.
        MethodFitError: the pipeline does not take what was asked, or makes no pictures.
    """
    from pipelines.families.stock import StockResult

    note = "This model runs through its own pipeline: its own sampler, schedule and guidance."
    job.set_cells([Cell(num_steps=request.num_inference_steps, note=note)])
    job.set_status(JobStatus.RUNNING)
    arguments = build_arguments(request, pipeline, context.catalog[request.model].defaults)
    for event in pipeline.run(arguments, job.cancelled):
        if isinstance(event, StockResult):
            _store(request, pipeline, event, job, context)
        else:
            _record(event, pipeline, job)


def _store(request: Request, pipeline: StockPipeline, result: StockResult, job: Job, context: TaskContext) -> None:
    """Show the pictures and save them, in this order: a full disk then takes none of them away."""
    images, figures = _extract_pictures(result.output), {"seconds": result.seconds}
    images = context.release_pictures(images, request.model, job)
    job.update_cell(0, images=images, figures=figures)
    unread = () if pipeline.guidance_name else ("guidance",)
    results: tuple[str, ...] = ()
    for i, image in enumerate(images):
        single = one_of_batch(request, i)
        results += (context.save_picture(image, single, job, i, figures, unread),)
        job.update_cell(0, results=results)


def _record(step: StockStep, pipeline: StockPipeline, job: Job) -> None:
    # The pipeline shows no noise level and no estimate of x0: its rows say so with NaN, its frames are the latents.
    picture = pipeline.preview(step)
    small = np.zeros((1, 8, 8, 3), np.uint8) if picture is None else to_uint8(picture)
    job.add_step(0, StepRow(step.index, math.nan, math.nan, 0, step.seconds), Frame(noisy=small, denoised=small))


def _extract_pictures(output: object) -> np.ndarray:
    images = output.get("images", output.get("rgb")) if isinstance(output, Mapping) else getattr(output, "images", None)
    if images is None:
        raise MethodFitError("This model makes no pictures from a prompt. Choose another for this tab.")
    return np.stack([np.asarray(image.convert("RGB")) for image in images])
