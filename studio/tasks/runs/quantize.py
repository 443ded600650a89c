"""A model beside its quantized copies: run from one noise in lockstep, measured, and kept if asked."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines.benchmarks.quantization_peak import device_peak_bytes, peak_bytes
from pipelines.core.errors import StepwiseError, StoreError
from pipelines.core.loop import Run, denoise, denoise_together
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Step
from pipelines.families.base import Family
from pipelines.models.quantization_folder import RECORD, WEIGHTS, keep_network, quantized_entry, require_plain
from pipelines.quantizers import StorableQuantizer, build_quantizer, require_fit, this_machine
from pipelines.quantizers.base import build_report
from pipelines.quantizers.files import file_bytes
from pipelines.quantizers.stored import stored_bytes
from pipelines.requests.encoding import decode
from pipelines.requests.reference import likeness
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.workflows.quantize import QuantizationRequest, in_order_of_use, seconds_per_step, step_errors
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.own_loop import refuse_stock, require_own_loop
from studio.tasks.recording import KEPT_BYTES, note_decoding, record
from studio.tasks.runs.quantize_outcome import Variant, build_outcome
from studio.tasks.runs.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["FULL", "parse", "run"]

_STOCK = " and cannot be quantized here. Choose another."

FULL = "Full precision"


_LOG = logging.getLogger("stepwise.quantize")


class _Quantizing:
    """One comparison in the worker thread. The first variant is the full-precision model."""

    def __init__(self, request: QuantizationRequest, job: Job, context: TaskContext):
        self.request, self.job, self.context, self.base = request, job, context, request.base
        entry = context.catalog[self.base.model]
        self.variants = [Variant(FULL, entry.key)]
        for choice in request.variants:
            quantized = quantized_entry(entry, choice)
            self.variants.append(Variant(quantized.label.removeprefix(f"{entry.label}, "), quantized.key, choice))
        self.layer_names: tuple[str, ...] = ()
        self.positions: list[tuple[torch.Tensor, Level]] = []
        job.set_cells([Cell(label=one.label, num_steps=self.base.num_inference_steps) for one in self.variants])

    def run(self) -> None:
        """Load, quantize, run, measure, keep.

        Raises:
            Cancelled: the person stopped it; finished pictures stay.
            StepwiseError: no variant could run.
        """
        with self.context.model(self.base.model, self.job) as loaded, ExitStack() as leases:
            full = require_own_loop(loaded, _STOCK)
            self.resolved = resolve(self.base, full)
            self.base = self.resolved.request
            self.variants[0].family, self.variants[0].is_loaded = full, True
            for index, choice in enumerate(self.request.variants, 1):
                with self._isolate_failure(index):
                    self._quantize(self.variants[index], choice, full, leases)
            runnable = [variant for variant in self.variants[1:] if variant.is_loaded]
            if not runnable:
                raise next(variant.problem for variant in self.variants[1:] if variant.problem)
            self.job.set_status(JobStatus.RUNNING)
            self._run([self.variants[0], *runnable])
            self._compute_figures(runnable)
            if self.request.keep:
                self._keep(runnable)
            if self.request.measure:
                self._measure([self.variants[0], *runnable])
            if self.request.peak:
                self._measure_peaks()
        self.job.set_status(JobStatus.RUNNING)

    @contextmanager
    def _isolate_failure(self, index: int) -> Iterator[None]:
        """A variant's failure is its own: it is said in its cell, and the others go on."""
        try:
            yield
        except StepwiseError as error:
            _LOG.info("job %s, cell %s failed: %s", self.job.id, index, error)
            self.variants[index].problem = error
            self.job.update_cell(index, num_steps=len(self.job.view().cells[index].rows), note=str(error))

    def _quantize(self, variant: Variant, choice: Choice, full: Family, leases: ExitStack) -> None:
        machine = this_machine(self.context.device)
        self.job.set_status(JobStatus.LOADING, f"Quantizing to {variant.label}")
        variant.quantizer = quantizer = build_quantizer(choice, machine)
        network = full.network
        variant.family = leases.enter_context(self.context.quantized(self.base.model, choice, full, self.job))
        variant.is_loaded = True
        variant.report = report = build_report(network, variant.family.network, quantizer)
        variant.figures |= {"bytes": report.bytes, "share": report.share, "disk": None}
        if isinstance(quantizer, StorableQuantizer):
            variant.figures["disk"] = file_bytes(network, variant.family.network, quantizer, choice)

    def _run(self, variants: Sequence[Variant]) -> None:
        """All from one noise, in lockstep, every step seen."""
        for variant in variants:
            variant.run = build_run(self.resolved, variant.family, self.job.cancelled)
        full = variants[0]
        position = full.run.latents
        steps = denoise_together([variant.run for variant in variants])
        families = [variant.family for variant in variants]
        for place, step, pictures in with_pictures(steps, families, KEPT_BYTES):
            variant, index = variants[place], self.variants.index(variants[place])
            record(self.job, index, step, pictures)
            if self.request.measure:
                variant.denoised.append(step.denoised)
                if variant is full:
                    self.positions.append((position, step.level))
                    position = step.latents
            if step.index + 1 == step.num_steps:
                self._finish(index, variant, step)

    def _finish(self, index: int, variant: Variant, step: Step) -> None:
        """Show and store a finished picture at once, so that no later stop can lose it."""
        variant.picture = decode(variant.family, step.latents)[0]
        note_decoding(self.job, index, variant.family)
        variant.figures |= {"evaluations": step.evaluations, "seconds": step.seconds}
        settings = {name: value for name, value in self.request.to_json().items() if name not in ("base", "keep")}
        figures = {**variant.figures, "quantize": settings}
        if variant.choice:
            figures["quantization"] = {**variant.choice.to_json(), "model": self.base.model}
        images = self.context.release_pictures(variant.picture[None], self.base.model, self.job, index)
        self.job.update_cell(index, images=images, figures=_drop_flags(variant.figures))
        model = variant.key if variant.key in self.context.catalog else self.base.model
        try:
            request = self.base.replace(model=model)
            result = self.context.save_picture(variant.picture, request, self.job, index=index, figures=figures)
            self.job.update_cell(index, results=(result,))
        except StoreError as error:
            self.job.update_cell(index, note=str(error))

    def _compute_figures(self, variants: Sequence[Variant]) -> None:
        """What is known once the pictures are there."""
        full = self.variants[0]
        network = full.family.network
        disk = self.context.disk_bytes(self.base.model, full.family)
        full.figures |= {"bytes": stored_bytes(network), "share": 0.0, "disk": disk}
        for variant in variants:
            if variant.picture is not None and full.picture is not None:
                variant.figures |= likeness(variant.picture, full.picture)
        self._show()

    def _measure(self, variants: Sequence[Variant]) -> None:
        """Errors by layer and step, and the seconds of a step.

        Raises:
            Cancelled: the person stopped it; the pictures are there by now.
        """
        quantized = variants[1:]
        reports = [variant.report for variant in quantized if variant.report is not None]
        touched = {layer.name for report in reports for layer in report.quantized_layers}
        denoisers = [variant.run.denoiser for variant in variants]
        self.layer_names = in_order_of_use(denoisers[0], *self.positions[0], sorted(touched))
        for index, (latents, level) in enumerate(self.positions):
            self.job.set_status(JobStatus.RUNNING, f"Measuring step {index + 1} of {len(self.positions)}")
            errors_by_network = step_errors(denoisers[0], denoisers[1:], latents, level, self.layer_names)
            for variant, errors in zip(quantized, errors_by_network, strict=True):
                variant.forced.append(errors.forced)
                variant.layers.append(errors.layers)
        self.job.set_status(JobStatus.RUNNING, "Measuring the time of a step")
        seconds = seconds_per_step(denoisers, *self.positions[len(self.positions) // 2])
        for variant, step_seconds in zip(variants, seconds, strict=True):
            variant.figures["step_seconds"] = step_seconds
            variant.figures["step_ratio"] = step_seconds / seconds[0]
        self._show()

    def _keep(self, variants: Sequence[Variant]) -> None:
        entry, network = self.context.catalog[self.base.model], self.variants[0].family.network
        for variant in variants:
            if (choice := variant.choice) is None:  # full precision is in the catalog already
                continue
            with self._isolate_failure(self.variants.index(variant)):
                self.job.set_status(JobStatus.RUNNING, f"Saving {variant.label}")
                keep_network(
                    self.context.catalog.folder,
                    entry,
                    choice,
                    network,
                    variant.family.network,
                    variant.quantizer,
                )
                variant.figures["kept"] = True
        self.context.catalog.rescan()

    def _measure_peaks(self) -> None:
        """On the CPU each in a process of its own, one after another; on a device from its allocator.

        Raises:
            Cancelled: the person stopped it.
        """
        folder, device = self.context.catalog.folder, self.context.device
        for index, variant in enumerate(self.variants):
            if variant.picture is None:
                continue
            with self._isolate_failure(index), tempfile.TemporaryDirectory() as scratch:
                self.job.set_status(JobStatus.RUNNING, f"Measuring the memory of {variant.label}")
                if device != "cpu":
                    variant.figures["peak"] = device_peak_bytes(
                        variant.family, functools.partial(_run_first_step, variant.run)
                    )
                    continue
                choice, file, method = variant.choice, None, None
                if choice is not None:
                    method = choice.to_json()
                    if isinstance(variant.quantizer, StorableQuantizer):
                        file = self._write_for_peak(variant, choice, Path(scratch))
                variant.figures["peak"] = peak_bytes(
                    self.base.model, folder, device, self.base.to_json(), method, file, self.job.cancelled
                )
        self._show()

    def _write_for_peak(self, variant: Variant, choice: Choice, folder: Path) -> Path:
        full, entry = self.variants[0].family.network, self.context.catalog[self.base.model]
        key = keep_network(folder, entry, choice, full, variant.family.network, variant.quantizer)
        (folder / key / RECORD).unlink()
        return folder / key / WEIGHTS

    def _show(self) -> None:
        for index, one in enumerate(self.variants):
            if one.picture is not None:
                self.job.update_cell(index, figures=_drop_flags(one.figures))


def _drop_flags(figures: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in figures.items() if not isinstance(value, bool)}


def parse(values: Mapping[str, object], context: TaskContext) -> QuantizationRequest:
    """Read untrusted values: see `Task.parse`."""
    machine = this_machine(context.device)
    request = QuantizationRequest.parse(values, lambda plain: parse_request(plain, context), machine, context.limits)
    traits = context.traits(request.base.model)
    refuse_stock(context.catalog[request.base.model], _STOCK)
    require_plain(context.catalog[request.base.model])
    for choice in request.variants:
        require_fit(choice, traits)
    if request.keep:
        context.require_keeping()
    return request


def run(request: QuantizationRequest, job: Job, context: TaskContext) -> None:
    """Do the work and report to the job: see `Task.run`."""
    quantizing = _Quantizing(request, job, context)
    try:
        quantizing.run()
    finally:
        label = context.catalog[request.base.model].label
        outcome = build_outcome(quantizing.base, label, quantizing.variants, job.view().cells, quantizing.layer_names)
        job.set_outcome(outcome)


def _run_first_step(run: Run) -> Step:
    return next(denoise(run))
