"""Our own JSON in a picture, which holds the whole request."""

from __future__ import annotations

from pipelines.core.types import METHODS
from studio.infotext.fields import Collector, Restored, parse_object

__all__ = ["read_ours"]

_TEXTS = ("prompt", "negative_prompt", "prompt_weighting")
_NUMBERS = (
    *("num_inference_steps", "width", "height", "seed"),
    *("variation_seed", "variation_strength", "batch_size"),
)


def read_ours(text: str) -> Restored | None:
    """Read the settings in our JSON, or None when the text is something else."""
    metadata = (parse_object(text) or {}).get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("request"), dict):
        return None
    request = dict(metadata["request"])
    collector = Collector("stepwise")
    _note_typed(metadata.get("typed"), collector)
    takers = ((collector.take_text, _TEXTS), (collector.take_number, _NUMBERS), (collector.take_choice, METHODS))
    for take, names in takers:
        for name in names:
            if name in request:
                take(name, request.pop(name))
    collector.take_model(request.pop("model", ""))
    loras = request.pop("loras", [])
    for lora in loras[:100] if isinstance(loras, list) else []:
        if isinstance(lora, dict):
            collector.take_lora(lora.get("name"), lora.get("weight", 1.0))
    collector.note_ignored(request)
    return collector.finish()


def _note_typed(typed: object, collector: Collector) -> None:
    """Tell what a prompt was before its wildcards were drawn; restored is the drawn one, which makes the picture."""
    for name in _TEXTS:
        text = typed.get(name) if isinstance(typed, dict) else None
        if isinstance(text, str) and text:
            excerpt = " ".join(text[:300].split())
            collector.note(f"The {name.replace('_', ' ')} was drawn from “{excerpt}”.")
