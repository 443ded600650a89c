"""`python -m pipelines.benchmark quantization`: every quantizer that this machine can run, on the shipped model.

Bytes are those of the denoising network. PSNR and SSIM are means over the prompts, to full precision from the same
noise; the time of a step is the median over the prompts of its ratio to full precision's, measured in turns; the peak
of memory comes from one fresh process each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepwiseError
from pipelines.quantizers import QUANTIZERS, this_machine
from pipelines.requests.limits import Limits
from studio.backend import Studio, StudioSettings
from studio.jobs.job import JobStatus

__all__ = ["format_markdown", "main", "measure_methods"]

PROMPTS = (
    "a fox on a blue background",
    "a red apple on a white background",
    "a cat on a green background",
    "a rocket on a black background",
    "a yellow flower on a blue background",
)


def measure_methods(studio: Studio, keys: Sequence[str], prompts: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """Measure full precision and each method, a row each.

    Raises:
        StepwiseError: a run failed.
    """
    rows: list[dict[str, Any]] = []
    max_variants = Limits().max_variants
    for start in range(0, len(keys), max_variants):
        variants = list(keys[start : start + max_variants])
        runs = [
            _run(studio, {"prompt": prompt, "seed": seed, "num_inference_steps": steps}, variants, peak=not seed)
            for seed, prompt in enumerate(prompts)
        ]
        for index in range(len(variants) + 1):
            if index or not rows:
                rows.append(_build_row([run[index] for run in runs]))
    return rows


def _run(studio: Studio, base: Mapping[str, object], variants: Sequence[str], peak: bool) -> list[Mapping[str, Any]]:
    job = studio.submit("quantize", {"base": base, "variants": list(variants), "peak": peak})
    view = job.view()
    while not view.status.final:
        view = job.wait(view.version, 5)
    if view.status is not JobStatus.DONE:
        raise StepwiseError(view.message or "A run was stopped.")
    if problem := next((row["problem"] for row in view.outcome["rows"] if row["problem"]), None):
        raise StepwiseError(problem)
    return view.outcome["rows"]


def _build_row(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = runs[0]
    likeness = {}
    for name in ("psnr", "ssim"):
        values = [run[name] for run in runs if run[name] is not None]
        likeness[name] = statistics.fmean(values) if values else None
    return {
        **{name: first[name] for name in ("label", "bytes", "disk", "peak", "layers", "worst_layer")},
        **likeness,
        "step_ratio": statistics.median(run["step_ratio"] for run in runs),
    }


def format_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures as a Markdown table for docs/quantization.md."""
    lines = [
        "| weights | stored | on disk | peak memory | time of a step | PSNR | SSIM | layers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        psnr = "–" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
        ssim = "–" if row["ssim"] is None else f"{row['ssim']:.3f}"
        sizes = " | ".join(_format_size(row[name]) for name in ("bytes", "disk", "peak"))
        lines.append(
            f"| {row['label']} | {sizes} | {row['step_ratio']:.2f} × | {psnr} | {ssim} | {row['layers'] or '–'} |"
        )
    return "\n".join(lines)


def _format_size(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.1f} MB"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark quantization", description=__doc__)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help=f"how many, 1 to {len(PROMPTS)}")
    parser.add_argument("--steps", type=int, default=10, help="of each run")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        studio = Studio(StudioSettings(outputs=Path(name) / "outputs", models=Path(name) / "models"))
        try:
            machine = this_machine(studio.loader.device)
            able = [key for key, method in QUANTIZERS.items() if not method.fit(machine)]
            rows = measure_methods(studio, able, PROMPTS[: max(1, flags.prompts)], flags.steps)
        except StepwiseError as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            studio.close()
    print(format_markdown(rows))
    if flags.out:
        flags.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
