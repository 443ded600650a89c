"""`python -m pipelines.benchmark device`: every family on CPU and device, and our runs beside diffusers' there.

`python -m pipelines.benchmark sizes` is the same at a real size on the CPU. Quantized copies are measured beside the
full network. Weights are random and made on the spot. All that is compared takes turns in one run. A row that fails
says why, and with a folder the tables are written as they come, and a second start goes on where the first ended.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import diffusers
import torch

from pipelines.benchmarks.device_measures import (
    DTYPES,
    PARITY_ROWS,
    QUANTIZER_ROWS,
    STEP_ROWS,
    denoise_to_end,
    make_family,
    make_run,
    measure_parity,
    measure_quantizers,
    measure_step,
    take_turns,
)
from pipelines.benchmarks.device_memory import (
    STREAMED_HEAD,
    TROUBLE_HEAD,
    check_nan,
    decode_in_little_memory,
    measure_streaming,
)
from pipelines.benchmarks.device_models import SHAPES
from pipelines.benchmarks.device_record import Record, Section
from pipelines.core.devices import release_unused_memory
from pipelines.core.errors import SettingsError
from pipelines.models.device_choice import choose_device, name_device, require_device

__all__ = ["list_sections", "main"]


def list_sections(flags: argparse.Namespace, device: str) -> list[Section]:
    """List the tables, the most valuable first."""
    sections = []
    if not flags.no_parity:
        works = [(name, functools.partial(measure_parity, name, device)) for name in SHAPES]
        sections.append(Section("Difference to the CPU's latents", PARITY_ROWS, works))
    pairs = [(name, dtype) for name in flags.shapes for dtype in flags.dtypes]
    steps: list[tuple[str, Callable[[], str | list[str]]]] = [
        (f"{name} {dtype}", functools.partial(_measure_step, flags, device, name, dtype)) for name, dtype in pairs
    ]
    sections.append(Section("Beside the stock pipeline", STEP_ROWS, steps))
    if torch.device(device).type != "cpu":
        first = pairs[0]
        streaming = [(f"{first[0]} {first[1]}", functools.partial(_measure_streaming, flags, device, *first))]
        sections.append(Section("Layer by layer", STREAMED_HEAD, streaming))
        troubles = [("trouble", functools.partial(_check_trouble, flags, device, *first))]
        sections.append(Section("Where something goes wrong", TROUBLE_HEAD, troubles))
    name = flags.shapes[0]
    quantizers: list[tuple[str, Callable[[], str | list[str]]]] = []
    for dtype in flags.dtypes:
        for key in flags.quantizers:
            given = (name, device, DTYPES[dtype], flags.side or SHAPES[name].side, flags.rounds, [key], flags.tiny)
            quantizers.append((f"{key}, {dtype}", functools.partial(measure_quantizers, *given)))
    if quantizers:
        sections.append(Section("Quantized copies", QUANTIZER_ROWS, quantizers))
    return sections


def _measure_step(flags: argparse.Namespace, device: str, name: str, dtype: str) -> str:
    side = flags.side or SHAPES[name].side
    return measure_step(name, device, DTYPES[dtype], side, flags.steps, flags.rounds, flags.tiny)


def _measure_streaming(flags: argparse.Namespace, device: str, name: str, dtype: str) -> str:
    shape, side = SHAPES[name], flags.side or SHAPES[name].side
    family = make_family(shape, device, DTYPES[dtype], flags.tiny)
    return measure_streaming(
        f"{name} {side}² {dtype}",
        family,
        flags.steps,
        lambda one: denoise_to_end(make_run(shape, one, side, flags.steps, flags.tiny)),
        lambda works: take_turns(torch.device(device), works, flags.rounds),
    )


def _check_trouble(flags: argparse.Namespace, device: str, name: str, dtype: str) -> list[str]:
    shape, side = SHAPES[name], flags.side or SHAPES[name].side
    family = make_family(shape, device, DTYPES[dtype], flags.tiny)
    latents = denoise_to_end(make_run(shape, family, side, 2, flags.tiny))
    return [check_nan(family, latents), decode_in_little_memory(family, latents)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark device", description=__doc__)
    parser.add_argument("--device", default=None, help="default: the best there is")
    parser.add_argument("--shapes", nargs="+", default=["sd15", "sdxl", "flux"], choices=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp16"], choices=list(DTYPES))
    parser.add_argument("--side", type=int, default=0, help="pixels of a side (default: the model's own)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantizers", nargs="*", default=["int8", "fp8", "nf4"])
    parser.add_argument("--no-parity", action="store_true", help="leave out the families on CPU and device")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, to try the script")
    parser.add_argument(
        "--out", type=Path, default=None, help="a folder for the tables, by which a second start goes on"
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no further row is begun")
    flags = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()
    try:
        device = choose_device() if flags.device is None else require_device(flags.device)
    except SettingsError as error:
        parser.error(str(error))
    if flags.rounds < 1:
        parser.error("--rounds takes 1 or more")
    settings = f"{flags.steps} steps, {flags.rounds} rounds{', tiny networks' * flags.tiny}"
    title = f"{name_device(device)}, PyTorch {torch.__version__}, {settings}"
    with contextlib.ExitStack() as stack:
        folder = flags.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        say = functools.partial(print, flush=True)
        record = Record(folder, title, flags.minutes, lambda: release_unused_memory(torch.device(device)), say)
        return min(1, record.run(list_sections(flags, device)))


if __name__ == "__main__":
    raise SystemExit(main())
