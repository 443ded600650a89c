"""One request on one side, ours or ComfyUI's, in a process of its own: what it took, as JSON on the last line.

Clocks start when all libraries are imported and the weights are in the system's cache. ComfyUI runs through its own
executor and its own nodes; nothing of it is changed.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["PeerRequest", "main", "read_resident_bytes"]

PROMPT, NEGATIVE, SCALE = "a photo of a cat, highly detailed", "blurry", 7.0


@dataclasses.dataclass(frozen=True)
class PeerRequest:
    """What both sides make.

    Attributes:
        checkpoint: a single file of Stable Diffusion 1.
        side: pixels.
        steps: of Euler on the times that ComfyUI calls normal.
        repeats: further pictures, of new seeds.
        comfyui: a checkout of ComfyUI; "" for our side.
    """

    checkpoint: str
    side: int = 256
    steps: int = 4
    repeats: int = 2
    comfyui: str = ""


def read_resident_bytes() -> int:
    """Memory that the process holds now (Linux: VmRSS), after a garbage collection."""
    gc.collect()
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("This system does not tell the memory of a process in /proc.")


Clocks = tuple[float, float]
"""Seconds of the wall clock, and of the processor in all threads of the process."""


def _read_clocks() -> Clocks:
    return time.monotonic(), time.process_time()


def _subtract(end: Clocks, start: Clocks) -> list[float]:
    return [end[0] - start[0], end[1] - start[1]]


def _measure(make: Callable[[int], None], measured: dict[str, Any], repeats: int) -> dict[str, list[float]]:
    """Run one picture, others with new seeds, and the last one again.

    Args:
        make: one picture of a seed; writes "first_step" (clocks), "sampling" and "decode" (seconds) into `measured`.
        repeats: pictures behind the first.

    Returns:
        Wall and processor seconds by figure, the least of the repeats; bytes for "memory".
    """
    start = _read_clocks()
    make(0)
    figures = {"load": _subtract(measured["first_step"], start), "memory": [float(read_resident_bytes())]}
    runs = []
    for seed in range(1, repeats + 1):
        make(seed)
        runs.append((measured["sampling"], measured["decode"]))
    for index, name in enumerate(("sampling", "decode")):
        figures[name] = [min(run[index][clock] for run in runs) for clock in (0, 1)]
    start = _read_clocks()
    make(repeats)
    return figures | {"unchanged": _subtract(_read_clocks(), start)}


def run_ours(request: PeerRequest, folder: Path) -> dict[str, list[float]]:
    """Run the request through the studio."""
    import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion  # noqa: F401  lazy: imported by the load
    import transformers.models.clip.modeling_clip  # noqa: F401

    from studio.backend import Studio, StudioSettings
    from studio.tasks.runs import text_to_image

    measured: dict[str, Any] = {}
    module: Any = text_to_image
    module.decode = _timed(module.decode, measured, "decode")
    generation: Any = text_to_image._Generation
    generation._sample = _timed(generation._sample, measured, "sampling")
    (folder / "models").mkdir()
    (folder / "models" / "peer.safetensors").symlink_to(request.checkpoint)
    studio = Studio(StudioSettings(folder / "outputs", folder / "models", device="cpu", follow_links=True))

    def make(seed: int) -> None:
        job = studio.submit("text_to_image", _build_values(request, seed))
        view = job.wait(-1, 0.0)
        while not view.status.final:
            if view.cells and view.cells[0].rows and "first_step" not in measured:
                measured["first_step"] = _read_clocks()
            view = job.wait(view.version, 1.0)
        if view.status.value != "done":
            raise RuntimeError(view.message)

    try:
        return _measure(make, measured, request.repeats)
    finally:
        studio.close()


def _build_values(request: PeerRequest, seed: int) -> dict[str, Any]:
    return {
        "model": "peer",
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "sampler": "euler",
        "schedule": {"key": "uniform", "spacing": "linspace unrounded"},
        "guidance": {"key": "cfg", "guidance_scale": SCALE},
        "num_inference_steps": request.steps,
        "width": request.side,
        "height": request.side,
        "seed": seed,
        "made_like": "comfyui",
    }


def _timed(function: Callable, measured: dict[str, Any], name: str) -> Callable:
    def timed(*arguments: object, **options: object) -> Any:
        start = _read_clocks()
        result = function(*arguments, **options)
        measured[name] = _subtract(_read_clocks(), start)
        return result

    return timed


def run_comfyui(request: PeerRequest, folder: Path) -> dict[str, list[float]]:
    """Run the request through ComfyUI's executor, on the CPU with PyTorch's attention."""
    sys.path.insert(0, request.comfyui)
    sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.utils
    import execution
    import folder_paths
    import nodes

    measured: dict[str, Any] = {}
    nodes.KSampler.sample = _timed(nodes.KSampler.sample, measured, "sampling")
    nodes.VAEDecode.decode = _timed(nodes.VAEDecode.decode, measured, "decode")
    folder_paths.add_model_folder_path("checkpoints", str(Path(request.checkpoint).parent))
    folder_paths.set_output_directory(str(folder))

    def note(value: float, *_: object, **__: object) -> None:
        if value >= 1:
            measured.setdefault("first_step", _read_clocks())

    comfy.utils.set_progress_bar_global_hook(note)
    server = SimpleNamespace(client_id=None, last_node_id=None, last_prompt_id="", send_sync=lambda *_: None)
    options: dict[str, Any] = {"cache_type": execution.CacheType.CLASSIC}
    if "cache_args" in inspect.signature(execution.PromptExecutor).parameters:  # newer ones
        options["cache_args"] = {"ram": 16.0, "lru": 0}  # read after each prompt, whatever the type of its cache
    executor = execution.PromptExecutor(server, **options)

    def make(seed: int) -> None:
        executor.execute(_build_graph(request, seed), f"peer-{seed}", {}, ["save"])
        if not executor.success:
            raise RuntimeError(str(executor.status_messages)[-2000:])

    return _measure(make, measured, request.repeats)


def _build_graph(request: PeerRequest, seed: int) -> dict[str, Any]:
    """The default workflow, in the form that ComfyUI's API takes."""

    def node(class_type: str, **inputs: object) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    sampling = {"seed": seed, "steps": request.steps, "cfg": SCALE, "sampler_name": "euler", "scheduler": "normal"}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name=Path(request.checkpoint).name),
        "text": node("CLIPTextEncode", text=PROMPT, clip=["load", 1]),
        "negative": node("CLIPTextEncode", text=NEGATIVE, clip=["load", 1]),
        "empty": node("EmptyLatentImage", width=request.side, height=request.side, batch_size=1),
        "sample": node(
            "KSampler",
            model=["load", 0],
            positive=["text", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            denoise=1.0,
            **sampling,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="peer"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the request that the first argument describes as JSON."""
    request = PeerRequest(**json.loads((sys.argv[1:] if arguments is None else arguments)[0]))
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        figures = (run_comfyui if request.comfyui else run_ours)(request, Path(scratch))
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
