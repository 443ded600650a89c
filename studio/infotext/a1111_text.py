"""Our settings as the `parameters` text that A1111's web UI began and most other programs read.

Source: AUTOMATIC1111 and contributors, stable-diffusion-webui, `modules/processing.py` (create_infotext).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from studio.infotext.cache_text import write_cache
from studio.infotext.names import get_sampler_name, schedule_name
from studio.infotext.parameters_syntax import NEGATIVE, quote
from studio.infotext.search_text import write_search
from studio.infotext.second_pass import write_second_pass
from studio.infotext.vae_text import write_vae

__all__ = ["Labels", "write"]


@dataclasses.dataclass(frozen=True)
class Labels:
    """Describes what the text says beside the request itself.

    Attributes:
        model: the model's name for people; empty for its key.
        model_hash: the first ten hexadecimal digits of the weights' SHA-256, where known.
        width, height: pixels of the finished picture; 0 takes the request's.
        lora_hashes: LoRA name to hash, where known.
        version: of this studio.
    """

    model: str = ""
    model_hash: str = ""
    width: int = 0
    height: int = 0
    lora_hashes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    version: str = ""


def write(request: Mapping[str, Any], labels: Labels = Labels()) -> str:
    """Write the parameters text of one picture.

    Args:
        request: `Request.to_json()` for this one picture: of a batch, with the picture's own seed. Method
            settings that are left out of it are left out of the text: fill in the methods' defaults first.
        labels: what the request does not say.
    """
    prompt = request.get("prompt", "") + "".join(_format_lora_tag(lora) for lora in request.get("loras", ()))
    negative = request.get("negative_prompt", "")
    lines = [prompt, f"{NEGATIVE} {negative}"] if negative else [prompt]
    pairs = [
        f"{name}: {quote(value)}" for name, value in _build_pairs(request, labels).items() if value not in (None, "")
    ]
    return "\n".join([*lines, ", ".join(pairs)]).strip()


def _build_pairs(request: Mapping[str, Any], labels: Labels) -> dict[str, Any]:
    sampler, schedule, guidance = (request.get(name, {"key": ""}) for name in ("sampler", "schedule", "guidance"))
    width, height = labels.width or request.get("width", 0), labels.height or request.get("height", 0)
    strength = request.get("variation_strength", 0.0)
    return {
        "Steps": request.get("num_inference_steps"),
        "Sampler": get_sampler_name(sampler["key"]),
        "Schedule type": schedule_name(schedule),
        "Shift": schedule.get("shift") or None,
        "CFG scale": guidance.get("guidance_scale"),
        **write_second_pass(request.get("second_pass", {})),
        **write_cache(request.get("cache", {})),
        **write_vae(request.get("vae", {})),
        **write_search(request),
        "Seed": request.get("seed", 0),
        "Size": f"{width}x{height}" if width and height else None,
        "Model hash": labels.model_hash,
        "Model": labels.model or request.get("model"),
        "Variation seed": request.get("variation_seed") if strength else None,
        "Variation seed strength": strength or None,
        "Lora hashes": ", ".join(f"{name}: {digest}" for name, digest in labels.lora_hashes.items()),
        "Version": labels.version,
    }


def _format_lora_tag(lora: Mapping[str, Any]) -> str:
    name = lora["name"]
    return f" <lora:{name}:{lora.get('weight', 1.0):g}>" if not set(name) & set(":<>\n") else ""
