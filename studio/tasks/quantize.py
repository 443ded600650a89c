"""The task behind the Quantize tab, the /quantize endpoint and `python -m studio quantize`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.choice_text import parse_choice
from studio.exports.pictures import PICTURES, write_result
from studio.tasks.entry import Command, Endpoint, build_prompt_argument

if TYPE_CHECKING:
    from pipelines.workflows.quantize import QuantizationRequest
    from studio.jobs.job import Job
    from studio.tasks.context import TaskContext

__all__ = ["Quantize"]


_QUANTIZING_SECONDS, _PEAK_SECONDS = 3, 10
"""Of one quantized copy, and of the process that measures one peak of memory."""


class QuantizeCommand(Command):
    """Defines `python -m studio quantize`."""

    name, help = "quantize", "a model beside its quantized copies"
    out = "a .png, .jpg or .webp file, to whose name each method's is added; or .json for the figures"
    suffixes = (*PICTURES, ".json")

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--with",
            dest="variants",
            action="append",
            default=[],
            metavar="KEY[,SETTING=VALUE...]",
            help="e.g. int8, or int4,group_size=32; repeat for more (default: int8, int4 and nf4)",
        )
        parser.add_argument("--no-measure", action="store_true", help="only pictures, PSNR, SSIM and bytes")
        parser.add_argument("--peak", action="store_true", help="also the peak of memory, each in a process of its own")
        parser.add_argument("--keep", action="store_true", help="save the quantized models into the models folder")

    def values(self, flags: argparse.Namespace, base: Mapping[str, object]) -> dict[str, Any]:
        values = {"base": dict(base), "measure": not flags.no_measure, "peak": flags.peak, "keep": flags.keep}
        return {**values, "variants": [parse_choice(one) for one in flags.variants]} if flags.variants else values

    def write(self, job: Job, flags: argparse.Namespace, context: TaskContext) -> Iterator[str | Path]:
        outcome = job.view().outcome
        yield from map(_format_line, outcome["rows"])
        if flags.out.suffix.lower() == ".json":
            flags.out.write_text(json.dumps(dict(outcome), indent=1, ensure_ascii=False), encoding="utf-8")
            yield flags.out
            return
        for row in outcome["rows"]:
            if row["result"]:
                name = flags.out.with_stem(f"{flags.out.stem}-{row['key'].partition('+')[2] or 'full'}")
                write_result(context.store.get(row["result"]).path, name)
                yield name


def _format_line(row: Mapping[str, Any]) -> str:
    """What the command prints of a cell."""
    if row["problem"]:
        return f"{row['label']}: {row['problem']}"
    parts = [f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] and not row["simulated"] else ""]
    parts += [f"would take {row['nominal_bytes'] / 1e6:.1f} MB" if row["simulated"] else ""]
    parts += [f"PSNR {row['psnr']:.1f} dB" if row["psnr"] is not None else "equal" if row["identical"] else ""]
    parts += [f"SSIM {row['ssim']:.3f}" if row["ssim"] is not None else ""]
    parts += [f"{row['step_ratio']:.2f} × the time" if row["step_ratio"] else ""]
    parts += [f"peak {row['peak'] / 1e6:.1f} MB" if row["peak"] is not None else ""]
    parts += [f"saved as {row['key']}" if row["kept"] else ""]
    return f"{row['label']}: {', '.join(part for part in parts if part)}"


class Quantize:
    """Run a model beside its quantized copies from one noise, measure how far they go from it, keep them if asked."""

    key = "quantize"
    command = QuantizeCommand()
    endpoint = Endpoint(
        "quantize",
        "Run a model beside its quantized copies; streams progress, then returns pictures, figures and errors by step.",
        '{"base": fields of a request, "variants": ["int8", {"key": "int4", "group_size": 32}, ...], "measure": errors '
        'by layer and step and the time of a step, "peak": the peak of memory, each in a process of its own, "keep": '
        "true writes the quantized models into the models folder}.",
        (build_prompt_argument("for all of them."),),
        examples=({"variants": ["int8"], "measure": False, "peak": False, "keep": False},),
    )

    def parse(self, values: Mapping[str, object], context: TaskContext) -> QuantizationRequest:
        from studio.tasks.runs import quantize  # late: see `Task`

        return quantize.parse(values, context)

    def work(self, request: QuantizationRequest) -> tuple[float, float]:
        runs = len(request.variants) + 1
        each = 3 if request.measure else 1  # measuring costs two more runs of each
        seconds = _QUANTIZING_SECONDS * len(request.variants) + _PEAK_SECONDS * runs * request.peak
        return request.base.num_inference_steps * each * runs, seconds

    def run(self, request: QuantizationRequest, job: Job, context: TaskContext) -> None:
        from studio.tasks.runs import quantize  # late: see `Task`

        quantize.run(request, job, context)
