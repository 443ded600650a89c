"""`<lora:name:0.8>` in a prompt: named to the collector, and taken out of the text."""

from __future__ import annotations

import re

from studio.infotext.fields import Collector

__all__ = ["without_lora_tags"]

_TAG = re.compile(r" ?<lora:([^:<>\n]{1,200})(?::([^:<>\n]{1,20}))?(?::[^<>\n]{0,60})?>")


def without_lora_tags(prompt: str, collector: Collector) -> str:
    """The prompt without its LoRAs, each of which the collector was told."""
    for name, weight in _TAG.findall(prompt):
        collector.named_lora(name, weight or 1.0)
    return _TAG.sub("", prompt)
