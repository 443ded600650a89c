"""`python -m pipelines.benchmark quantization`: every quantizer that this machine can run, on the 128 px models.

Each quantizes in a process of its own (seconds, peak of memory), then draws the same prompts from the same noise as the
model in full precision. SQNR is that of the network's whole output in one evaluation, on the full run's own latents.
A stopped run goes on where it stood, from the folder given with --keep. Runs are made one prompt after another for all
quantizers, so whatever is there at a stop compares equal prompts.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.benchmarks.quantization_cells import Cell, list_cells, list_missing
from pipelines.benchmarks.quantization_cost import measure_quantizing
from pipelines.benchmarks.quantization_report import FIGURES, PAGE, format_table, summarize, write_report
from pipelines.benchmarks.quantization_runs import (
    Picture,
    draw_prompts,
    forced_errors,
    make_picture,
    measure_picture,
    time_ratio,
)
from pipelines.core.errors import StepwiseError
from pipelines.core.types import Request
from pipelines.families.base import Family
from pipelines.metrics.detector import Detector, load_detector
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog, shipped_128, shipped_flow
from pipelines.models.entry import CatalogEntry
from pipelines.models.loader import Loader
from pipelines.models.quantization_folder import plain_choice, quantized_entry
from pipelines.quantizers import this_machine
from pipelines.quantizers.base import SKIPPED

__all__ = ["Kept", "main"]

MODELS = {"emoji-128": shipped_128, "emoji-128-flow": shipped_flow}
_MEMORY = 2**34
_PACKAGES = ("torch", "diffusers", "optimum-quanto", "sdnq", "gguf", "bitsandbytes", "torchao")


class Kept:
    """Holds what was measured, one file that is rewritten after each prompt, and the quantized networks beside it.

    Args:
        folder: of both.
        steps: of each run, which all figures in the file share.
    """

    def __init__(self, folder: Path, steps: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._file = folder, folder / f"figures-{steps}.json"
        found = json.loads(self._file.read_text("utf-8")) if self._file.is_file() else {}
        self.figures: dict[str, Any] = {"steps": steps, "models": {}, **found}

    def model(self, key: str) -> dict[str, Any]:
        """Return what is known of a model: "full" by prompt, and "rows" by label."""
        return self.figures["models"].setdefault(key, {"full": {}, "rows": {}})

    def network_file(self, key: str, cell: Cell) -> Path:
        """Return where a quantized network lies, or would."""
        digest = hashlib.sha256(json.dumps(cell.choice.to_json(), sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / f"{key}-{cell.choice.key}-{digest}.safetensors"

    def save(self) -> None:
        """Write the file anew, whole or not at all."""
        scratch = self._file.with_suffix(".part")
        scratch.write_text(json.dumps(self.figures), "utf-8")
        scratch.replace(self._file)


class _Bench:
    """One model, in full precision and quantized, as long as the stack is open."""

    def __init__(self, entry: CatalogEntry, kept: Kept, detector: Detector, stack: contextlib.ExitStack):
        self.entry, self.kept, self.detector, self.stack = entry, kept, detector, stack
        self.known = kept.model(entry.key)
        loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), Catalog(entries=[entry]), device="cpu")
        self.full: Family = stack.enter_context(loader.model(entry.key))
        self.copies: dict[str, Family] = {}
        self.has_convolutions = any(
            isinstance(module, torch.nn.Conv2d) and name.partition(".")[0] not in SKIPPED
            for name, module in self.full.network.named_modules()
        )
        steps = kept.figures["steps"]
        self.base = Request.parse({**entry.defaults, "model": entry.key, "num_inference_steps": steps})

    def open(self, cell: Cell) -> None:
        """Quantize in a process of its own, unless that is known, and load the copy.

        Raises:
            StepwiseError: the method does not fit the model, or failed.
        """
        file, choice = self.kept.network_file(self.entry.key, cell), plain_choice(cell.choice)
        row = self.known["rows"].setdefault(cell.label, {"key": cell.choice.key, "prompts": {}, "forced": {}})
        row.update(library=cell.library, bits=cell.bits, simulated=cell.simulated, settings=dict(cell.choice.settings))
        if "cost" not in row:
            row["cost"] = measure_quantizing(self.full, choice, file)
        quantized = quantized_entry(self.entry, choice, file if file.is_file() else None)
        catalog = Catalog(entries=[self.entry, quantized])
        loader = Loader(ModelCache(_MEMORY, _MEMORY // 8), catalog, device="cpu")
        self.copies[cell.label] = self.stack.enter_context(loader.model(quantized.key))
        self.kept.save()

    def draw(self, index: int, prompt: str, forced: bool) -> None:
        """Draw one prompt with every copy that lacks it."""
        rows = self.known["rows"]
        lacking = [label for label in self.copies if str(index) not in rows[label]["prompts"]]
        unforced = [label for label in self.copies if forced and str(index) not in rows[label]["forced"]]
        if not lacking and not unforced:
            return
        request = self.base.replace(prompt=prompt)
        full = make_picture(self.full, request, index, self.detector)
        self.known["full"][str(index)] = round(full.adherence, 5)
        for label in lacking:
            other = make_picture(self.copies[label], request, index, self.detector)
            rows[label]["prompts"][str(index)] = measure_picture(full, other)
        for label in unforced:
            rows[label]["forced"][str(index)] = forced_errors(full, self.copies[label].network)
        self._time(full)
        self.kept.save()

    def _time(self, full: Picture) -> None:
        call = full.calls[len(full.calls) // 2]
        for label, copy in self.copies.items():
            if "time" not in self.known["rows"][label]:
                self.known["rows"][label]["time"] = time_ratio(call, self.full.network, copy.network)


def _measure_model(entry: CatalogEntry, kept: Kept, detector: Detector, options: argparse.Namespace) -> None:
    prompts = draw_prompts(options.prompts, detector)
    with contextlib.ExitStack() as stack:
        bench = _Bench(entry, kept, detector, stack)
        for cell in list_cells(this_machine("cpu")):
            if options.only and not any(word in f"{cell.choice.key} {cell.label}" for word in options.only):
                continue
            if cell.choice.settings.get("convolutions") and not bench.has_convolutions:
                continue
            try:
                bench.open(cell)
            except StepwiseError as error:
                bench.known["rows"].pop(cell.label, None)
                bench.known.setdefault("left_out", {})[cell.label] = str(error)
                print(f"{entry.key}, {cell.label}: {error}", file=sys.stderr)
        for index, prompt in enumerate(prompts):
            bench.draw(index, prompt, index < options.forced)
            print(f"{entry.key}: {index + 1} of {len(prompts)} prompts", file=sys.stderr, flush=True)


def _list_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name).partition("+")[0]
    return versions


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmark quantization", description=__doc__)
    parser.add_argument("--prompts", type=int, default=256, help="pictures of each quantizer (default: %(default)s)")
    parser.add_argument("--forced", type=int, default=16, help="of them, for the SQNR of an evaluation (default: 16)")
    parser.add_argument("--steps", type=int, default=8, help="of each run (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="both by default")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="methods whose key or label holds one of these")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="of finished figures, so that a stopped run goes on"
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write {FIGURES.name}, the plots and the section of docs/{PAGE.name}"
    )
    options = parser.parse_args(arguments)
    if min(options.prompts, options.forced, options.steps) < 1:
        parser.error("--prompts, --forced and --steps must be at least 1.")
    return options


def _print(figures: Mapping[str, Any]) -> None:
    for key, model in figures["models"].items():
        print(f"\n{key}\n\n{format_table(model)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    detector = load_detector()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept = Kept(folder, options.steps)
        kept.figures["versions"] = _list_versions()
        kept.figures["missing"] = list_missing(this_machine("cpu"))
        for key in options.models:
            _measure_model(MODELS[key](), kept, detector, options)
        figures = summarize(kept.figures)
    _print(figures)
    if options.write:
        write_report(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
