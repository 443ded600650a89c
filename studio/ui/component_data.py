"""The types of what an event's handler takes and gives."""

from __future__ import annotations

from typing import Any, TypeAlias

from gradio.blocks import Block

__all__ = ["Block", "Data"]

Data: TypeAlias = dict[Block, Any]
"""Component to its value, of what a handler takes; component to its update, of what it gives."""
