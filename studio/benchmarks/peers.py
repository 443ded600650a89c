"""The studio beside ComfyUI: one Stable Diffusion 1.5 checkpoint, alternately, each side in processes of its own.

`python -m pipelines.benchmark peers --comfyui FOLDER` prints the table of docs/benchmarks.md; without a checkout a
sentence says that nothing was measured. The checkpoint is made with random weights where none is given (5 GB of disk).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.benchmarks.full_checkpoint import write_checkpoint, write_folder
from studio.benchmarks.peer_request import PeerRequest

__all__ = ["FIGURES", "format_rows", "main", "measure_side"]

ROOT = Path(__file__).resolve().parents[2]
Figures = Mapping[str, Sequence[float]]

FIGURES = {
    "sampling 1": ("256², 4 steps, one thread", 0.85),
    "sampling 2": ("256², 4 steps, two threads", 0.6),
    "decode 1": ("VAE decode, one thread", 0.95),
    "load 1": ("model load to first step", 1.0),
    "memory 1": ("memory after a run", 0.95),
    "unchanged 1": ("unchanged request again", 1.0),
}
"""Figure and threads to its name and to what ours ÷ theirs must reach."""


def measure_side(request: PeerRequest, threads: int, python: str) -> Figures:
    """Run a request on one side, in a process of its own; wall and processor seconds by figure, bytes for memory.

    Args:
        request: whose `comfyui` says which side.
        threads: of PyTorch.
        python: an interpreter that has what the side needs.

    Raises:
        RuntimeError: the process failed, with what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [python, "-m", "studio.benchmarks.peer_request", json.dumps(dataclasses.asdict(request))]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if run.returncode:
        side = "ComfyUI" if request.comfyui else "the studio"
        raise RuntimeError(f"The request to {side} failed: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def format_rows(ours: Mapping[int, Sequence[Figures]], theirs: Mapping[int, Sequence[Figures]]) -> Iterator[str]:
    """Lines of a Markdown table: what else the machine does only adds, so the least of each side's rounds counts.

    Args:
        ours, theirs: threads to what `measure_side` gave in each round.
    """
    yield "| figure, ours ÷ ComfyUI's | must reach | processor time | wall time | ours, theirs |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for key, (name, limit) in FIGURES.items():
        figure, threads = key.split()[0], int(key.split()[1])
        if not ours.get(threads):
            continue
        sides = [[round_[figure] for round_ in side[threads]] for side in (ours, theirs)]
        if figure == "memory":
            least = [min(values[0] for values in side) for side in sides]
            cells = f"– | {least[0] / least[1]:.2f} | {least[0] / 1e9:.2f} GB, {least[1] / 1e9:.2f} GB"
        else:
            wall, processor = ([min(values[clock] for values in side) for side in sides] for clock in (0, 1))
            cells = (
                f"{processor[0] / processor[1]:.2f} | {wall[0] / wall[1]:.2f} "
                f"| {processor[0]:.3g} s, {processor[1]:.3g} s of the processor"
            )
        yield f"| {name} | ≤ {limit:g} | {cells} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark peers", description=__doc__)
    parser.add_argument("--comfyui", type=Path, metavar="FOLDER", help="a checkout of ComfyUI")
    parser.add_argument("--comfyui-python", default=sys.executable, metavar="FILE", help="the Python that runs it")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a single file of Stable Diffusion 1")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default: 3)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of PyTorch (default: 1 2)")
    flags = parser.parse_args(arguments)
    if flags.comfyui is None or not (flags.comfyui / "comfy" / "sd.py").is_file():
        print("Nothing was measured: give the folder of a checkout of ComfyUI with --comfyui.")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = flags.checkpoint or _make_checkpoint(Path(scratch))
        request = PeerRequest(str(checkpoint.resolve()))
        peer = dataclasses.replace(request, comfyui=str(flags.comfyui.resolve()))
        ours: dict[int, list[Figures]] = {threads: [] for threads in flags.threads}
        theirs: dict[int, list[Figures]] = {threads: [] for threads in flags.threads}
        for _ in range(flags.rounds):
            for threads in flags.threads:
                ours[threads].append(measure_side(request, threads, sys.executable))
                theirs[threads].append(measure_side(peer, threads, flags.comfyui_python))
    for line in format_rows(ours, theirs):
        print(line, flush=True)
    return 0


def _make_checkpoint(folder: Path) -> Path:
    return write_checkpoint(write_folder(folder / "parts"), folder / "peer.safetensors")


if __name__ == "__main__":
    sys.exit(main())
