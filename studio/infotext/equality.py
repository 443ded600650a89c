"""Whether a picture of another program comes out the same here: the program's rules are set, and one sentence says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.infotext.fields import Collector

__all__ = ["NAMES", "set_program"]

NAMES: Mapping[str, str] = {
    "comfyui": "ComfyUI 0.3",
    "a1111_cpu": "A1111 1.10",
    "a1111_gpu": "A1111 1.10",
    "invokeai": "InvokeAI",
}
"""Keys of `pipelines.compatibility.COMPATIBILITIES` to the version that the rules were held against."""

_PROVEN: Mapping[str, frozenset[str]] = {
    "comfyui": frozenset(
        {
            *("euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde"),
            *("dpmpp_3m_sde", "ddim", "ddpm", "lcm", "ipndm", "deis", "unipc", "sa_solver"),
        }
    ),
    "a1111_cpu": frozenset(
        {
            *("euler", "euler_a", "heun", "lms", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde"),
            *("dpmpp_3m_sde", "ddim", "pndm"),
        }
    ),
    "invokeai": frozenset(),
}
"""Samplers whose whole runs tests/pipelines/test_like_peers.py compares with the program's own numbers."""

_SCHEDULES: Mapping[str, frozenset[str]] = {
    "comfyui": frozenset({"uniform", "karras", "exponential", "beta", "kl_optimal", "linear_quadratic"}),
    "a1111_cpu": frozenset({"uniform", "karras", "exponential"}),
    "invokeai": frozenset(),
}

_FIELDS: Mapping[str, frozenset[str]] = {
    "prompt": frozenset({"prompt"}),
    "negative prompt": frozenset({"negative_prompt"}),
    "steps": frozenset({"num_inference_steps"}),
    "seed": frozenset({"seed"}),
    "guidance scale": frozenset({"guidance"}),
    "size": frozenset({"width"}),
}
"""What a picture must say to come out the same: where it does not, the page keeps what stands on it."""

_DRAWN_ANEW = frozenset({"euler_a", "dpm2_a", "ddpm", "lcm", "sa_solver"})
"""Samplers whose steps ComfyUI draws where the network runs."""

_LONG = 60
"""Words from which on a prompt may have more than 75 tokens, whose parting the programs do each in their own way."""


def set_program(
    collector: Collector, key: str, settings: Mapping[str, object] | None = None, reasons: Sequence[str] = ()
) -> None:
    """Set `made_like` where a sampler was restored, and say whether the picture comes out the same.

    Args:
        collector: with the prompts, the sampler and the schedule.
        key: of the program.
        settings: of its rules, as far as the picture says them.
        reasons: why equality is not certain, as far as the reader knows them.
    """
    if "sampler" not in collector.values:
        return
    collector.values["made_like"] = {"key": key, **(settings or {})}
    reasons_to_differ = [*reasons, *_reasons(collector, "a1111_cpu" if key == "a1111_gpu" else key, settings or {})]
    if key == "a1111_gpu":
        reasons_to_differ.append("its noise is the GPU's by recorded numbers, but no whole run on a GPU was compared")
    name = NAMES[key]
    if reasons_to_differ:
        collector.equality = f"May differ from {name}'s picture: {'; '.join(dict.fromkeys(reasons_to_differ))}."
    else:
        collector.equality = (
            f"Same as {name} with the same Stable Diffusion 1, 2 or SDXL checkpoint, but for a GPU's rounding."
        )


def _reasons(collector: Collector, key: str, settings: Mapping[str, object]) -> list[str]:
    values, reasons_to_differ = collector.values, []
    sampler, schedule = values["sampler"]["key"], values.get("schedule", {}).get("key", "")
    in_time_steps = key == "a1111_cpu" and sampler in ("ddim", "pndm")
    missing = [name for name, fields in _FIELDS.items() if not fields & values.keys()]
    if missing:
        reasons_to_differ.append(f"it does not say all of its settings ({', '.join(missing)})")
    if sampler not in _PROVEN[key]:
        reasons_to_differ.append("its sampler was not compared with that program's")
    if not in_time_steps and schedule not in _SCHEDULES[key]:
        reasons_to_differ.append(
            "its schedule was not compared with that program's" if schedule else "its schedule is not said"
        )
    if key == "comfyui" and sampler in _DRAWN_ANEW and "step_noise" not in settings:
        reasons_to_differ.append(
            "the picture does not say whether its steps' noise came from a GPU, as is assumed, or from the CPU"
        )
    if key == "comfyui" and sampler == "unipc" and values.get("num_inference_steps") == 1:
        reasons_to_differ.append("its uni_pc, asked for one step, takes none and returns the noise")
    if collector.moved:
        reasons_to_differ.append(f"it goes beyond what can be set here ({', '.join(collector.moved)})")
    if collector.loras:
        reasons_to_differ.append("LoRAs were not compared")
    texts = [str(values.get(name, "")) for name in ("prompt", "negative_prompt")]
    if any("embedding:" in text for text in texts):
        reasons_to_differ.append("embeddings were not compared")
    if key == "invokeai" and any(len(re.findall(r"\w+|[^\w\s]", text)) > _LONG for text in texts):
        reasons_to_differ.append("a prompt of more than 75 tokens may be parted at another place")
    if key != "comfyui" and any(re.search(r"[(\[]", text) for text in texts):
        reasons_to_differ.append("weights in its prompts were not compared")
    return reasons_to_differ
