"""Comparing a network with its quantized copies: what is asked, and what is measured.

All run from the same noise. Two errors are told by step: teacher-forced, where every network sees the full-precision
run's latents, which is each step's own error; and free-running, where each goes its own way, which is what adds up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import SettingsError, UnknownMethodError
from pipelines.core.schedule import Level
from pipelines.core.types import Choice, Request
from pipelines.models.quantization_folder import plain_choice
from pipelines.quantizers import Machine, require_runs
from pipelines.quantizers.base import sqnr

__all__ = [
    "DEFAULTS",
    "MOST_VARIANTS",
    "QuantizationRequest",
    "StepErrors",
    "in_order_of_use",
    "seconds_per_step",
    "step_errors",
    "trimmed_mean",
]

MOST_VARIANTS = 7
DEFAULTS = ("int8", "int4", "nf4")
MOST_VALUES = 65_536
"""Of a layer's output, so many values evenly spaced are compared: all layers' outputs of a large model do not fit."""

WARM_UPS, RUNS = 2, 10


@dataclasses.dataclass(frozen=True)
class QuantizationRequest:
    """Everything that decides a comparison of a model with its quantized forms.

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
        cls, values: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Request], machine: Machine
    ) -> QuantizationRequest:
        """From untrusted plain values.

        Args:
            values: {"base": fields of `Request`, "variants": [key or {"key", ...}, ...], "measure", "peak", "keep"}.
            read: makes a checked request of plain values.
            machine: that the methods must run on.

        Raises:
            SettingsError: the first thing that is wrong.
            MethodFitError: a method cannot run here, and why.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise UnknownMethodError("setting of a quantization", unknown[0], known)
        plain = values.get("base", {})
        if not isinstance(plain, Mapping):
            raise SettingsError(
                f"The base of a quantization is given as {str(plain)[:80]!r}. Give an object of settings."
            )
        base = read(plain)
        if base.batch_size != 1:
            raise SettingsError(
                f"The batch size is {base.batch_size}. A comparison makes one picture a cell: choose 1."
            )
        if base.loras:
            raise SettingsError(
                "LoRAs cannot be added to quantized weights. Remove them, or make the picture in full precision."
            )
        flags = {
            name: _yes_or_no(name, values.get(name, default))
            for name, default in (("measure", True), ("peak", False), ("keep", False))
        }
        return cls(base, _variants(values.get("variants", DEFAULTS), machine), **flags)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `parse` reads back to an equal request."""
        return {
            "base": self.base.to_json(),
            "variants": [one.to_json() for one in self.variants],
            "measure": self.measure,
            "peak": self.peak,
            "keep": self.keep,
        }


def _yes_or_no(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(f"{name} is {str(value)[:80]!r}. It must be true or false.")
    return value


def _variants(values: Any, machine: Machine) -> tuple[Choice, ...]:
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MOST_VARIANTS:
        count = f"{len(values)} quantizers are" if isinstance(values, (list, tuple)) else f"{str(values)[:80]!r} is"
        raise SettingsError(f"{count} given. Give a list of 1 to {MOST_VARIANTS}.")
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
    """One step's errors of one variant, in decibels.

    Attributes:
        forced: SQNR of the estimate of x0, from the full-precision run's latents.
        layers: SQNR of each layer's output in the same evaluation, in the order that was asked for.
    """

    forced: float
    layers: tuple[float, ...]


@torch.no_grad()
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
    with _outputs(full.network.network, layers) as wanted:
        reference = full.predict(latents, level).denoised
    found = []
    for denoiser in others:
        with _outputs(denoiser.network.network, layers) as own:
            denoised = denoiser.predict(latents, level).denoised
        errors = tuple(sqnr(wanted[name], own[name]) if name in wanted and name in own else math.nan for name in layers)
        found.append(StepErrors(sqnr(reference, denoised), errors))
    return found


@torch.no_grad()
def in_order_of_use(denoiser: Denoiser, latents: torch.Tensor, level: Level, layers: Sequence[str]) -> tuple[str, ...]:
    """The layers in the order in which an evaluation calls them, which is from the input to the output.

    Raises:
        Cancelled: the run was stopped.
    """
    with _outputs(denoiser.network.network, layers) as kept:
        denoiser.predict(latents, level)
    return tuple(kept)


@contextlib.contextmanager
def _outputs(network: torch.nn.Module, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Collects some values of what the layers give while the context lasts; the hooks go with it."""
    kept: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Any:
        def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            flat = output.detach().flatten()
            kept[name] = flat[:: max(1, len(flat) // MOST_VALUES)].float().clone()

        return network.get_submodule(name).register_forward_hook(keep)

    handles = []
    try:
        handles += [listen(name) for name in layers]
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def seconds_per_step(
    denoisers: Sequence[Denoiser], latents: torch.Tensor, level: Level, runs: int = RUNS
) -> list[float]:
    """Seconds of one guided evaluation of each: two warm-ups, then so many in turns, a fifth dropped as extremes.

    In turns, because machines are shared: whatever slows one network down slows its neighbors too.

    Raises:
        Cancelled: one of the runs was stopped.
    """
    spent: list[list[float]] = [[] for _ in denoisers]
    for turn in range(WARM_UPS + runs):
        for index, denoiser in enumerate(denoisers):
            _settle(latents)
            began = time.perf_counter()
            denoiser.predict(latents, level)
            _settle(latents)
            if turn >= WARM_UPS:
                spent[index].append(time.perf_counter() - began)
    return [trimmed_mean(one) for one in spent]


def _settle(like: torch.Tensor) -> None:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)


def trimmed_mean(values: Sequence[float]) -> float:
    """Mean without the largest and the smallest tenth."""
    drop = len(values) // 10
    kept = sorted(values)[drop : len(values) - drop or None]
    return sum(kept) / len(kept)
