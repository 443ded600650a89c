"""Comparing a network with its quantized copies: what is asked, and what is measured.

All run from the same noise. Two errors are measured by step: teacher-forced, where every network sees the full-
precision run's latents, which is each step's own error; and free-running, where each goes its own way, which is what
adds up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.devices import synchronize
from pipelines.core.errors import SettingsError
from pipelines.core.gradients import no_grad
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Request
from pipelines.core.validation import read_flag, read_object, require_fields, require_one_picture
from pipelines.models.quantization_folder import plain_choice
from pipelines.quantizers import Machine, require_runs
from pipelines.quantizers.base import sqnr
from pipelines.requests.limits import Limits
from pipelines.requests.refusals import require_own_parts

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from pipelines.families.base import Family

__all__ = [
    "DEFAULTS",
    "QuantizationRequest",
    "StepErrors",
    "in_order_of_use",
    "seconds_per_step",
    "step_errors",
    "trimmed_mean",
]

DEFAULTS = ("int8", "int4", "nf4")
MOST_VALUES = 65_536
"""Of a layer's output, so many values evenly spaced are compared: all layers' outputs of a large model do not fit."""

WARM_UPS, RUNS = 2, 10


@dataclasses.dataclass(frozen=True)
class QuantizationRequest:
    """Holds everything that decides a comparison of a model with its quantized forms.

    Attributes:
        base: the picture, in full precision.
        variants: the methods, each with its settings where they differ from the defaults.
        measure: whether to measure errors by layer and step, and the time of a step, which takes longer than the runs.
        peak: whether to measure the peak of memory, each in a process of its own.
        keep: whether to write the quantized models into the models folder.
    """

    base: Request
    variants: tuple[Choice, ...]
    measure: bool = True
    peak: bool = False
    keep: bool = False

    @classmethod
    def parse(
        cls,
        values: Mapping[str, object],
        read_request: Callable[[Mapping[str, object]], Request],
        machine: Machine,
        limits: Limits = Limits(),
    ) -> QuantizationRequest:
        """Read a quantization request from untrusted plain values.

        Args:
            values: {"base": fields of `Request`, "variants": [key or {"key", ...}, ...], "measure", "peak", "keep"}.
            read_request: makes a checked request of plain values.
            machine: that the methods must run on.
            limits: the server's caps.

        Raises:
            SettingsError: the first thing that is wrong.
            MethodFitError: a method cannot run here, and why.
        """
        require_fields(values, [field.name for field in dataclasses.fields(cls)], "a quantization")
        base = read_request(read_object(values.get("base", {}), "base of a quantization"))
        require_one_picture(base.batch_size, "A comparison makes one picture a cell")
        require_own_parts(base, "A comparison of quantizers")
        if base.loras:
            raise SettingsError(
                "LoRAs cannot be added to quantized weights. Remove them, or make the picture in full precision."
            )
        flags = {
            name: read_flag(values.get(name, default), f"setting {name}")
            for name, default in (("measure", True), ("peak", False), ("keep", False))
        }
        return cls(base, _read_variants(values.get("variants", DEFAULTS), machine, limits.max_variants), **flags)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `parse` reads back to an equal request."""
        return {
            "base": self.base.to_json(),
            "variants": [one.to_json() for one in self.variants],
            "measure": self.measure,
            "peak": self.peak,
            "keep": self.keep,
        }


def _read_variants(values: object, machine: Machine, most: int) -> tuple[Choice, ...]:
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= most:
        count = f"{len(values)} quantizers are" if isinstance(values, (list, tuple)) else f"{str(values)[:80]!r} is"
        raise SettingsError(f"{count} given. Give a list of 1 to {most}.")
    choices = []
    for value in values:
        choice = plain_choice(Choice.parse(value))
        require_runs(choice, machine)
        if choice in choices:
            raise SettingsError(f"The quantizer {choice.key} is given twice with the same settings. Give each once.")
        choices.append(choice)
    return tuple(choices)


@dataclasses.dataclass(frozen=True)
class StepErrors:
    """Describes one step's errors of one variant, in decibels.

    Attributes:
        forced: SQNR of the estimate of x0, from the full-precision run's latents.
        layers: SQNR of each layer's output in the same evaluation, in the order that was asked for.
    """

    forced: float
    layers: tuple[float, ...]


@no_grad
def step_errors(
    full: Denoiser, others: Sequence[Denoiser], latents: torch.Tensor, level: Level, layers: Sequence[str]
) -> list[StepErrors]:
    """Evaluate all networks on the same latents, and compare their outputs layer by layer.

    Args:
        full: of the full-precision network.
        others: of its quantized copies.
        latents: (B, C, h, w), of the full-precision run.
        level: their noise level.
        layers: names of the layers to compare; one that a copy lacks or never calls has no error, NaN.

    Raises:
        Cancelled: one of the runs was stopped.
    """
    with _record_outputs(_get_module(full), layers) as reference_outputs:
        reference = full.predict(latents, level).denoised
    errors_by_network = []
    for denoiser in others:
        with _record_outputs(_get_module(denoiser), layers) as outputs:
            denoised = denoiser.predict(latents, level).denoised
        errors = tuple(
            sqnr(reference_outputs[name], outputs[name]) if name in reference_outputs and name in outputs else math.nan
            for name in layers
        )
        errors_by_network.append(StepErrors(sqnr(reference, denoised), errors))
    return errors_by_network


@no_grad
def in_order_of_use(denoiser: Denoiser, latents: torch.Tensor, level: Level, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers in the order in which an evaluation calls them, which is from the input to the output.

    Raises:
        Cancelled: the run was stopped.
    """
    with _record_outputs(_get_module(denoiser), layers) as outputs:
        denoiser.predict(latents, level)
    return tuple(outputs)


def _get_module(denoiser: Denoiser) -> torch.nn.Module:
    """The network itself, whose layers are listened to; a quantized model is always a family."""
    return cast("Family", denoiser.network).network


@contextlib.contextmanager
def _record_outputs(network: torch.nn.Module, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Collects some values of what the layers give while the context lasts; the hooks go with it."""
    outputs: dict[str, torch.Tensor] = {}

    def listen(name: str) -> RemovableHandle:
        def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
            flat = output.detach().flatten()
            outputs[name] = flat[:: max(1, len(flat) // MOST_VALUES)].float().clone()

        return network.get_submodule(name).register_forward_hook(keep)

    handles = []
    try:
        handles += [listen(name) for name in layers]
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@no_grad
def seconds_per_step(
    denoisers: Sequence[Denoiser], latents: torch.Tensor, level: Level, runs: int = RUNS
) -> list[float]:
    """Measure the seconds of one guided evaluation of each: two warm-ups, then so many in turns, a fifth dropped as
    extremes.

    In turns, because machines are shared: whatever slows one network down slows its neighbors too.

    Raises:
        Cancelled: one of the runs was stopped.
    """
    seconds: list[list[float]] = [[] for _ in denoisers]
    for turn in range(WARM_UPS + runs):
        for index, denoiser in enumerate(denoisers):
            synchronize(latents.device)
            start_time = time.perf_counter()
            denoiser.predict(latents, level)
            synchronize(latents.device)
            if turn >= WARM_UPS:
                seconds[index].append(time.perf_counter() - start_time)
    return [trimmed_mean(one) for one in seconds]


def trimmed_mean(values: Sequence[float]) -> float:
    """Compute the mean without the largest and the smallest tenth."""
    drop = len(values) // 10
    middle = sorted(values)[drop : len(values) - drop or None]
    return sum(middle) / len(middle)
