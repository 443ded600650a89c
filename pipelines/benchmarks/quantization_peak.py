"""Peak of memory while a model is loaded and makes one step, in a process of its own: nothing else is in it.

`python -m pipelines.benchmarks.quantization_peak` is that process; `peak_bytes` starts it. What the program itself
takes before any model is there is not counted. It is the resident set (Linux: VmHWM, which unlike ru_maxrss does not
start from the peak of the process that started this one). On a device `device_peak_bytes` reads PyTorch's allocator.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.families.base import Family

__all__ = ["device_peak_bytes", "highest_memory", "peak_bytes", "present_memory", "reset_highest_memory"]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 1800.0


def peak_bytes(
    model: str,
    models_folder: Path,
    device: str,
    request: dict[str, Any],
    method: dict[str, Any] | None = None,
    file: Path | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> int:
    """Measure the bytes at the peak, beyond the program's own.

    Args:
        model: key of the catalog.
        models_folder, device: of the loader.
        request: of the picture, whose first step is made.
        method: the quantizer, as `Choice.to_json` gives it; None for full precision.
        file: the quantized network, where it is stored: then the full one is never in memory.
        cancelled: polled while waiting.

    Raises:
        Cancelled: the person stopped it.
        ModelError: the process failed, with its own last line.
    """
    task = {
        "model": model,
        "folder": str(models_folder),
        "device": device,
        "request": request,
        "method": method,
        "file": str(file) if file else None,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    with process:
        try:
            return _read_peak(process, json.dumps(task), cancelled)
        finally:
            process.kill()


def _read_peak(process: subprocess.Popen[str], task: str, cancelled: Callable[[], bool]) -> int:
    """Give the process its task and wait for its answer."""
    from pipelines.core.cancelling import raise_if
    from pipelines.core.errors import ModelError

    end = time.monotonic() + TIMEOUT
    given: str | None = task
    while True:
        raise_if(cancelled)
        if time.monotonic() > end:
            raise ModelError("Measuring the peak of memory took too long. Leave it out.")
        try:
            output, errors = process.communicate(given, timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            given = None
    lines = output.strip().splitlines()
    if process.returncode or not lines:
        reason = (errors.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(f"Measuring the peak of memory failed ({reason[:200]}). Leave it out.")
    return int(json.loads(lines[-1])["peak"])


def device_peak_bytes(family: Family, step: Callable[[], object]) -> int:
    """Measure the bytes at the peak of one step of a model that is on a device: its parts and what the step adds.

    A process of its own would put a second model onto the device.

    Args:
        family: the model.
        step: makes the step.

    Raises:
        MethodFitError: the device does not tell its peak.
    """
    import torch

    from pipelines.core.errors import MethodFitError
    from pipelines.quantizers.stored import stored_bytes

    kind = family.device.type
    if kind not in ("cuda", "xpu"):
        raise MethodFitError(f"The device {kind} does not tell its peak of memory. Leave it out.")
    memory = getattr(torch, kind)
    memory.reset_peak_memory_stats(family.device)
    before = memory.memory_allocated(family.device)
    step()
    added = memory.max_memory_allocated(family.device) - before
    parts = [part for part in family.components.values() if isinstance(part, torch.nn.Module)]
    return sum(map(stored_bytes, parts)) + added


def _read_status(name: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return 0


def present_memory() -> int:
    """The resident set in bytes; where the system does not tell, its peak."""
    return _read_status("VmRSS") or highest_memory()


def highest_memory() -> int:
    """The peak of the resident set in bytes."""
    if peak := _read_status("VmHWM"):
        return peak
    import resource  # there is none on Windows

    factor = 1 if sys.platform == "darwin" else 1024
    return factor * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_highest_memory() -> None:
    """Let the peak begin anew, where the system can."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def main() -> int:
    """Load, make one step, print the peak as JSON."""
    task = json.load(sys.stdin)
    import diffusers
    import torch
    import transformers

    from pipelines.core.loop import denoise
    from pipelines.core.types import Choice, Request
    from pipelines.models.cache import ModelCache
    from pipelines.models.catalog import Catalog
    from pipelines.models.loader import Loader
    from pipelines.models.quantization_folder import quantized_entry
    from pipelines.quantizers import QUANTIZERS
    from pipelines.requests.text_to_image import build_run, resolve

    # Both import their parts when they are first named; all of it before the first reading.
    _ = (QUANTIZERS, diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPTextModel)
    catalog, key = Catalog(Path(task["folder"])), task["model"]
    if task["method"]:
        entry = quantized_entry(
            catalog[key], Choice.parse(task["method"]), Path(task["file"]) if task["file"] else None
        )
        catalog, key = Catalog(catalog.folder, [entry]), entry.key
    loader = Loader(ModelCache(2**62), catalog, device=task["device"])
    reset_highest_memory()
    before = present_memory()
    with loader.model(key) as family:
        request = resolve(Request.parse(task["request"]).replace(model=key), family)
        next(denoise(build_run(request, family)))
    peak = torch.cuda.max_memory_reserved() if task["device"].startswith("cuda") else highest_memory() - before
    print(json.dumps({"peak": max(0, peak)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
