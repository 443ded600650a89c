"""The task behind the Text to image tab, the /generate endpoint and `python -m studio generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.errors import LoraError
from pipelines.core.loop import denoise
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.requests.limits import check_fit, check_request
from pipelines.requests.text_to_image import build_run, decode, resolve
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.recording import record
from studio.tasks.stock import run_stock

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["TextToImage", "parse_request"]


def parse_request(values: Mapping[str, Any], context: TaskContext, prompt_needed: bool = True) -> Request:
    """A checked request from untrusted values: wildcards drawn, the model's own defaults where nothing is said."""
    given = Request.parse(values)
    entry = context.catalog[given.model]
    request = Request.parse({**entry.defaults, **values})
    check_request(request, context.limits, prompt_needed, context.learned)
    if traits := context.traits(request.model):
        check_fit(request, traits, said=values.keys())
    if request.loras and context.catalog[request.model].quantized:
        raise LoraError(
            "LoRAs cannot be added to quantized weights. Remove them, or choose the model in full precision."
        )
    for lora in request.loras:
        context.lora_path(lora.name)
    prompt, negative = (context.expand(text, request.seed) for text in (request.prompt, request.negative_prompt))
    request = request.replace(prompt=prompt, negative_prompt=negative)
    check_request(request, context.limits, prompt_needed, context.learned)
    return request


class TextToImage:
    """Generate a batch from one request, every step visible."""

    key = "text_to_image"

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> Request:
        return parse_request(values, context)

    def run(self, request: Request, job: Job, context: TaskContext) -> None:
        job.set_cells([Cell(num_steps=request.num_inference_steps)])
        with context.model(request.model, job) as family:
            if not isinstance(family, Family):
                run_stock(request, family, job, context)
                return
            resolved = resolve(request, family)
            request = resolved.request
            job.set_status(JobStatus.RUNNING)
            with family.loras(context.load_loras(request.loras)):
                run = build_run(resolved, family, job.cancelled)
                for step in denoise(run):
                    if step.index == 0:
                        job.update_cell(0, num_steps=step.num_steps)  # the start may have spared some
                    record(job, 0, step, family)
                images = decode(family, step.latents)
        self.store(request, images, job, context, step.evaluations, step.seconds)

    @staticmethod
    def store(
        request: Request, images: np.ndarray, job: Job, context: TaskContext, evaluations: int, seconds: float
    ) -> None:
        """Show the pictures of a finished run and save them, in this order: a full disk then takes none of them away."""
        figures = {"evaluations": evaluations, "seconds": seconds}
        job.update_cell(0, images=images, figures=figures)
        results: tuple[str, ...] = ()
        for i, image in enumerate(images):
            own = request.replace(seed=request.seed + i, batch_size=1)
            results += (context.save_picture(image, own, job, index=i, figures=figures),)
            job.update_cell(0, results=results)
