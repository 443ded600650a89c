"""`<lora:name:0.8>` in a prompt: named to the collector, and taken out of the text."""

from __future__ import annotations

import re

from studio.infotext.fields import Collector

__all__ = ["strip_lora_tags"]

_TAG = re.compile(r" ?<lora:([^:<>\n]{1,200})(?::([^:<>\n]{1,20}))?(?::[^<>\n]{0,60})?>")


def strip_lora_tags(prompt: str, collector: Collector) -> str:
    """Return the prompt without its LoRAs, each of which the collector receives."""
    for name, weight in _TAG.findall(prompt):
        collector.take_lora(name, weight or 1.0)
    return _TAG.sub("", prompt)
