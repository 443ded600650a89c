"""The table of programs whose pictures can be made again: their noise, times and formulas."""

from __future__ import annotations

from pipelines.compatibility.a1111 import A1111Cpu, A1111Gpu, A1111Settings
from pipelines.compatibility.base import Compatibility, Here, HereSettings
from pipelines.compatibility.comfyui import ComfyUi, ComfyUiSettings
from pipelines.compatibility.invokeai import InvokeAi, InvokeAiSettings
from pipelines.core.registry import Method, Table, own_loop_only

__all__ = ["COMPATIBILITIES"]


COMPATIBILITIES: Table[Compatibility] = Table(
    "program",
    [
        Method(
            "here",
            "Stepwise",
            Here,
            HereSettings,
            help="Stepwise's own rules: exact levels, the papers' formulas, a generator for each picture.",
        ),
        Method(
            "comfyui",
            "ComfyUI",
            ComfyUi,
            ComfyUiSettings,
            fit=own_loop_only,
            paper="ComfyUI 0.3.64",
            help="As ComfyUI: one generator for a batch, whole time steps, its samplers' formulas.",
        ),
        Method(
            "a1111_cpu",
            "A1111 / Forge, CPU",
            A1111Cpu,
            A1111Settings,
            fit=own_loop_only,
            paper="stable-diffusion-webui 1.10, k-diffusion 0.1.1",
            help="As AUTOMATIC1111's web UI with random numbers from the CPU.",
        ),
        Method(
            "a1111_gpu",
            "A1111 / Forge, GPU",
            A1111Gpu,
            A1111Settings,
            fit=own_loop_only,
            paper="stable-diffusion-webui 1.10, k-diffusion 0.1.1",
            help="As AUTOMATIC1111's web UI with random numbers from an NVIDIA GPU, its default.",
        ),
        Method(
            "invokeai",
            "InvokeAI",
            InvokeAi,
            InvokeAiSettings,
            fit=own_loop_only,
            paper="InvokeAI 5",
            help="As InvokeAI: diffusers' rules, the steps' noise from a generator of its own.",
        ),
    ],
)
