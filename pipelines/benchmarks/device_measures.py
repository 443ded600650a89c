"""What `python -m pipelines.benchmark device` measures: parity, steps beside the stock pipeline's, quantized copies."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipelines.benchmarks.device_models import SHAPES, Shape
from pipelines.benchmarks.device_stock import StockPicture
from pipelines.core.denoiser import Denoiser
from pipelines.core.devices import synchronize
from pipelines.core.loop import Run, denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.prediction import Conditioning
from pipelines.families import FAMILIES
from pipelines.guidance.cfg import Unguided
from pipelines.models.device_choice import Acceleration
from pipelines.quantizers import QUANTIZERS, Machine
from pipelines.quantizers.base import build_report, quantize_network
from pipelines.requests.encoding import decode
from pipelines.requests.step_pictures import with_pictures
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES

__all__ = [
    "DTYPES",
    "PARITY_ROWS",
    "QUANTIZER_ROWS",
    "STEP_ROWS",
    "denoise_to_end",
    "make_family",
    "make_run",
    "measure_parity",
    "measure_quantizers",
    "measure_step",
    "take_turns",
]

_GUIDANCE = 3.5
"""Of networks that take the scale as an input."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Dtypes by their names in the commands."""


def make_family(shape: Shape, device: str, dtype: torch.dtype, tiny: bool) -> Any:
    """Make a family with random weights, the same ones on every device."""
    from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler

    flow = shape.family in ("sd3", "flux")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _make_network(shape, device, dtype, tiny)
        channels = (8, 8, 8, 8) if tiny else (128, 256, 512, 512)
        vae = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1 if tiny else 2,
            latent_channels=shape.channels,
            norm_num_groups=8 if tiny else 32,
        )
    vae = vae.eval().requires_grad_(False).to(device, torch.float32 if dtype == torch.float16 else dtype)
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0)
        if flow
        else DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    )
    name = FAMILIES[shape.family].network_name
    return FAMILIES[shape.family]({name: network, "vae": vae, "scheduler": scheduler})


def _make_network(shape: Shape, device: str, dtype: torch.dtype, tiny: bool) -> torch.nn.Module:
    """A tiny one from the CPU's random numbers, which are the same everywhere; large ones where they are to run, since
    twelve billion weights take minutes on a CPU."""
    if tiny or torch.device(device).type == "cpu":
        return shape.network(tiny).eval().requires_grad_(False).to(device, dtype)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            return shape.network(tiny).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def make_run(shape: Shape, family: Any, side: int, steps: int, tiny: bool) -> Run:
    """Make a run of one picture from random embeddings that are the same on every device."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn((1, *size), generator=generator).to(family.device)
        for name, size in shape.embeds(tiny).items()
    }
    if "time_ids" in tensors:
        tensors["time_ids"] = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32, device=family.device)
    conditionings = family.embed_guidance({"positive": Conditioning(tensors)}, _GUIDANCE)
    source = NoiseSource([0])
    noise = source(torch.empty((1, *family.latent_shape(side, side)))).to(family.device)
    schedule = family.noise_schedule_for(side, side)
    flow = family.traits.flow
    levels = SCHEDULES["shift" if flow else "uniform"].build().levels(schedule, steps)
    sampler = SAMPLERS["flow_euler" if flow else "dpmpp_2m"].build()
    initial = noise * schedule.initial_scale(levels[0])
    return Run(Denoiser(family, Unguided(), conditionings), sampler, levels, initial, source, schedule)


def denoise_to_end(run: Run) -> torch.Tensor:
    """Make all steps of a run and return its latents."""
    *_, step = denoise(run)
    return step.latents


def _timed(device: torch.device, work: Callable[[], Any]) -> float:
    clock = _clock_for(device)
    start = clock()
    work()
    return clock() - start


def _clock_for(device: torch.device) -> Callable[[], float]:
    """The clock to measure with: the processor's time on a CPU, which other programs share, else the wall's."""

    def read() -> float:
        synchronize(device)
        return time.process_time() if device.type == "cpu" else time.perf_counter()

    return read


def take_turns(device: torch.device, works: Sequence[Callable[[], Any]], rounds: int) -> tuple[list[float], list[int]]:
    """Measure works in turns, because machines are shared, after one warm-up.

    Returns:
        The median seconds of each, and the bytes at the peak of each where the device tells them, else nothing.
    """
    seconds: list[list[float]] = [[] for _ in works]
    peaks: list[int] = [0] * len(works) if device.type in ("cuda", "xpu") else []
    memory = getattr(torch, device.type)
    for turn in range(rounds + 1):
        for index, work in enumerate(works):
            if peaks:
                memory.reset_peak_memory_stats(device)
            spent = _timed(device, work)
            if turn:
                seconds[index].append(spent)
            if turn and peaks:
                peaks[index] = max(peaks[index], memory.max_memory_allocated(device))
    return [statistics.median(one) for one in seconds], peaks


PARITY_ROWS = ("| family | " + " | ".join(DTYPES) + " |", "| --- |" + " --- |" * len(DTYPES))
"""Above the rows of `measure_parity`."""


def measure_parity(name: str, device: str) -> str:
    """Measure a row: the relative difference of the final latents on the device to those of the CPU in float32."""
    shape, side = SHAPES[name], 128
    reference = denoise_to_end(make_run(shape, make_family(shape, "cpu", torch.float32, True), side, 4, True))
    cells = []
    for dtype in DTYPES.values():
        found = denoise_to_end(make_run(shape, make_family(shape, device, dtype, True), side, 4, True)).cpu()
        cells.append(f"{float((found - reference).norm() / reference.norm()):.1e}")
    return f"| {name} | {' | '.join(cells)} |"


STEP_ROWS = (
    "| model | stock: s a step | ours | with previews | picture | peak, stock and ours | difference |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
"""Above the rows of `measure_step`; ours are ratios to the stock pipeline's."""


def measure_step(name: str, device: str, dtype: torch.dtype, side: int, steps: int, rounds: int, tiny: bool) -> str:
    """Measure pictures by the stock pipeline, by our loop, and by our loop with its previews.

    Returns:
        A row: the stock pipeline's seconds a step; ours, ours with previews and our whole picture with its decoding as
        ratios to the stock pipeline's; the peaks of memory; the relative difference of the final latents.
    """
    shape = SHAPES[name]
    family = make_family(shape, device, dtype, tiny)
    stock = StockPicture(family, make_run(shape, family, side, steps, tiny), steps, _GUIDANCE)
    latents: dict[str, torch.Tensor] = {}

    def denoise_stock() -> None:
        latents["stock"] = stock.denoise()

    def denoise_ours() -> None:
        latents["ours"] = denoise_to_end(make_run(shape, family, side, steps, tiny))

    def show_ours() -> None:
        numbered = ((0, step) for step in denoise(make_run(shape, family, side, steps, tiny)))
        for _ in with_pictures(numbered, [family]):
            pass

    works: list[Callable[[], object]] = [denoise_stock, denoise_ours, show_ours]
    works += [lambda: stock.decode(latents["stock"]), lambda: decode(family, latents["ours"])]
    seconds, peaks = take_turns(family.device, works, rounds)
    of_stock, of_ours, shown, decode_stock, decode_ours = seconds
    ratios = [of_ours / of_stock, shown / of_stock, (shown + decode_ours) / (of_stock + decode_stock)]
    theirs, here = stock.unpack(latents["stock"]).float(), latents["ours"].float()
    peak = "–"
    if peaks:
        peak = f"{max(peaks[0], peaks[3]) / 1e9:.1f} and {max(peaks[1], peaks[2], peaks[4]) / 1e9:.1f} GB"
    cells = [
        f"{name} {side}² {str(dtype).removeprefix('torch.')}",
        f"{of_stock / steps:.3f}",
        *(f"{ratio:.3f} ×" for ratio in ratios),
        peak,
        f"{float((here - theirs).norm() / theirs.norm()):.1e}",
    ]
    return f"| {' | '.join(cells)} |"


QUANTIZER_ROWS = (
    "| quantizer | quantize | report | both ÷ quanto | evaluation ÷ full |",
    "| --- | --- | --- | --- | --- |",
)
"""Above the rows of `measure_quantizers`."""


def measure_quantizers(
    name: str, device: str, dtype: torch.dtype, side: int, rounds: int, keys: Sequence[str], tiny: bool
) -> list[str]:
    """Measure quantizers: rows of the seconds to quantize and report, and of an evaluation beside full precision's."""
    shape = SHAPES[name]
    family = make_family(shape, device, dtype, tiny)
    by_quanto = _time_quanto(family)
    # As the loader does: the full network that copies are compared with is the one that the studio runs.
    Acceleration().apply(family.network)
    rows = []
    for key in keys:
        quantizer = QUANTIZERS[key].build({})
        clock = _clock_for(family.device)
        start = clock()
        network = quantize_network(family.network, quantizer)
        quantized = clock()
        build_report(family.network, network, quantizer)
        reported = clock()
        other = type(family)({**family.components, family.network_name: network})
        runs = [make_run(shape, one, side, 1, tiny) for one in (family, other)]
        works = [lambda run=run: run.denoiser.predict(run.latents, run.levels[0]) for run in runs]
        (full, small), _ = take_turns(family.device, works, rounds)
        ratio = f"{(reported - start) / by_quanto:.2f} ×" if by_quanto else "–"
        seconds = f"{quantized - start:.1f} s | {reported - quantized:.1f} s"
        title = f"{key}, {str(dtype).removeprefix('torch.')}"
        rows.append(f"| {title} | {seconds} | {ratio} | {small / full:.2f} × |")
        del network, other, runs, works
    return rows


def _time_quanto(family: Any) -> float | None:
    """Seconds of optimum-quanto's int8 over a copy of the network; None where the package is not installed."""
    if QUANTIZERS["quanto_int8"].fit(Machine(family.device.type)) is not None:
        return None
    from optimum.quanto import freeze, qint8, quantize

    network, clock = copy.deepcopy(family.network), _clock_for(family.device)
    start = clock()
    quantize(network, weights=qint8)
    freeze(network)
    return clock() - start
