"""What quantizing itself costs, in a forked process of its own: seconds of the processor, peak of memory, the report.

The fork shares the loaded model and the imported packages with the process that it came from, so neither is counted.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from pipelines.benchmarks.quantization_peak import highest_memory, present_memory, reset_highest_memory
from pipelines.core.errors import ModelError, StepwiseError
from pipelines.core.types import Choice
from pipelines.families.base import Family
from pipelines.quantizers import CalibratedQuantizer, StorableQuantizer, build_quantizer, this_machine
from pipelines.quantizers.base import build_report, quantize_network
from pipelines.quantizers.files import save_network
from pipelines.quantizers.stored import stored_bytes
from pipelines.requests.calibration import record_calibration

if TYPE_CHECKING:
    from pipelines.quantizers.weighted_layer import WeightedLayer

__all__ = ["measure_quantizing"]


def measure_quantizing(family: Family, choice: Choice, file: Path) -> dict[str, Any]:
    """Quantize a loaded model's network in a process of its own and say what that took.

    Args:
        family: the model on the CPU.
        choice: the quantizer.
        file: where the network is written, if its layers are plain tensors.

    Returns:
        {"bytes" of the network after, "nominal_bytes" of a simulated one, "full_bytes" before, "layers" that were
        quantized, "larger": how many of them hold more bytes than before, "seconds" of processor time with the
        calibration, "calibration_seconds" of them for the model's runs (None for a method without), "report_seconds",
        "peak" in bytes beyond the loaded model}.

    Raises:
        ModelError: the process failed, with its own words.
    """
    # Packages are imported and kernels are built here, once, and not in what is measured.
    quantizer = build_quantizer(choice, this_machine("cpu"))
    if not isinstance(quantizer, CalibratedQuantizer):
        layer = cast("WeightedLayer", quantizer.quantize(cast("WeightedLayer", torch.nn.Linear(128, 128))))
        quantizer.weight(layer)
    return _run_forked(lambda: _measure(family, choice, file))


def _run_forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(work, sender))
    process.start()
    sender.close()
    try:
        said = json.loads(receiver.recv_bytes())
    except EOFError:
        said = {"problem": "it ended without a word"}
    finally:
        process.join()
    if "problem" in said:
        raise ModelError(f"Quantizing in a process of its own failed ({said['problem']}). Leave the method out.")
    return dict(said)


def _answer(work: Callable[[], dict[str, Any]], sender: Connection) -> None:
    try:
        said = work()
    except (StepwiseError, RuntimeError, MemoryError) as error:
        said = {"problem": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    sender.send_bytes(json.dumps(said).encode())


def _measure(family: Family, choice: Choice, file: Path) -> dict[str, Any]:
    quantizer, network, calibration = build_quantizer(choice, this_machine("cpu")), family.network, None
    reset_highest_memory()
    before, start = present_memory(), time.process_time()
    calibration_seconds = None
    if isinstance(quantizer, CalibratedQuantizer):
        calibration = record_calibration(family)
        calibration_seconds = time.process_time() - start
    quantized = quantize_network(network, quantizer, choice.key, calibration=calibration)
    seconds, peak, start = time.process_time() - start, highest_memory() - before, time.process_time()
    report = build_report(network, quantized, quantizer)
    report_seconds = time.process_time() - start
    if isinstance(quantizer, StorableQuantizer):
        save_network(network, quantized, quantizer, choice, file)
    layers = report.quantized_layers
    return {
        "bytes": report.bytes,
        "full_bytes": report.full_bytes,
        "layers": len(layers),
        "nominal_bytes": report.nominal_bytes,
        "larger": 0
        if quantizer.is_simulated
        else sum(one.bytes > stored_bytes(network.get_submodule(one.name)) for one in layers),
        "seconds": seconds,
        "calibration_seconds": calibration_seconds,
        "report_seconds": report_seconds,
        "peak": max(0, peak),
    }
