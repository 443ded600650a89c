"""What decides live mode: a text-to-image request, how much of each picture stays, and which pictures are skipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.core.errors import SettingsError
from pipelines.core.registry import parse_settings, setting
from pipelines.core.types import Request
from pipelines.core.validation import read_object, require_fields
from pipelines.requests.refusals import require_made_here, require_one_pass, require_own_parts

__all__ = ["LiveRequest", "LiveSettings"]


@dataclasses.dataclass(frozen=True)
class LiveSettings:
    """The settings of live mode beside those of a request."""

    strength: float = setting(
        0.6, "How far a picture is noised: little keeps it, 1 all but forgets it.", low=0.05, high=1, step=0.01
    )
    similarity: float = setting(
        1.0,
        "Cosine from which on pictures may be skipped, the likelier the closer they are to the last; 1 skips none.",
        low=0,
        high=1,
        step=0.001,
        label="Similarity threshold",
    )
    most_skipped: int = setting(
        10, "Similar pictures that are skipped in a row at most.", low=1, high=1000, step=1, label="Most skipped"
    )


@dataclasses.dataclass(frozen=True)
class LiveRequest:
    """Holds everything that decides what live mode makes of a picture.

    Attributes:
        base: model, prompt, methods, number of steps, seed, size and LoRAs.
        settings: beside them.
    """

    base: Request
    settings: LiveSettings = LiveSettings()

    @classmethod
    def parse(
        cls, values: Mapping[str, object], read_request: Callable[[Mapping[str, object]], Request]
    ) -> LiveRequest:
        """Read a checked request from untrusted plain values.

        Args:
            values: fields of `LiveSettings`, and those of the base under "base".
            read_request: makes a checked request of plain values.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        names = [field.name for field in dataclasses.fields(LiveSettings)]
        require_fields(values, ["base", *names], "live mode")
        settings = parse_settings(LiveSettings, {name: values[name] for name in names if name in values}, "Live mode")
        request = cls(read_request(read_object(values.get("base", {}), "base of live mode")), settings)
        request.check()
        return request

    def check(self) -> None:
        """Refuse what live mode cannot do; the base is checked already.

        Raises:
            SettingsError: several pictures at once, another program's rules, a second pass or an initialization.
        """
        if self.base.batch_size != 1:
            raise SettingsError(f"The batch size is {self.base.batch_size}. Live mode makes one picture at a time: 1.")
        require_made_here(self.base, "Live mode")
        require_one_pass(self.base, "Live mode")
        require_own_parts(self.base, "Live mode")
        if self.base.start != Request.start:
            raise SettingsError(
                f"The initialization is {self.base.start.key!r}. Live mode starts from its picture: choose noise."
            )

    def to_json(self) -> dict[str, Any]:
        """Write plain values that `parse` reads back to an equal request."""
        return {"base": self.base.to_json(), **dataclasses.asdict(self.settings)}
