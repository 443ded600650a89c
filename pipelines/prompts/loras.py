"""<lora:name:0.8> in a prompt: the LoRAs that it asks for, and the prompt without them."""

from __future__ import annotations

import re

from pipelines.core.errors import PromptError
from pipelines.core.types import LoraChoice

__all__ = ["take_loras"]

_TAG = re.compile(r" ?(?<!\\)<(?:lora|lyco):([^:<>\n]{1,200})(?::([^<>\n]{0,60}))?>", re.IGNORECASE)
_PART = re.compile(r"(?:(unet|te|dyn)=)?\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\Z")


def take_loras(prompt: str) -> tuple[str, tuple[LoraChoice, ...]]:
    r"""Return the prompt without its tags, and what they name in order; \<lora:name> is text.

    <lora:name> has weight 1. Of several numbers, the text encoder's and the network's, both must be the same.

    Raises:
        PromptError: a weight is no number from -4 to 4, or the two parts of a LoRA have different ones.

    Source: AUTOMATIC1111, stable-diffusion-webui, `extensions-builtin/Lora/extra_networks_lora.py`.
    """
    loras = tuple(LoraChoice(match[1].strip(), _parse_weight(match)) for match in _TAG.finditer(prompt))
    return (_TAG.sub("", prompt), loras) if loras else (prompt, ())


def _parse_weight(match: re.Match[str]) -> float:
    weights = []
    for part in (match[2] or "1").split(":"):
        number = _PART.match(part.strip())
        if number is None or not -4 <= float(number[2]) <= 4:
            raise PromptError(
                f"The weight in {match[0].strip()[:80]!r} cannot be read. Write <lora:{match[1].strip()[:40]}:0.8>, "
                "with a weight from -4 to 4."
            )
        if number[1] != "dyn":
            weights.append(float(number[2]))
    if len(set(weights)) > 1:
        raise PromptError(
            f"{match[0].strip()[:80]!r} has different weights for text encoder and network. Give one for both: "
            f"<lora:{match[1].strip()[:40]}:{weights[-1]:g}>."
        )
    return weights[0] if weights else 1.0
