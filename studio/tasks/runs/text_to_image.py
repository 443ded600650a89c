"""A checked request of text to image, and its run."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.core.branches import BranchPlan
from pipelines.core.errors import LoraError, PromptError
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.core.types import Choice, LoraChoice, Request, Step
from pipelines.families.base import Family
from pipelines.families.sides import require_longest, require_multiples
from pipelines.initializations.fitted import fitted_folder
from pipelines.models.sizes import longest_side, size_multiple
from pipelines.prompts.loras import take_loras
from pipelines.requests.encoding import decode, encode_prompts
from pipelines.requests.extras import find_extras
from pipelines.requests.fitted import check_fitted, check_levels, check_start, check_words
from pipelines.requests.limits import check_fit, check_request, check_second_pass
from pipelines.requests.passes import FirstPass, Passes, resolve_passes
from pipelines.requests.prompts import check_prompts, read_request_prompts
from pipelines.requests.refusals import (
    require_no_story,
    require_one_model,
    require_one_pass,
    require_unsearched,
    require_unsteered,
)
from pipelines.requests.run_identity import identify_model, identify_run, identify_texts
from pipelines.requests.scenes import with_scenes_counted
from pipelines.requests.search import is_searched
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import one_of_batch
from pipelines.samplers import SAMPLERS
from pipelines.second_passes import SECOND_PASSES
from pipelines.weights.part_identity import file_stamp
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.extras import give_pictures, keep_pictures, require_extras
from studio.tasks.finished_runs import FROM_CACHE, FinishedRun, FinishedRuns
from studio.tasks.method_names import read_method_names
from studio.tasks.recording import KEPT_BYTES, note_decoding, record
from studio.tasks.runs import search
from studio.tasks.seeds import draw_seeds
from studio.tasks.stock import run_stock
from studio.tasks.upscaler_files import find_upscaler, load_named_upscaler

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["check_size", "parse_request", "run"]


def parse_request(
    values: Mapping[str, object],
    context: TaskContext,
    prompt_needed: bool = True,
    second_pass: bool = False,
    steered: bool = False,
    composed: bool = False,
    stories: bool = False,
    begins: bool = False,
) -> Request:
    """Parse a checked request from untrusted values: random seeds and wildcards drawn, the model's own defaults where
    nothing is said.

    Args:
        values: fields of a Request.
        context: knows the models and the caps.
        prompt_needed: whether an empty prompt is refused.
        second_pass: whether the task runs a second pass where one is asked for; the others refuse it.
        steered: whether the task runs a ControlNet, a T2I-Adapter and an IP-Adapter; the others refuse them.
        composed: whether the task runs several models together; the others refuse that.
        stories: whether the task draws scenes together; the others refuse that.
        begins: whether the task's own requests only begin with this one and change it; then what they run on (levels,
            fitted files) is checked where they are run.
    """
    values = keep_pictures(read_method_names(draw_seeds(values)), context)
    untrusted = Request.parse(values)
    entry = context.catalog[untrusted.model]
    request = Request.parse({**entry.defaults, **_name_schedule(untrusted, values, context), **values})
    if second_pass:
        find_upscaler(SECOND_PASSES.build(request.second_pass).upscaler, context)
    else:
        require_one_pass(request, "What this task makes")
        require_unsearched(request, "What this task makes")
    if not steered:
        require_unsteered(request, "This task")
    if not composed:
        require_one_model(request, "This task")
    if not stories:
        require_no_story(request, "This task")
    request = with_scenes_counted(_add_prompt_loras(_draw_wildcards(request, context), context))
    check_request(request, context.limits, prompt_needed, context.learned)
    traits = context.traits(request.model)
    if traits:
        check_fit(request, traits, fields=values.keys())
    if request.loras and context.catalog[request.model].quantized:
        raise LoraError(
            "LoRAs cannot be added to quantized weights. Remove them, or choose the model in full precision."
        )
    for lora in request.loras:
        context.lora_path(lora.name, request.model)
    require_extras(request, context)
    check_prompts(request, traits)
    check_fitted(request)
    if not begins:
        _check_run(request, context)
    check_words(request)
    search.check(request, traits, context)
    return request


def check_size(request: Request, context: TaskContext) -> None:
    """Check whether a model that runs in the studio's own loop draws the size that a request names.

    Raises:
        SettingsError: a side is no multiple of what it draws, and the nearest that are; or longer than it can draw.
    """
    entry = context.catalog[request.model]
    if entry.quantized:
        entry = context.catalog.get(entry.quantized.base, entry)
    traits, step = context.traits(entry.key), size_multiple(entry)
    if traits and traits.backbone != "pipeline":
        require_multiples(request.width or step, request.height or step, step)
        if longest := longest_side(entry):
            require_longest(request.width, request.height, longest)


def _check_run(request: Request, context: TaskContext) -> None:
    """Check what a run of this request itself reads: its noise levels, and the files of its start."""
    if request.start != Request.start:
        check_start(request, fitted_folder(request.model, context.catalog.folder))
    # The default has levels for every model: nothing is read for it.
    if request.schedule != Request.schedule and (noise_schedule := context.noise_schedule(request.model)):
        check_levels(request, noise_schedule, context.learned)


def _name_schedule(request: Request, values: Mapping[str, object], context: TaskContext) -> Mapping[str, str]:
    """The schedule that a sampler takes where a request names the sampler and no schedule; another program's rules and
    flow models have their own."""
    traits = context.traits(request.model)
    is_diffusion = traits is not None and traits.prediction_type != "flow" and traits.backbone != "pipeline"
    if (
        "sampler" not in values
        or "schedule" in values
        or not is_diffusion
        or request.made_like.key != Request.made_like.key
    ):
        return {}
    key = request.sampler.key
    return {"schedule": SAMPLERS[key].schedule} if key in SAMPLERS and SAMPLERS[key].schedule else {}


def _draw_wildcards(request: Request, context: TaskContext) -> Request:
    """With the wildcards drawn, those of the prompt, of the negative prompt and of a story apart."""
    settings = request.story.settings.items()
    texts = {name: text for name, text in settings if name in ("scenes", "subject") and isinstance(text, str)}
    drawn = {name: context.expand(text, request.seed, name) for name, text in texts.items()}
    return request.replace(
        prompt=context.expand(request.prompt, request.seed),
        negative_prompt=context.expand(request.negative_prompt, request.seed, "negative prompt"),
        story=Choice(request.story.key, {**request.story.settings, **drawn}),
    )


def _add_prompt_loras(request: Request, context: TaskContext) -> Request:
    """With the LoRAs that the prompt asks for behind those of the list."""
    prompt, loras = take_loras(request.prompt)
    if take_loras(request.negative_prompt)[1]:
        raise PromptError(
            "A LoRA stands in the negative prompt, where it would do nothing: put it into the prompt, with a negative "
            "weight if it shall act against the picture."
        )
    prompt_loras = tuple(LoraChoice(context.lora_key(lora.name, request.model), lora.weight) for lora in loras)
    return request.replace(prompt=prompt, loras=(*request.loras, *prompt_loras))


def run(request: Request, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    job.set_cells([Cell(num_steps=request.num_inference_steps)])
    with context.model(request.model, job, find_extras(request)) as family:
        if is_searched(request):
            search.run(request, family, job, context)
            return
        if not isinstance(family, Family):
            run_stock(request, family, job, context)
            return
        passes = resolve_passes(request, family)
        check_second_pass(passes.request, context.limits)  # where the size is the model's own, only now it is known
        give_pictures(family, [request], context)
        job.set_status(JobStatus.RUNNING)
        with family.loras(context.load_loras(request.loras)):
            images, figures = _Generation(passes, family, job, context).make_pictures()
    _store(passes.request, images, job, context, figures)


class _Generation:
    """One run, or what is left to do of it where an equal one was finished before."""

    def __init__(self, passes: Passes, family: Family, job: Job, context: TaskContext):
        self.passes, self.family, self.job, self.context = passes, family, job, context
        budget = context.limits.max_cached_bytes
        self.finished = context.caches.get("text_to_image", lambda: FinishedRuns(budget))

    def make_pictures(self) -> tuple[np.ndarray, dict[str, Any]]:
        """The pictures (B, H, W, 3), uint8, and the figures of the run."""
        identity = self._identify()
        run = self.finished.find_run(self.job.owner, identity)
        start = time.monotonic()
        if run is None:
            step, noise = self._sample()
            figures: dict[str, Any] = {"evaluations": round(step.evaluations, 3), "seconds": step.seconds}
            if self.passes.first.cache is not None:
                figures["skipped"] = [round(row.skipped, 3) for row in self.job.view().cells[0].rows]
            run = FinishedRun.of_cell(self.job.view().cells[0], step.latents, noise)
            self.finished.add_run(self.job.owner, identity, run)
            latents = step.latents
        else:
            run.replay(self.job, 0)
            figures = {"evaluations": 0, "seconds": time.monotonic() - start, FROM_CACHE: True}
            latents = run.latents.to(self.family.device)
        return self._decode(identity, latents), figures

    def _sample(self) -> tuple[Step, NoiseSource | None]:
        """The last step of a run, all of whose steps are recorded in the job; and where a single pass stopped drawing.

        Of two passes the first is kept as what it would be alone, and taken where it was finished before: only the
        second is run where only the second was changed.
        """
        find_network = functools.partial(load_named_upscaler, context=self.context)
        is_double = self.passes.second is not None
        identity = identify_run(self.passes.first, self.family) if is_double else None
        kept = self.finished.find_run(self.job.owner, identity)
        first = kept.as_first_pass(self.family.device) if kept is not None else None
        if kept is not None and first is not None:
            kept.replay(self.job, 0, more=len(self.passes.levels) - 1)
        ended: list[FirstPass] = []
        run = self.passes.denoise(self.family, find_network, self.job.cancelled, self._encode, first, ended.append)
        try:
            for _, step, pictures in with_pictures(((0, step) for step in run), [self.family], KEPT_BYTES):
                if step.index == 0:
                    self.job.update_cell(0, num_steps=step.num_steps)  # the initialization may skip some
                record(self.job, 0, step, pictures)
        finally:
            # Also where the second pass was stopped or failed: its first one is whole.
            cell = self.job.view().cells[0]
            if is_double and ended and len(cell.rows) >= ended[0].num_steps:
                self.finished.add_run(self.job.owner, identity, FinishedRun.of_first_pass(cell, ended[0]))
        return step, None if is_double else ended[0].noise

    def _identify(self) -> Hashable | None:
        """What names the latents of both passes; the second one's upscaler counts by its file."""
        first = identify_run(self.passes.first, self.family)
        if first is None or self.passes.second is None:
            return first
        file = find_upscaler(self.passes.method.upscaler, self.context)
        stamp = file_stamp(file) if file else None
        method = json.dumps(self.passes.request.second_pass.to_json(), sort_keys=True)
        second = identify_run(self.passes.second, self.family)
        return (first, second, identify_model(self.family), tuple(self.passes.levels), method, stamp)

    def _encode(
        self, request: Request, family: Family, rows: int, num_steps: int | None = None
    ) -> tuple[dict[str, Conditioning], BranchPlan]:
        """What `encode_request` gives, the texts encoded only where they were not before."""
        prompts = read_request_prompts(request, num_steps)
        shape = (rows, request.width, request.height, json.dumps(request.made_like.to_json()))
        identity = identify_texts(family, prompts.texts, shape, request.prompt_weighting)
        encoded = self.finished.find_texts(self.job.owner, identity, family)
        if encoded is not None:
            return encoded, prompts.plan
        encoded = encode_prompts(prompts, request, family, rows)
        self.finished.add_texts(self.job.owner, identity, encoded)
        return encoded, prompts.plan

    def _decode(self, run: Hashable | None, latents: torch.Tensor) -> np.ndarray:
        identity = None if run is None else (run, identify_model(self.family))
        pictures = self.finished.find_pictures(self.job.owner, identity)
        if pictures is None:
            images = decode(self.family, latents)
            note_decoding(self.job, 0, self.family)
            self.finished.add_pictures(self.job.owner, identity, images, " ".join(self.family.notes))
            return images
        images, note = pictures
        if note:
            self.job.update_cell(0, note=f"{self.job.view().cells[0].note} {note}".strip())
        return images


def _store(request: Request, images: np.ndarray, job: Job, context: TaskContext, figures: Mapping[str, object]) -> None:
    """Show the pictures of a finished run and then save them: a full disk takes none of them away."""
    images = context.release_pictures(images, request.model, job)
    drawn = (request.width, request.height)  # of the first pass: a second one's pictures are larger
    job.update_cell(0, images=images, figures=figures)
    results: tuple[str, ...] = ()
    for i, image in enumerate(images):
        single = one_of_batch(request, i)
        results += (context.save_picture(image, single, job, index=i, figures=figures, drawn=drawn),)
        job.update_cell(0, results=results)
