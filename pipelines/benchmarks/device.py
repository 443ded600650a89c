"""`python -m pipelines.benchmark device`: every family on CPU and device, and our runs beside diffusers' there.

`python -m pipelines.benchmark sizes` is the same at a real size on the CPU. Quantized copies are measured beside the
full network. Weights are random and made on the spot. All that is compared takes turns in one run.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
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
from pipelines.models.device_choice import Acceleration, choose_device, describe_device
from pipelines.quantizers import QUANTIZERS, Machine
from pipelines.quantizers.base import build_report, quantize_network
from pipelines.requests.encoding import decode
from pipelines.requests.step_pictures import with_pictures
from pipelines.samplers import SAMPLERS
from pipelines.schedules import SCHEDULES

__all__ = ["DTYPES", "main", "make_family", "make_run"]

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
        network = shape.network(tiny).eval().requires_grad_(False).to(device, dtype)
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


def _final(run: Run) -> torch.Tensor:
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


def _taking_turns(
    device: torch.device, works: Sequence[Callable[[], Any]], rounds: int
) -> tuple[list[float], list[int]]:
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


def measure_parity(device: str) -> list[str]:
    """Rows of the relative difference of the final latents on the device to those of the CPU in float32."""
    rows = ["| family | " + " | ".join(DTYPES) + " |", "| --- |" + " --- |" * len(DTYPES)]
    for name, shape in SHAPES.items():
        side = 128
        reference = _final(make_run(shape, make_family(shape, "cpu", torch.float32, True), side, 4, True))
        cells = []
        for dtype in DTYPES.values():
            found = _final(make_run(shape, make_family(shape, device, dtype, True), side, 4, True)).cpu()
            cells.append(f"{float((found - reference).norm() / reference.norm()):.1e}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


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
        latents["ours"] = _final(make_run(shape, family, side, steps, tiny))

    def show_ours() -> None:
        numbered = ((0, step) for step in denoise(make_run(shape, family, side, steps, tiny)))
        for _ in with_pictures(numbered, [family]):
            pass

    works: list[Callable[[], object]] = [denoise_stock, denoise_ours, show_ours]
    works += [lambda: stock.decode(latents["stock"]), lambda: decode(family, latents["ours"])]
    seconds, peaks = _taking_turns(family.device, works, rounds)
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


def measure_quantizers(
    name: str, device: str, dtype: torch.dtype, side: int, rounds: int, keys: Sequence[str], tiny: bool
) -> list[str]:
    """Measure quantizers: rows of the seconds to quantize and report, and of an evaluation beside full precision's."""
    shape = SHAPES[name]
    family = make_family(shape, device, dtype, tiny)
    by_quanto = _time_quanto(family)
    # As the loader does: the full network that copies are compared with is the one that the studio runs.
    Acceleration().apply(family.network)
    rows = [
        f"| quantizer, {str(dtype).removeprefix('torch.')} | quantize | report | both ÷ quanto | evaluation ÷ full |",
        "| --- | --- | --- | --- | --- |",
    ]
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
        (full, small), _ = _taking_turns(family.device, works, rounds)
        ratio = f"{(reported - start) / by_quanto:.2f} ×" if by_quanto else "–"
        seconds = f"{quantized - start:.1f} s | {reported - quantized:.1f} s"
        rows.append(f"| {key} | {seconds} | {ratio} | {small / full:.2f} × |")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark device", description=__doc__)
    parser.add_argument("--device", default=None, help="default: the best there is")
    parser.add_argument("--shapes", nargs="*", default=["sd15", "sdxl", "flux"], choices=list(SHAPES))
    parser.add_argument("--dtypes", nargs="*", default=["bf16", "fp16"], choices=list(DTYPES))
    parser.add_argument("--side", type=int, default=0, help="pixels of a side (default: the model's own)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantizers", nargs="*", default=["int8", "fp8", "nf4"])
    parser.add_argument("--no-parity", action="store_true", help="leave out the families on CPU and device")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    flags = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()
    device = flags.device or choose_device()
    if not flags.rounds:
        parser.error("--rounds takes 1 or more")
    print(f"{describe_device(device)}, PyTorch {torch.__version__}\n")
    if not flags.no_parity:
        print("\n".join(measure_parity(device)), flush=True)
    print("\n" + "\n".join(STEP_ROWS))
    for name in flags.shapes:
        for dtype in flags.dtypes:
            side = flags.side or SHAPES[name].side
            row = measure_step(name, device, DTYPES[dtype], side, flags.steps, flags.rounds, flags.tiny)
            print(row, flush=True)
    if flags.quantizers:
        name = flags.shapes[0]
        side = flags.side or SHAPES[name].side
        print()
        for dtype in map(DTYPES.__getitem__, flags.dtypes):
            rows = measure_quantizers(name, device, dtype, side, flags.rounds, flags.quantizers, flags.tiny)
            print("\n".join(rows), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
