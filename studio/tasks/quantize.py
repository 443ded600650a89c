"""The task behind the Quantize tab, the /quantize endpoint and `python -m studio quantize`."""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.benchmarks.quantization_peak import peak_bytes
from pipelines.core.errors import MethodFitError, StepwiseError, StoreError
from pipelines.core.loop import Run, denoise_together
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Step
from pipelines.families.base import Family
from pipelines.models.quantization_folder import RECORD, WEIGHTS, keep_network, quantized_entry, require_plain
from pipelines.quantizers import QUANTIZERS, Quantizer, StorableQuantizer, build_quantizer, this_machine
from pipelines.quantizers.base import Report, report_of, sqnr
from pipelines.quantizers.files import file_bytes
from pipelines.quantizers.stored import stored_bytes
from pipelines.requests.reference import likeness
from pipelines.requests.text_to_image import build_run, decode, resolve
from pipelines.workflows.quantize import QuantizationRequest, in_order_of_use, seconds_per_step, step_errors
from studio.jobs.job import Cell, Job, JobStatus
from studio.tasks.recording import record
from studio.tasks.text_to_image import parse_request

if TYPE_CHECKING:
    from studio.tasks.context import TaskContext

__all__ = ["FULL", "Quantize"]

FULL = "Full precision"
_LOG = logging.getLogger("stepwise.quantize")


class Quantize:
    """Run a model beside its quantized copies from one noise, measure how far they go from it, keep them if asked."""

    key = "quantize"

    def parse(self, values: Mapping[str, Any], context: TaskContext) -> QuantizationRequest:
        machine = this_machine(context.device)
        request = QuantizationRequest.parse(values, lambda plain: parse_request(plain, context), machine)
        require_plain(context.catalog[request.base.model])
        if request.keep:
            context.require_keeping()
        return request

    def run(self, request: QuantizationRequest, job: Job, context: TaskContext) -> None:
        quantizing = _Quantizing(request, job, context)
        try:
            quantizing.run()
        finally:
            job.set_outcome(quantizing.outcome())


@dataclasses.dataclass
class _Variant:
    """One cell: the full-precision model (without a choice) or a quantized one, and all that is found out about it."""

    label: str
    key: str
    choice: Choice | None = None
    quantizer: Quantizer | None = None
    family: Family | None = None
    report: Report | None = None
    run: Run | None = None
    picture: np.ndarray | None = None
    problem: StepwiseError | None = None
    denoised: list[torch.Tensor] = dataclasses.field(default_factory=list)
    forced: list[float] = dataclasses.field(default_factory=list)
    layers: list[tuple[float, ...]] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


class _Quantizing:
    """One comparison in the worker thread. The first variant is the full-precision model."""

    def __init__(self, request: QuantizationRequest, job: Job, context: TaskContext):
        self.request, self.job, self.context, self.base = request, job, context, request.base
        entry = context.catalog[self.base.model]
        self.variants = [_Variant(FULL, entry.key)]
        for choice in request.variants:
            made = quantized_entry(entry, choice)
            self.variants.append(_Variant(made.label.removeprefix(f"{entry.label}, "), made.key, choice))
        self.layer_names: tuple[str, ...] = ()
        self.starts: list[tuple[torch.Tensor, Level]] = []
        job.set_cells([Cell(label=one.label, num_steps=self.base.num_inference_steps) for one in self.variants])

    def run(self) -> None:
        """Load, quantize, run, measure, keep.

        Raises:
            Cancelled: the person stopped it; finished pictures stay.
            StepwiseError: no variant could run.
        """
        with self.context.model(self.base.model, self.job) as full, ExitStack() as leased:
            if not isinstance(full, Family):
                raise MethodFitError(
                    "This model runs through its own pipeline only and cannot be quantized here. Choose another."
                )
            self.resolved = resolve(self.base, full)
            self.base = self.resolved.request
            self.variants[0].family = full
            for index, one in enumerate(self.variants[1:], 1):
                with self._told(index):
                    self._quantize(one, full, leased)
            able = [one for one in self.variants[1:] if one.family is not None]
            if not able:
                raise next(one.problem for one in self.variants[1:])
            self.job.set_status(JobStatus.RUNNING)
            self._run([self.variants[0], *able])
            self._figures(able)
            if self.request.keep:
                self._keep(able)
            if self.request.measure:
                self._measure([self.variants[0], *able])
            if self.request.peak:
                self._peaks()
        self.job.set_status(JobStatus.RUNNING)

    @contextmanager
    def _told(self, index: int) -> Iterator[None]:
        """A variant's failure is its own: it is said in its cell, and the others go on."""
        try:
            yield
        except StepwiseError as error:
            _LOG.info("job %s, cell %s failed: %s", self.job.id, index, error)
            self.variants[index].problem = error
            self.job.update_cell(index, num_steps=len(self.job.view().cells[index].rows), note=str(error))

    def _quantize(self, one: _Variant, full: Family, leased: ExitStack) -> None:
        machine = this_machine(self.context.device)
        self.job.set_status(JobStatus.LOADING, f"Quantizing to {one.label}")
        one.quantizer = build_quantizer(one.choice, machine)
        network = full.network
        one.family = leased.enter_context(self.context.quantized(self.base.model, one.choice, full, self.job))
        one.report = report_of(network, one.family.network, one.quantizer)
        stored = isinstance(one.quantizer, StorableQuantizer)
        one.figures |= {"bytes": one.report.bytes, "share": one.report.share, "disk": None}
        if stored:
            one.figures["disk"] = file_bytes(network, one.family.network, one.quantizer, one.choice)

    def _run(self, variants: Sequence[_Variant]) -> None:
        """All from one noise, in lockstep, every step seen."""
        for one in variants:
            one.run = build_run(self.resolved, one.family, self.job.cancelled)
        full = variants[0]
        position = full.run.latents
        for place, step in denoise_together([one.run for one in variants]):
            one, index = variants[place], self.variants.index(variants[place])
            record(self.job, index, step, one.family)
            if self.request.measure:
                one.denoised.append(step.denoised.cpu())
                if one is full:
                    self.starts.append((position, step.level))
                    position = step.latents
            if step.index + 1 == step.num_steps:
                self._finish(index, one, step)

    def _finish(self, index: int, one: _Variant, step: Step) -> None:
        """Show and store a finished picture at once, so that no later stop can lose it."""
        one.picture = decode(one.family, step.latents)[0]
        one.figures |= {"evaluations": step.evaluations, "seconds": step.seconds}
        settings = {name: value for name, value in self.request.to_json().items() if name not in ("base", "keep")}
        figures = {**one.figures, "quantize": settings}
        if one.choice:
            figures["quantization"] = {**one.choice.to_json(), "model": self.base.model}
        self.job.update_cell(index, images=one.picture[None], figures=_numbers(one.figures))
        model = one.key if one.key in self.context.catalog else self.base.model
        try:
            request = self.base.replace(model=model)
            result = self.context.save_picture(one.picture, request, self.job, index=index, figures=figures)
            self.job.update_cell(index, results=(result,))
        except StoreError as error:
            self.job.update_cell(index, note=str(error))

    def _figures(self, variants: Sequence[_Variant]) -> None:
        """What is known once the pictures are there."""
        full = self.variants[0]
        network = full.family.network
        disk = self.context.disk_bytes(self.base.model, full.family)
        full.figures |= {"bytes": stored_bytes(network), "share": 0.0, "disk": disk}
        for one in variants:
            one.figures |= likeness(one.picture, full.picture)
        self._show()

    def _measure(self, variants: Sequence[_Variant]) -> None:
        """Errors by layer and step, and the seconds of a step.

        Raises:
            Cancelled: the person stopped it; the pictures are there by now.
        """
        full, *others = variants
        touched = {layer.name for one in others for layer in one.report.touched}
        denoisers = [one.run.denoiser for one in variants]
        self.layer_names = in_order_of_use(denoisers[0], *self.starts[0], sorted(touched))
        for index, (latents, level) in enumerate(self.starts):
            self.job.set_status(JobStatus.RUNNING, f"Measuring step {index + 1} of {len(self.starts)}")
            found = step_errors(denoisers[0], denoisers[1:], latents, level, self.layer_names)
            for one, errors in zip(others, found, strict=True):
                one.forced.append(errors.forced)
                one.layers.append(errors.layers)
        self.job.set_status(JobStatus.RUNNING, "Measuring the time of a step")
        seconds = seconds_per_step(denoisers, *self.starts[len(self.starts) // 2])
        for one, spent in zip(variants, seconds, strict=True):
            one.figures["step_seconds"] = spent
            one.figures["step_ratio"] = spent / seconds[0]
        self._show()

    def _keep(self, variants: Sequence[_Variant]) -> None:
        entry, network = self.context.catalog[self.base.model], self.variants[0].family.network
        for one in variants:
            with self._told(self.variants.index(one)):
                self.job.set_status(JobStatus.RUNNING, f"Keeping {one.label}")
                keep_network(self.context.catalog.folder, entry, one.choice, network, one.family.network, one.quantizer)
                one.figures["kept"] = True
        self.context.catalog.rescan()

    def _peaks(self) -> None:
        """Each in a process of its own, one after another.

        Raises:
            Cancelled: the person stopped it.
        """
        folder, device = self.context.catalog.folder, self.context.device
        for index, one in enumerate(self.variants):
            if one.picture is None:
                continue
            with self._told(index), tempfile.TemporaryDirectory() as scratch:
                self.job.set_status(JobStatus.RUNNING, f"Measuring the memory of {one.label}")
                file = self._written(one, Path(scratch)) if isinstance(one.quantizer, StorableQuantizer) else None
                method = one.choice.to_json() if one.choice else None
                one.figures["peak"] = peak_bytes(
                    self.base.model, folder, device, self.base.to_json(), method, file, self.job.cancelled
                )
        self._show()

    def _written(self, one: _Variant, folder: Path) -> Path:
        full, entry = self.variants[0].family.network, self.context.catalog[self.base.model]
        key = keep_network(folder, entry, one.choice, full, one.family.network, one.quantizer)
        (folder / key / RECORD).unlink()
        return folder / key / WEIGHTS

    def _show(self) -> None:
        for index, one in enumerate(self.variants):
            if one.picture is not None:
                self.job.update_cell(index, figures=_numbers(one.figures))

    def outcome(self) -> dict[str, Any]:
        """The comparison as plain values: a row a cell, errors by step, heat maps, and what stays in full precision."""
        others = [one for one in self.variants[1:] if one.forced]
        reports = [one.report for one in self.variants if one.report]
        skipped = {layer.name: layer for report in reports for layer in report.skipped}
        cells = self.job.view().cells
        return {
            "prompt": self.base.prompt,
            "seed": self.base.seed,
            "model": self.base.model,
            "label": self.context.catalog[self.base.model].label,
            "steps": self.base.num_inference_steps,
            "rows": [self._row(index, one, cells[index]) for index, one in enumerate(self.variants)],
            "errors": [
                {"label": one.label, "forced": _finite(one.forced), "free": _finite(self._free(one))} for one in others
            ],
            "heat": [{"label": one.label, "steps": [_finite(layers) for layers in one.layers]} for one in others],
            "layers": list(self.layer_names),
            "skipped": [dataclasses.asdict(layer) for layer in skipped.values()],
            "methods": {one.label: QUANTIZERS[one.choice.key].help for one in self.variants[1:]},
        }

    def _free(self, one: _Variant) -> list[float]:
        pairs = zip(self.variants[0].denoised, one.denoised, strict=False)
        return [sqnr(reference, own) for reference, own in pairs]

    def _row(self, index: int, one: _Variant, cell: Cell) -> dict[str, Any]:
        decibels = one.figures.get("psnr")
        worst = min((layer.sqnr for layer in one.report.touched), default=None) if one.report else None
        names = ("bytes", "share", "disk", "peak", "step_seconds", "step_ratio", "ssim")
        return {
            "cell": index + 1,
            "label": one.label,
            "key": one.key,
            "method": one.choice.to_json() if one.choice else None,
            **{name: one.figures.get(name) for name in names},
            "psnr": decibels if decibels is not None and math.isfinite(decibels) else None,
            "identical": decibels == math.inf,
            "kept": bool(one.figures.get("kept")),
            "layers": len(one.report.touched) if one.report else 0,
            "worst_layer": worst,
            "result": cell.results[0] if cell.results else None,
            "problem": str(one.problem) if one.problem else "",
        }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [round(value, 2) if math.isfinite(value) else None for value in values]


def _numbers(figures: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: value for name, value in figures.items() if not isinstance(value, bool)}
