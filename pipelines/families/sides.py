"""Sizes of pictures that a model cannot draw."""

from __future__ import annotations

from pipelines.core.errors import SettingsError

__all__ = ["require_longest", "require_multiples"]


def require_multiples(width: int, height: int, step: int, who: str = "This model makes") -> None:
    """Refuse sides that are no multiples of a step, naming the nearest that are.

    Args:
        width, height: of the picture, in pixels.
        step: what both must be divisible by.
        who: the beginning of the sentence that says so.

    Raises:
        SettingsError: a side is none.
    """
    for name, value in (("width", width), ("height", height)):
        if value <= 0 or value % step:
            below = max(step, value // step * step)
            raise SettingsError(
                f"The {name} is {value} pixels. {who} multiples of {step}: choose {below} or {below + step}."
            )


def require_longest(width: int, height: int, longest: int) -> None:
    """Refuse a side that is longer than a model's table of positions.

    Args:
        width, height: of the picture, in pixels.
        longest: side, in pixels.

    Raises:
        SettingsError: one is longer.
    """
    if max(width, height) > longest:
        raise SettingsError(f"The longer side is {max(width, height)} pixels. This model makes at most {longest}.")
