"""The second pass ("hires fix") in a `parameters` text, under A1111's names.

Source: AUTOMATIC1111 and contributors, stable-diffusion-webui 1.10, `modules/processing.py` (extra_generation_params of
a picture made with hires. fix).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from pipelines.core.choice_text import parse_choice
from pipelines.core.errors import SettingsError
from studio.infotext.fields import Collector

__all__ = ["take_second_pass", "write_second_pass"]

_LATENT = {"bilinear": "Latent", "bicubic": "Latent (bicubic)", "nearest": "Latent (nearest-exact)"}
_NUMBERS = {"Hires upscale": "factor", "Denoising strength": "strength"}
_NAME = "Hires upscaler"
_OWN = "Second pass"
"""Of methods that no other program has."""


def write_second_pass(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Write the pairs of a second pass whose settings are all there; none for no second pass."""
    if choice.get("key", "none") == "none":
        return {}
    if choice["key"] not in ("latent", "pixel"):
        return {
            _OWN: ",".join([choice["key"], *(f"{name}={value}" for name, value in choice.items() if name != "key")])
        }
    name = _LATENT[choice["interpolation"]] if choice["key"] == "latent" else choice["upscaler"]
    return {**{words: choice[setting] for words, setting in _NUMBERS.items()}, _NAME: name}


def take_second_pass(pairs: dict[str, str], collector: Collector) -> None:
    """Take the second pass of a text that we wrote; what is taken leaves the pairs.

    Other programs count the steps of their second pass otherwise, so theirs is not taken for ours.
    """
    if _OWN in pairs:
        with contextlib.suppress(SettingsError):
            collector.take_choice("second_pass", parse_choice(pairs[_OWN]))
            del pairs[_OWN]
        return
    if not all(re.fullmatch(r"\d{1,2}(\.\d{1,6})?", pairs.get(name, "")) for name in _NUMBERS) or _NAME not in pairs:
        return
    numbers = {setting: float(pairs.pop(words)) for words, setting in _NUMBERS.items()}
    upscaler = pairs.pop(_NAME)
    interpolations = {name: key for key, name in _LATENT.items()}
    if upscaler in interpolations:
        choice = {"key": "latent", **numbers, "interpolation": interpolations[upscaler]}
    else:
        choice = {"key": "pixel", **numbers, "upscaler": upscaler}
    collector.take_choice("second_pass", choice)
