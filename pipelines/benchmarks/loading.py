"""One load of a model and its first step, ours or diffusers', in a process of its own: nothing else is in it.

`python -m pipelines.benchmarks.loading` is that process; `measure_load` starts it. The clock starts when all libraries
are imported (each side has loaded the shipped model and made a step), the weights are in the system's cache and a model
is chosen; the peak is that of the resident set (Linux: VmHWM) beyond what was there before.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Load", "measure_load"]

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = {"sd15": "stable-diffusion-v1-5"}
"""The folder of a published model by our key."""

PROMPT, SIDE, STEPS = "a fox on a blue background", 64, 4


class Load(NamedTuple):
    """What one load took.

    Attributes:
        seconds: from the choice to the end of the first step.
        processor: of these seconds, those that the processor worked for this program.
        loaded: from the choice until all parts are there.
        peak: bytes, beyond the program's own.
        weights: bytes of all parameters and buffers, in the dtype in which they run.
    """

    seconds: float
    processor: float
    loaded: float
    peak: int
    weights: int


def measure_load(who: str, models_folder: Path, key: str) -> Load:
    """Load a model of a folder and make its first step.

    Args:
        who: "ours" in float32, "auto" in the dtype that the studio chooses, or "diffusers" in float32:
            `from_single_file` for a file, `from_pretrained` for a folder.
        models_folder: with the model, and beside a file its configurations in the folder `stable-diffusion-v1-5`.
        key: of the model in our catalog: its file's or folder's name.

    Raises:
        RuntimeError: the process failed, with what it said.
    """
    run = subprocess.run(
        [sys.executable, "-m", __name__, who, str(models_folder), key], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(f"The load by {who} failed: {run.stderr[-2000:]}")
    return Load(**json.loads(run.stdout.strip().splitlines()[-1]))


def _load_ours(folder: Path, key: str, dtype: str | None = None) -> tuple[float, int]:
    from pipelines.core.loop import denoise
    from pipelines.core.types import Request
    from pipelines.models.cache import ModelCache
    from pipelines.models.catalog import Catalog
    from pipelines.models.loader import Loader
    from pipelines.requests.text_to_image import build_run, resolve

    start = time.monotonic()
    with Loader(ModelCache(2**62), Catalog(folder), "cpu", dtype).model(key) as family:
        loaded = time.monotonic() - start
        request = Request(model=key, prompt=PROMPT, width=SIDE, height=SIDE, num_inference_steps=STEPS)
        next(denoise(build_run(resolve(request, family), family)))
        return loaded, _weights(family.components.values())


def _load_diffusers(folder: Path, key: str) -> tuple[float, int]:
    import torch
    from diffusers import StableDiffusionPipeline

    class FirstStep(Exception):
        pass

    def stop(*_: object) -> None:
        raise FirstStep

    start, file = time.monotonic(), folder / f"{key}.safetensors"
    if file.is_file():
        pipeline = StableDiffusionPipeline.from_single_file(
            str(file), config=str(folder / "stable-diffusion-v1-5"), local_files_only=True, torch_dtype=torch.float32
        )
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(
            str(folder / key), local_files_only=True, torch_dtype=torch.float32, use_safetensors=True
        )
    loaded = time.monotonic() - start
    with contextlib.suppress(FirstStep):
        pipeline(PROMPT, width=SIDE, height=SIDE, num_inference_steps=STEPS, callback_on_step_end=stop)
    return loaded, _weights(pipeline.components.values())


def _weights(parts) -> int:
    import torch

    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _read_through(folder: Path, key: str) -> None:
    """Read the weights once: both sides find them in the system's cache, and the disk counts for neither."""
    single = folder / f"{key}.safetensors"
    buffer = bytearray(2**20)
    for path in [single] if single.is_file() else (folder / _FOLDERS.get(key, key)).rglob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def main() -> int:
    """Load, make one step, print the figures as JSON."""
    who, folder, key = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    import diffusers
    import transformers

    from pipelines.benchmarks.quantization_peak import highest_memory, present_memory, reset_highest_memory
    from pipelines.families import FAMILIES
    from pipelines.models.catalog import SHIPPED
    from pipelines.requests import text_to_image

    # Both import their parts when they are first named; all of it before the first reading.
    _ = (diffusers.StableDiffusionPipeline, diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, FAMILIES)
    _ = (transformers.CLIPTextModel, transformers.CLIPTokenizer, diffusers.DDIMScheduler, text_to_image)
    diffusers.utils.logging.disable_progress_bar()
    ours_by_itself = functools.partial(_load_ours, dtype="auto")
    loads: Mapping[str, Callable[..., tuple[Any, int]]] = {
        "ours": _load_ours,
        "auto": ours_by_itself,
        "diffusers": _load_diffusers,
    }
    load = loads[who]
    # The shipped model first: it imports what is only imported by a load and a step.
    load(*((folder, "emoji") if who != "diffusers" else (SHIPPED.parent, SHIPPED.name)))
    _read_through(folder, key)
    reset_highest_memory()
    before, start, processor = present_memory(), time.monotonic(), time.process_time()
    loaded, weights = load(folder, key)
    figures = {
        "seconds": time.monotonic() - start,
        "processor": time.process_time() - processor,
        "loaded": loaded,
        "peak": highest_memory() - before,
        "weights": weights,
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
