"""Which of other programs' lists of sigmas a schedule of ours is, by its key and settings."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.core.types import Choice

__all__ = ["comfyui_scheduler", "k_diffusion_scheduler"]

_SPACINGS: Mapping[str, tuple[str, str]] = {
    "linspace unrounded": ("normal", "Uniform"),
    "sgm": ("sgm_uniform", "SGM Uniform"),
    "simple": ("simple", "Simple"),
    "ddim_uniform": ("ddim_uniform", "DDIM"),
}
"""Spacings of the schedule Uniform to ComfyUI's name and A1111's."""

_KEYS: Mapping[str, tuple[str, str]] = {
    "karras": ("karras", "Karras"),
    "exponential": ("exponential", "Exponential"),
    "beta": ("beta", "Beta"),
    "kl_optimal": ("kl_optimal", "KL Optimal"),
    "linear_quadratic": ("linear_quadratic", ""),
}


def _names(schedule: Choice) -> tuple[str, str]:
    settings = schedule.settings
    if schedule.key == "uniform" and settings.get("final", "zero") == "zero":
        return _SPACINGS.get(str(settings.get("spacing", "")), ("", ""))
    if schedule.key == "beta" and any(settings.get(name, 0.6) != 0.6 for name in ("alpha", "beta")):
        return "", ""
    return _KEYS.get(schedule.key, ("", ""))


def comfyui_scheduler(schedule: Choice) -> str:
    """Find ComfyUI's name of a schedule; empty where it has none."""
    return _names(schedule)[0]


def k_diffusion_scheduler(schedule: Choice) -> str:
    """Find A1111's name of a schedule; empty where it has none."""
    return _names(schedule)[1]
