"""What was measured of edits: the file that `python -m pipelines.benchmark edits --write` writes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FILE", "Line", "read_lines"]

FILE = Path(__file__).resolve().parents[3] / "assets" / "benchmarks" / "edits.json"


@dataclasses.dataclass(frozen=True)
class Line:
    """Describes an edit, the inversion that goes with it, and how it did on the pairs of one kind.

    Attributes:
        edit, inversion: keys.
        right, tried: pairs.
        background: dB to the source outside of what changes; None where it is exact or nothing is outside.
    """

    edit: str
    inversion: str
    right: int
    tried: int
    background: float | None

    @property
    def share(self) -> float:
        """How many of the pairs were right, 0 to 1."""
        return self.right / self.tried


@functools.cache
def read_lines(kind: str) -> Sequence[Line]:
    """Read what was measured of a kind of edit; () where nothing was."""
    lines = json.loads(FILE.read_text(encoding="utf-8"))["lines"]
    return tuple(Line(line["edit"], line["inversion"], *line["kinds"][kind]) for line in lines if kind in line["kinds"])
