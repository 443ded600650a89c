"""What an event of the page changes, in the form that Gradio's types allow."""

from __future__ import annotations

from collections.abc import Iterable

from gradio.blocks import Block

__all__ = ["in_order"]


def in_order(components: Iterable[Block]) -> list[Block]:
    """Return the components that an event changes, each once, in the order in which the page was built.

    Gradio takes a set and does the same with it, but its types know lists only.
    """
    return sorted(set(components), key=lambda component: component._id)
