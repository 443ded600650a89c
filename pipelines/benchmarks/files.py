"""What files cost: listing a folder of many checkpoints, and the way from choosing a model to its first step.

`python -m pipelines.benchmark files` prints the tables of docs/benchmarks.md. It needs 5 GB of disk and of memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.benchmarks.full_checkpoint import hollow_header, write_checkpoint, write_folder, write_hollow
from pipelines.benchmarks.loading import Load, measure_load
from pipelines.models.catalog import SHIPPED_KEYS, Catalog, published

__all__ = ["LIMITS", "list_checkpoints", "main"]

GIGABYTE = 10**9
LIMITS = {"listing": 1.0, "seconds": 1.0, "peak": 1.05, "peak_ratio": 1.0, "auto_peak_ratio": 0.6}
"""Seconds for each ten files; our time divided by diffusers'; our peak divided by the weights, and by diffusers'
in float32: ours in float32, and in the automatic dtype where that is bfloat16."""


def list_checkpoints(folder: Path, count: int, size: int) -> tuple[float, float, float]:
    """(seconds, seconds of the processor, seconds of a second look) of listing hollow checkpoints of full size.

    Args:
        folder: an empty one.
        count: how many.
        size: of each in bytes.

    Raises:
        RuntimeError: one of them was listed with a problem, or not at all.
    """
    header = hollow_header(size)
    for number in range(count):
        write_hollow(folder / f"model-{number}.safetensors", *header)
    start, processor = time.monotonic(), time.process_time()
    catalog = Catalog(folder)
    first, processor = time.monotonic() - start, time.process_time() - processor
    start = time.monotonic()
    catalog.rescan()
    second = time.monotonic() - start
    others = {*SHIPPED_KEYS, *(entry.key for entry in published())}
    entries = [entry for key, entry in catalog.items() if key not in others]
    if len(entries) != count or any(entry.problem for entry in entries):
        raise RuntimeError(f"{len(entries)} of {count} were listed: {next(e.problem for e in entries if e.problem)}")
    return first, processor, second


def _listing(folder: Path, count: int, size: int) -> Iterator[str]:
    first, processor, second = list_checkpoints(folder, count, size)
    yield "| figure | must reach | measured | how |"
    yield "| --- | --- | --- | --- |"
    yield (
        f"| listing {count} checkpoints of {size / GIGABYTE:g} GB, for each ten | ≤ {LIMITS['listing']:g} s "
        f"| {10 * first / count:.2f} s | {first:.2f} s in all, {processor:.2f} s of the processor; {second:.2f} s the "
        "next time |"
    )


def _loads(folder: Path, rounds: int) -> Iterator[str]:
    write_checkpoint(write_folder(folder / "stable-diffusion-v1-5"), folder / "painter.safetensors")
    for words, key in (("from_single_file", "painter"), ("from_pretrained", "sd15")):
        # Ours and theirs in turns, so that what else the machine does strikes both alike.
        theirs_key = "stable-diffusion-v1-5" if key == "sd15" else key
        pairs = [
            (measure_load("ours", folder, key), measure_load("diffusers", folder, theirs_key)) for _ in range(rounds)
        ]
        yield from _rows(words, pairs)
        if key == "sd15":
            yield _compare_peaks(pairs, measure_load("auto", folder, key))


def _compare_peaks(pairs: list[tuple[Load, Load]], auto: Load) -> str:
    """A row of our peaks, in float32 and in the automatic dtype, beside diffusers' in float32."""
    ours, theirs = (max(pair[side].peak for pair in pairs) for side in (0, 1))
    return (
        f"| peak memory ÷ `from_pretrained` in float32 | ≤ {LIMITS['peak_ratio']:g} × | {ours / theirs:.2f} × "
        f"| automatic dtype {auto.peak / theirs:.2f} × (≤ {LIMITS['auto_peak_ratio']:g} × where it is bfloat16) |"
    )


def _rows(words: str, pairs: list[tuple[Load, Load]]) -> Iterator[str]:
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    peaks = [max(load.peak for load in loads) / loads[0].weights for loads in (ours, theirs)]
    # What else the machine does only ever adds, so the least of a side is the nearest to what its load takes.
    for clock, noun in (("processor", "processor time"), ("seconds", "wall time")):
        least = [min(getattr(load, clock) for load in loads) for loads in (ours, theirs)]
        yield (
            f"| choice to first step ÷ diffusers' `{words}`, {noun} | ≤ {LIMITS['seconds']:g} × "
            f"| {least[0] / least[1]:.2f} × | least of {len(pairs)}: {least[0]:.2f} s against {least[1]:.2f} s |"
        )
    yield (
        f"| peak memory ÷ weights as they run, beside `{words}` | ≤ {LIMITS['peak']:g} × | {peaks[0]:.2f} × "
        f"| {ours[0].weights / GIGABYTE:.2f} GB in float32; diffusers {peaks[1]:.2f} × |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print each line as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200, help="checkpoints that are listed (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="loads of each side (default: 3); 0 leaves them out")
    parser.add_argument("--folder", type=Path, help="where the files are made and removed (default: a temporary one)")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        listed, loaded = Path(scratch) / "listed", Path(scratch) / "loaded"
        listed.mkdir()
        loaded.mkdir()
        for line in _listing(listed, chosen.files, 7 * GIGABYTE):
            print(line, flush=True)
        for line in _loads(loaded, chosen.rounds) if chosen.rounds else ():
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
