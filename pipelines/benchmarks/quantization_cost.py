"""What quantizing itself costs, in a process of its own: seconds of the processor, peak of memory, and the report.

`python -m pipelines.benchmarks.quantization_cost` is that process; `measure_quantizing` starts it. Packages are
imported and kernels are built before the clock starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pipelines.quantizers.contract import WeightedLayer

__all__ = ["measure_quantizing"]

ROOT = Path(__file__).resolve().parents[2]


def measure_quantizing(model: str, method: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Quantize a shipped model and say what that took.

    Args:
        model: key of a shipped model.
        method: the quantizer, as `Choice.to_json` gives it.
        file: where the network is written, if its layers are plain tensors.

    Returns:
        {"bytes" of the network after, "full_bytes" before, "layers" that were quantized, "larger": how many of them
        hold more bytes than before, "seconds" of processor time with the calibration, "report_seconds", "peak" in
        bytes beyond the loaded model}.

    Raises:
        ModelError: the process failed, with its own last line.
    """
    from pipelines.core.errors import ModelError

    task = json.dumps({"model": model, "method": dict(method), "file": str(file)})
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__],
        input=task,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        errors = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise ModelError(f"Quantizing in a process of its own failed ({errors[-1][:200]}). Leave the method out.")
    return dict(json.loads(lines[-1]))


def _measure(task: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from pipelines.benchmarks.quantization_peak import highest_memory, present_memory, reset_highest_memory
    from pipelines.core.types import Choice
    from pipelines.models.cache import ModelCache
    from pipelines.models.catalog import Catalog, shipped, shipped_128, shipped_flow
    from pipelines.models.loader import Loader
    from pipelines.quantizers import CalibratedQuantizer, StorableQuantizer, build_quantizer, this_machine
    from pipelines.quantizers.base import build_report, quantize_network
    from pipelines.quantizers.files import save_network
    from pipelines.quantizers.stored import stored_bytes
    from pipelines.requests.calibration import record_calibration

    torch.set_num_threads(1)
    choice = Choice.parse(task["method"])
    quantizer = build_quantizer(choice, this_machine("cpu"))
    loader = Loader(ModelCache(2**33), Catalog(entries=[shipped(), shipped_128(), shipped_flow()]), device="cpu")
    with loader.model(task["model"]) as family:
        network, calibration = family.network, None
        if not isinstance(quantizer, CalibratedQuantizer):
            quantizer.weight(
                cast("WeightedLayer", quantizer.quantize(cast("WeightedLayer", torch.nn.Linear(128, 128))))
            )
        reset_highest_memory()
        before, start = present_memory(), time.process_time()
        if isinstance(quantizer, CalibratedQuantizer):
            calibration = record_calibration(family)
        quantized = quantize_network(network, quantizer, choice.key, calibration=calibration)
        seconds, peak, start = time.process_time() - start, highest_memory() - before, time.process_time()
        report = build_report(network, quantized, quantizer)
        report_seconds = time.process_time() - start
        if isinstance(quantizer, StorableQuantizer):
            save_network(network, quantized, quantizer, choice, Path(task["file"]))
        layers = report.quantized_layers
        return {
            "bytes": report.bytes,
            "full_bytes": report.full_bytes,
            "layers": len(layers),
            "larger": sum(one.bytes > stored_bytes(network.get_submodule(one.name)) for one in layers),
            "seconds": seconds,
            "report_seconds": report_seconds,
            "peak": max(0, peak),
        }


def main() -> int:
    """Read the task, measure, print JSON."""
    with contextlib.redirect_stdout(sys.stderr):  # packages greet
        measured = _measure(json.load(sys.stdin))
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
