"""The task behind the Text to image tab, the /generate endpoint and `python -m studio generate`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.errors import LoraError, PromptError
from pipelines.core.loop import denoise
from pipelines.core.types import LoraChoice, Request
from pipelines.families.base import Family
from pipelines.prompts.loras import take_loras
from pipelines.requests.limits import check_fit, check_request
from pipelines.requests.prompts import check_prompts
from pipelines.requests.text_to_image import build_run, decode, one_of_batch, resolve
from studio.exports.pictures import PICTURES, write_result
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.entry import Command, Endpoint, prompt
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
    request = _with_prompt_loras(_drawn(request, context), context)
    if request.loras and context.catalog[request.model].quantized:
        raise LoraError(
            "LoRAs cannot be added to quantized weights. Remove them, or choose the model in full precision."
        )
    for lora in request.loras:
        context.lora_path(lora.name)
    check_request(request, context.limits, prompt_needed, context.learned)
    check_prompts(request, context.traits(request.model))
    return request


def _drawn(request: Request, context: TaskContext) -> Request:
    """With the wildcards drawn, those of the prompt and of the negative prompt apart."""
    return request.replace(
        prompt=context.expand(request.prompt, request.seed),
        negative_prompt=context.expand(request.negative_prompt, request.seed, "negative prompt"),
    )


def _with_prompt_loras(request: Request, context: TaskContext) -> Request:
    """With the LoRAs that the prompt asks for behind those of the list."""
    prompt, loras = take_loras(request.prompt)
    if take_loras(request.negative_prompt)[1]:
        raise PromptError(
            "A LoRA stands in the negative prompt, where it would do nothing: put it into the prompt, with a negative "
            "weight if it shall act against the picture."
        )
    named = tuple(LoraChoice(context.lora_key(lora.name), lora.weight) for lora in loras)
    return request.replace(prompt=prompt, loras=(*request.loras, *named))


class Generate(Command):
    """`python -m studio generate`."""

    name, help = "generate", "make pictures from a prompt"
    out = "a .png, .jpg or .webp file; a batch adds -1, -2, ..."
    suffixes = PICTURES

    def values(self, flags: Namespace, base: Mapping[str, Any]) -> dict[str, Any]:
        return dict(base)

    def write(self, job: Job, flags: Namespace, context: TaskContext) -> Iterator[Path]:
        results = [result for cell in job.view().cells for result in cell.results]
        for i, result in enumerate(results):
            name = flags.out if len(results) == 1 else flags.out.with_stem(f"{flags.out.stem}-{i + 1}")
            write_result(context.store.get(result).path, name)
            yield name


class TextToImage:
    """Generate a batch from one request, every step visible."""

    key = "text_to_image"
    command = Generate()
    endpoint = Endpoint(
        "generate",
        "Make pictures from a prompt; streams progress, then returns the pictures as files.",
        'any other fields of a request by name, e.g. {"num_inference_steps": 20, "seed": 7, '
        '"sampler": {"key": "ddim", "eta": 0.5}, "guidance": {"key": "cfg", "guidance_scale": 5}}.',
        (prompt("what the picture should show.", "prompt"),),
    )

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> Request:
        return parse_request(values, context)

    def work(self, request: Request) -> tuple[float, float]:
        return request.num_inference_steps * request.batch_size, 0

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
        """Show the pictures of a finished run and then save them: a full disk takes none of them away."""
        figures = {"evaluations": evaluations, "seconds": seconds}
        job.update_cell(0, images=images, figures=figures)
        results: tuple[str, ...] = ()
        for i, image in enumerate(images):
            own = one_of_batch(request, i)
            results += (context.save_picture(image, own, job, index=i, figures=figures),)
            job.update_cell(0, results=results)
