"""What Civitai's own generator says: its resources, and a ComfyUI graph with extra fields as JSON in a JPEG's comment.

Its names of models are URNs such as urn:air:sdxl:checkpoint:civitai:101055@128078.
"""

from __future__ import annotations

import json
import re
from typing import Any

from studio.infotext.fields import MAX_TEXT, Collector, parse_object

__all__ = ["take_extra", "take_resources"]

_AIR = re.compile(r"urn:air:[\w.-]+:(?P<type>\w+):civitai:\d{1,12}@(?P<version>\d{1,12})")
_LORAS = {"lora", "lycoris", "locon", "dora"}
_EMBEDDINGS = {"embed", "textualinversion", "embedding"}


def take_resources(text: str, collector: Collector) -> None:
    """Take the model and the LoRAs of "Civitai resources", a list in JSON; a broken one is left out with a note."""
    if not text:
        return
    try:
        resources = json.loads(text) if len(text) <= MAX_TEXT else None
    except (ValueError, RecursionError):
        resources = None
    if not isinstance(resources, list):
        collector.note("The list of Civitai's resources was left out: it is not JSON.")
        return
    for resource in resources[:100]:
        if isinstance(resource, dict):
            _take_resource(resource, collector)


def _take_resource(resource: dict[str, Any], collector: Collector) -> None:
    match = _AIR.match(str(resource.get("air", "")))
    kind, name = str(resource.get("type") or (match["type"] if match else "")).lower(), _name(resource)
    if not name:
        return
    if kind == "checkpoint" or (kind == "model" and not collector.model):
        collector.take_model(name)
    elif kind in _LORAS:
        collector.take_lora(name, resource.get("weight", resource.get("strength", 1.0)))
    elif kind in _EMBEDDINGS:
        collector.note(f"The picture names the embedding {name[:80]!r}: choose it yourself if you have it.")


def _name(resource: dict[str, Any]) -> str:
    names = [resource.get(key) for key in ("modelName", "modelVersionName")]
    label = ", ".join(name for name in names if isinstance(name, str) and name)
    version = resource.get("modelVersionId")
    if label:
        return label
    if isinstance(version, int):
        return f"version {version} on Civitai"
    match = _AIR.match(str(resource.get("air", "")))
    return f"version {match['version']} on Civitai" if match else ""


def take_extra(text: object, collector: Collector) -> None:
    """Take the fields beside a graph (`extraMetadata`), as far as the graph itself did not say them."""
    extra = parse_object(text) if isinstance(text, str) else text
    if not isinstance(extra, dict):
        return
    for name, field in (("prompt", "prompt"), ("negativePrompt", "negative_prompt")):
        if field not in collector.values and isinstance(extra.get(name), str):
            collector.take_text(field, extra[name])
    for name, field in (("steps", "num_inference_steps"), ("seed", "seed"), ("width", "width"), ("height", "height")):
        if field not in collector.values and extra.get(name) is not None:
            collector.take_number(field, extra[name])
    if "guidance" not in collector.values and extra.get("cfgScale") is not None:
        collector.take_guidance_scale(extra["cfgScale"])
