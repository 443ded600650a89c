"""What a `parameters` text says of A1111's and Forge's rules: the generator, ENSD, eta, schedule type and its ends.

Source: AUTOMATIC1111 and contributors, stable-diffusion-webui 1.10, `modules/processing.py` (create_infotext),
`modules/sd_samplers_kdiffusion.py` (get_sigmas and the samplers' options).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from studio.infotext.equality import set_program
from studio.infotext.fields import Collector
from studio.infotext.names import find_sampler_key

__all__ = ["automatic_schedule", "is_web_ui", "take_schedule_ends", "take_web_ui_rules"]

_AUTOMATIC: Mapping[str, str] = {
    "DPM++ 2M": "Karras",
    "DPM++ SDE": "Karras",
    "DPM++ 2S a": "Karras",
    "DPM2": "Karras",
    "DPM2 a": "Karras",
    "DPM++ 2M SDE": "Exponential",
    "DPM++ 2M SDE Heun": "Exponential",
    "DPM++ 3M SDE": "Exponential",
}
"""Schedules that a sampler has by itself from version 1.9 on; all others have Uniform."""

_IN_TIMESTEPS = ("DDIM", "PLMS", "UniPC")
"""Samplers that heed no schedule type."""

_ENDS = {"Schedule min sigma": "sigma_min", "Schedule max sigma": "sigma_max", "Schedule rho": "rho"}
_ETA = frozenset({"euler_a", "dpm2_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"})

_EMPHASIS = ("Original", "No norm", "Ignore", "None")

_UNLIKE = {
    "Discard penultimate sigma": "its penultimate sigma was left out by an option that is not followed here",
    "Clip skip": "its clip skip could not be taken over",
    "Emphasis": "its emphasis mode could not be taken over",
    "Emphasis mode": "its emphasis mode could not be taken over",
    "NGMS": "it left out the negative prompt at low noise",
    "Sigma churn": "it has churn, which no sampler here has",
    "Hires upscale": "it was made in two passes, and the second is not followed here",
    "Denoising strength": "it was made in two passes or from another picture",
    "SGM noise multiplier": "its first noise has another size",
    "Refiner": "a refiner finished it",
    "TI hashes": "embeddings were not compared",
    "Schedule min sigma": "its schedule's ends could not be taken over",
    "Schedule max sigma": "its schedule's ends could not be taken over",
    "Schedule rho": "its schedule's rho could not be taken over",
}
"""Settings that change the picture and are left in the text, and what they do to its equality."""


def is_web_ui(pairs: Mapping[str, str]) -> bool:
    """Say whether A1111's web UI or Forge wrote the text, by its version: many programs write such texts."""
    return re.match(r"v?\d+\.\d|f\d|neo", pairs.get("Version", "")) is not None and "App" not in pairs


def automatic_schedule(sampler: str, version: str, schedule: str) -> str:
    """Find the schedule type of a text that says Automatic or nothing.

    Args:
        sampler: its name there.
        version: of the program, as the text says it.
        schedule: as the text says it; empty for nothing.

    Returns:
        The name of a schedule type; what the text says for a sampler that has none or is not of the web UI.
    """
    if sampler in _IN_TIMESTEPS or find_sampler_key(sampler, "a1111") is None:
        return schedule
    number = re.match(r"v?(\d+)\.(\d+)", version)
    recent = version.startswith(("f", "neo")) or (number is not None and (int(number[1]), int(number[2])) >= (1, 9))
    return _AUTOMATIC.get(sampler, "Uniform") if recent or schedule else "Uniform"


def take_schedule_ends(pairs: dict[str, str], collector: Collector) -> None:
    """Take the ends and rho of a schedule that has such settings here."""
    key = collector.values.get("schedule", {}).get("key")
    if key not in ("karras", "exponential"):
        return
    for name, setting in _ENDS.items():
        if name in pairs and (key == "karras" or setting != "rho"):
            collector.take_setting("schedule", setting, pairs.pop(name))


def take_web_ui_rules(pairs: dict[str, str], collector: Collector, without_effect: Set[str]) -> None:
    """Take the generator, ENSD and eta, and say whether the picture comes out the same.

    Args:
        pairs: what is left of the text's settings; what is taken here leaves it.
        collector: with all else taken.
        without_effect: names of settings that change no picture.
    """
    source = pairs.pop("RNG", "GPU")
    settings: dict[str, int | str] = {}
    if re.fullmatch(r"[1-9]|1[0-2]", pairs.get("Clip skip", "")) and collector.values.get("sampler") is not None:
        settings["clip_skip"] = int(pairs.pop("Clip skip"))
    for name in ("Emphasis", "Emphasis mode"):
        if pairs.get(name) in _EMPHASIS and collector.values.get("sampler") is not None:
            settings["emphasis"] = pairs.pop(name)
    if re.fullmatch(r"\d{1,9}", pairs.get("ENSD", "")):
        settings["ensd"] = int(pairs.pop("ENSD"))
    sampler = collector.values.get("sampler")
    if sampler is not None:
        name = "Eta DDIM" if sampler["key"] == "ddim" else "Eta"
        if name in pairs and (sampler["key"] in _ETA or name == "Eta DDIM"):
            collector.take_setting("sampler", "eta", pairs.pop(name))
    reasons = [why for name, why in _UNLIKE.items() if name in pairs and pairs[name] not in ("1", "Original")]
    if others := sorted(pairs.keys() - _UNLIKE.keys() - without_effect):
        reasons.append(f"it has settings that are not followed here ({', '.join(name[:40] for name in others[:4])})")
    if sampler is not None and sampler.get("eta", 1.0) not in (0.0, 1.0) and sampler["key"] == "dpmpp_sde":
        reasons.append("its share of fresh noise acts by another rule there")
    set_program(collector, "a1111_cpu" if source == "CPU" else "a1111_gpu", settings, reasons)
