"""The `parameters` text read: A1111's, and that of Forge, SD.Next, Fooocus and picture sites in the same form."""

from __future__ import annotations

import re
from collections.abc import Mapping

from studio.infotext.cache_text import take_cache
from studio.infotext.civitai import take_resources
from studio.infotext.fields import MAX_TEXT, Collector, Restored
from studio.infotext.lora_tags import strip_lora_tags
from studio.infotext.names import UNSAID, split_sampler
from studio.infotext.parameters_syntax import Parts, split_parameters
from studio.infotext.search_text import take_search
from studio.infotext.second_pass import take_second_pass
from studio.infotext.vae_text import take_vae
from studio.infotext.web_ui_rules import automatic_schedule, is_web_ui, take_schedule_ends, take_web_ui_rules

__all__ = ["read_parameters"]

_SIZE = re.compile(r"(\d{1,6})\s*[x\u00d7]\s*(\d{1,6})\Z")
_UNREMARKED = {
    *(
        "Version",
        "Model hash",
        "VAE hash",
        "Lora hashes",
        "TI hashes",
        "Batch size",
        "Batch pos",
        "RNG",
        "User",
        "Hashes",
    ),
    *(
        "Civitai metadata",
        "App",
        "Backend",
        "Parser",
        "Index",
        "Batch",
        "Raw prompt",
        "Raw negative prompt",
        "Pipeline",
    ),
}
"""Settings without a counterpart here that change nothing a person would look for."""

_NUMBERS = {
    "Steps": "num_inference_steps",
    "Seed": "seed",
    "Variation seed": "variation_seed",
    "Variation seed strength": "variation_strength",
    "Variation strength": "variation_strength",
}


def read_parameters(text: str) -> Restored | None:
    """Read the settings in a parameters text; None when it is none."""
    if len(text) > MAX_TEXT:
        collector = Collector("a1111")
        collector.note(f"The picture's settings have {len(text)} characters: they are too long to be read.")
        return collector.finish()
    parts = split_parameters(text)
    if parts is None:
        return None
    source, programs = _identify_program(parts.pairs)
    collector = Collector(source, programs)
    collector.written = source in ("a1111", "sdnext") and not is_web_ui(parts.pairs)
    _take_prompts(parts, collector)
    _take(dict(parts.pairs), collector)
    if parts.behind:
        excerpt = re.sub(r"\s+", " ", parts.behind)[:60]
        collector.note(f"What stands behind the settings was left out: “{excerpt}”.")
    return collector.finish()


def _identify_program(pairs: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Who wrote the text, and whose names its methods have."""
    version = pairs.get("Version", "")
    if pairs.get("App") == "SD.Next":
        return "sdnext", ("a1111", "invokeai")
    if version.startswith("Fooocus"):
        return "fooocus", ("a1111", "comfyui")
    if "Seed Mode" in pairs and "Guidance Scale" in pairs:
        return "drawthings", ("a1111",)
    # Nodes that save a ComfyUI picture with such a text write ComfyUI's names into it.
    return "forge" if re.match(r"f\d|neo", version) else "a1111", ("a1111", "comfyui")


def _take_prompts(parts: Parts, collector: Collector) -> None:
    prompt, negative = parts.prompt, parts.negative
    if prompt is None:
        collector.note("The picture's settings carry no prompt: yours was left as it is.")
    else:
        if collector.source == "sdnext":
            prompt = re.sub(r"\Aprompt: ", "", prompt, flags=re.IGNORECASE)
        if collector.source == "drawthings":
            prompt, _, negative = prompt.partition("\n-")
        collector.take_text("prompt", strip_lora_tags(prompt, collector))
    if negative is not None:
        collector.take_text("negative_prompt", negative)
    elif prompt is not None:
        collector.note("The picture's settings carry no negative prompt: yours was left as it is.")
    if parts.one_line:
        collector.note("The picture's settings stand on one line: check where its prompt ends.")


def _take(pairs: dict[str, str], collector: Collector) -> None:
    for name, field in _NUMBERS.items():
        if name in pairs:
            collector.take_number(field, pairs.pop(name))
    if size := _SIZE.match(pairs.get("Size", "")):
        del pairs["Size"]
        collector.take_number("width", size[1])
        collector.take_number("height", size[2])
    _take_methods(pairs, collector)
    if collector.written:
        take_second_pass(pairs, collector)
        take_cache(pairs, collector)
        take_search(pairs, collector)
    collector.take_model(pairs.pop("Model", ""))
    take_vae(pairs.pop("VAE", ""), collector)
    take_resources(pairs.pop("Civitai resources", ""), collector)
    _take_fooocus_loras(pairs, collector)
    if is_web_ui(pairs):
        take_web_ui_rules(pairs, collector, _UNREMARKED)
    elif "RNG" in pairs:
        collector.note_ignored(["RNG"])
    collector.note_ignored(pairs.keys() - _UNREMARKED)


def _take_methods(pairs: dict[str, str], collector: Collector) -> None:
    sampler, schedule = split_sampler(pairs.pop("Sampler", ""))
    schedule = pairs.pop("Schedule type", "") or pairs.pop("Scheduler", "") or schedule
    if sampler:
        collector.take_sampler(sampler)
    if schedule.casefold() in UNSAID and is_web_ui(pairs):
        schedule = automatic_schedule(sampler, pairs["Version"], schedule)
    collector.take_schedule(schedule)
    take_schedule_ends(pairs, collector)
    if collector.values.get("schedule") == {"key": "shift"} and "Shift" in pairs:
        collector.take_setting("schedule", "shift", pairs.pop("Shift"))
    scale, distilled = pairs.pop("CFG scale", None), pairs.pop("Distilled CFG Scale", None)
    if distilled is not None and scale in (None, "1", "1.0"):
        scale = distilled  # Forge's name for the scale that Flux takes as an input
    scale = scale if scale is not None else pairs.pop("Guidance Scale", None)
    if scale is not None:
        collector.take_guidance_scale(scale)


def _take_fooocus_loras(pairs: dict[str, str], collector: Collector) -> None:
    """Fooocus' LoRAs: "name: weight, ..." since 2.4, "name: hash: weight, ..." before."""
    text = pairs.pop("Lora weights", "")
    if not text and collector.source == "fooocus":
        text = pairs.get("Lora hashes", "")
    for part in text.split(", ")[:100]:
        name, *fields = part.split(": ")
        if fields and _is_number(fields[-1]):
            collector.take_lora(name, fields[-1])


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*-?\d{1,3}(\.\d{1,6})?\s*", text) is not None
