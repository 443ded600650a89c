"""How long results and the trash are kept, as plain numbers: the command line knows them without any framework."""

from __future__ import annotations

import dataclasses

__all__ = ["Housekeeping"]

_DAY = 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Housekeeping:
    """Says what is kept of the results.

    Attributes:
        trash_seconds: for which a deleted result can be restored.
        trash_bytes: that the trash may hold; those deleted first go first. None for no limit.
        keep_seconds: after which a result goes into the trash; None for never.
        quota_bytes: that results and trash may take together; None for no limit.
    """

    trash_seconds: float = 30 * _DAY
    trash_bytes: int | None = None
    keep_seconds: float | None = None
    quota_bytes: int | None = None
