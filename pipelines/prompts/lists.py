"""Several texts in one setting."""

from __future__ import annotations

__all__ = ["split_lines"]


def split_lines(text: str) -> tuple[str, ...]:
    """Split a text at semicolons and line ends; empty parts are left out."""
    parts = (part.strip() for line in text.splitlines() for part in line.split(";"))
    return tuple(part for part in parts if part)
