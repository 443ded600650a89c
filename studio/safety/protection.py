"""What is done to pictures before anybody sees them."""

from __future__ import annotations

import dataclasses

__all__ = ["Protection"]


@dataclasses.dataclass(frozen=True)
class Protection:
    """Says which guards stand between a model and those who look at its pictures.

    Attributes:
        checks: whether a safety checker withholds pictures, where one lies in the models folders.
        marks: whether pictures get an invisible watermark.
    """

    checks: bool = False
    marks: bool = False
