"""What a device does where memory is short: layers one by one, decoding in tiles; and where numbers overflow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipelines.core.errors import ModelError
from pipelines.families.vae_memory import estimate_vae_memory
from pipelines.requests.encoding import decode
from pipelines.weights.offload import streamed

__all__ = ["STREAMED_HEAD", "TROUBLE_HEAD", "check_nan", "decode_in_little_memory", "measure_streaming"]

STREAMED_HEAD = (
    "| model | whole: s a step | layer by layer | peak, whole and layer by layer | difference |",
    "| --- | --- | --- | --- | --- |",
)
"""Above the rows of `measure_streaming`."""

TROUBLE_HEAD = ("| what happens | what the studio does |", "| --- | --- |")
"""Above the rows of `check_nan` and `decode_in_little_memory`."""


def measure_streaming(
    title: str,
    family: Any,
    steps: int,
    denoise: Callable[[Any], torch.Tensor],
    timed: Callable[[Sequence[Callable[[], object]]], tuple[Sequence[float], Sequence[int]]],
) -> str:
    """Measure a run with the whole network on the device, and with its layers coming one by one.

    Args:
        title: of the row.
        family: on the device; its network waits in the host's memory afterwards.
        steps: of the run.
        denoise: makes the run of a family and returns the final latents.
        timed: measures works in turns: returns the seconds and the peaks of each.
    """
    results: list[torch.Tensor] = []
    (whole,), peaks = timed([lambda: results.append(denoise(family))])
    waiting = copy.copy(family)
    network = streamed(family.network.to("cpu"), str(family.vae.device))
    waiting.components = {**family.components, family.network_name: network}
    (ahead,), others = timed([lambda: results.append(denoise(waiting))])
    first, last = results[0].float(), results[-1].float()
    peak = f"{peaks[0] / 1e9:.2f} and {others[0] / 1e9:.2f} GB" if peaks else "–"
    difference = float((first - last).norm() / first.norm())
    return f"| {title} | {whole / steps:.3f} | {ahead / whole:.2f} × | {peak} | {difference:.1e} |"


def check_nan(family: Any, latents: torch.Tensor) -> str:
    """Decode latents that are not numbers: a row of what the studio says."""
    try:
        decode(family, latents * float("nan"))
    except ModelError as error:
        return f"| latents with NaN | stops: {error} |"
    return "| latents with NaN | **nothing: a black picture** |"


def decode_in_little_memory(family: Any, latents: torch.Tensor) -> str:
    """Decode where the device gives a third of what that takes: a row of what the studio says."""
    device, kind = family.device, getattr(torch, family.device.type)
    whole = decode(family, latents)
    pixels = latents.shape[-1] * latents.shape[-2] * family.vae_scale_factor**2
    room = pixels * estimate_vae_memory(family.vae, decodes=True) / 3
    total = kind.mem_get_info(device)[1]
    kind.empty_cache()
    kind.set_per_process_memory_fraction(min(1.0, (kind.memory_allocated(device) + room) / total), device)
    try:
        tiles = decode(family, latents)
    finally:
        kind.set_per_process_memory_fraction(1.0, device)
    difference = abs(tiles.astype(int) - whole).mean()
    words = " ".join(family.notes) or "decodes whole"
    return f"| a third of the memory to decode | {words} Mean difference: {difference:.2f} of 255. |"
