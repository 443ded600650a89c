"""NovelAI's settings: JSON in PNG's `Comment` beside the prompt in `Description`, or both in one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.infotext.fields import Collector, Restored, parse_object

__all__ = ["read_novelai"]

_NUMBERS = {"steps": "num_inference_steps", "seed": "seed", "width": "width", "height": "height"}
_SAMPLERS = {"ddim_v3": "ddim", "plms": "PLMS"}
_UNREMARKED = {
    *("signed_hash", "request_type", "hide_debug_overlay", "n_samples", "uc", "v4_prompt", "v4_negative_prompt"),
    *("legacy", "legacy_v3_extend", "legacy_uc", "version", "add_original_image", "params_version", "stream"),
    *("prefer_brownian", "deliberate_euler_ancestral_bug", "extra_noise_seed", "prompt", "noise_schedule", "sampler"),
    *("scale", "uncond_scale", "strength", "noise", "skip_cfg_below_sigma", "lora_unet_weights", "lora_clip_weights"),
}
_NOTHING: tuple[Any, ...] = (None, [], {}, "", 0, False)


def read_novelai(texts: Mapping[str, str]) -> Restored | None:
    """Read the settings in a picture of NovelAI's, or None when it is none."""
    wrapped = parse_object(texts.get("UserComment", "") or texts.get("comment", "")) or {}
    texts = (
        {name: value for name, value in wrapped.items() if isinstance(value, str)} if "Comment" in wrapped else texts
    )
    comment = parse_object(texts.get("Comment", ""))
    if comment is None or not {"uc", "sampler", "steps"} <= comment.keys():
        return None
    collector = Collector("novelai", ("comfyui", "a1111"))
    prompt = comment.get("prompt", texts.get("Description"))
    if isinstance(prompt, str):
        collector.take_text("prompt", prompt)
    if isinstance(comment.get("uc"), str):
        collector.take_text("negative_prompt", comment["uc"])
    for name, field in _NUMBERS.items():
        if name in comment:
            collector.take_number(field, comment[name])
    if "scale" in comment:
        collector.take_guidance_scale(comment["scale"])
    _take_methods(comment, collector)
    collector.take_model(texts.get("Source", ""))
    _note_the_rest(comment, collector)
    return collector.finish()


def _take_methods(comment: Mapping[str, object], collector: Collector) -> None:
    name = comment.get("sampler")
    if isinstance(name, str):
        name = _SAMPLERS.get(name, name.removeprefix("k_"))
        collector.take_sampler(name)
    schedule = comment.get("noise_schedule")
    if schedule not in (None, "native"):
        collector.take_schedule(schedule)


def _note_the_rest(comment: Mapping[str, Any], collector: Collector) -> None:
    """What the picture's settings hold that has no place here."""
    caption = comment.get("v4_prompt")
    caption = caption.get("caption") if isinstance(caption, dict) else None
    if isinstance(caption, dict) and caption.get("char_captions"):
        collector.note("The prompts for single characters were left out: this studio has one prompt for the picture.")
    if isinstance(comment.get("prompt"), str) and "{" in comment["prompt"]:
        collector.note("NovelAI's {braces} raise a word's weight; here write (word:1.05) instead.")
    collector.note_ignored(
        name for name, value in comment.items() if value not in _NOTHING and name not in set(_NUMBERS) | _UNREMARKED
    )
