"""Upscaling a picture: what a person asks for, checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.core.errors import PictureError, SettingsError
from pipelines.core.types import Choice, Request
from pipelines.core.validation import read_object, require_fields, require_one_picture, require_range
from pipelines.requests.limits import Limits
from pipelines.upscaling.upscalers import DEFAULT_UPSCALER, LANCZOS
from pipelines.workflows.edit.request import EditRequest, Picture

__all__ = ["DEFAULT_UPSCALER", "LANCZOS", "UpscaleRequest"]

MOST_FACTOR = 8.0


@dataclasses.dataclass(frozen=True)
class UpscaleRequest:
    """Everything that decides an upscaled picture.

    Attributes:
        base: the settings of the second pass; those of the picture where it has any.
        picture: what is enlarged.
        upscaler: "lanczos", or a key of the catalog's upscalers.
        factor: how many times wider and higher, from 1 to 8.
        strength: share of the steps of the second pass ("hires fix"), 0 to 1; 0 makes none.
        described: whether the base says how the picture was made, so that the result carries it.
    """

    base: Request
    picture: Picture
    upscaler: str = DEFAULT_UPSCALER
    factor: float = 2.0
    strength: float = 0.0
    described: bool = False

    @classmethod
    def parse(
        cls,
        values: Mapping[str, object],
        read: Callable[[Mapping[str, Any]], Request],
        read_picture: Callable[[Any], Picture],
    ) -> UpscaleRequest:
        """Read untrusted plain values.

        Args:
            values: fields of `UpscaleRequest`, those of the base under "base".
            read: makes a checked request of plain values.
            read_picture: makes a picture of whatever stands for it.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        known = [field.name for field in dataclasses.fields(cls) if field.name != "described"]
        require_fields(values, known, "an upscaled picture")
        plain = read_object(values.get("base", {}), "base of an upscaled picture")
        if values.get("picture") is None:
            raise PictureError("There is no picture to enlarge. Upload one, or choose a result.")
        upscaler = values.get("upscaler", DEFAULT_UPSCALER)
        if not isinstance(upscaler, str):
            raise SettingsError(f"The upscaler is {str(upscaler)[:80]!r}. Give its name.")
        numbers = {name: _number(values.get(name, default), name) for name, default in _NUMBERS.items()}
        return cls(
            read(plain),
            read_picture(values["picture"]),
            upscaler,
            **numbers,
            described=any(value != "" for value in plain.values()),
        )

    def check(self, limits: Limits) -> None:
        """Check everything that can be said without a model.

        Raises:
            SettingsError: the first thing that is wrong, its value, and what to do.
        """
        require_one_picture(self.base.batch_size, "One picture is enlarged")
        require_range("factor", self.factor, 1, MOST_FACTOR)
        require_range("strength of the second pass", self.strength, 0, 1)
        width, height = self.size
        if width * height > limits.max_pixels or max(width, height) > limits.max_side:
            raise SettingsError(
                f"Enlarged {self.factor:g} times the picture has {width} × {height} pixels, more than this studio "
                f"makes ({limits.max_side} a side). Choose a smaller factor."
            )
        if self.strength and not self.base.prompt.strip():
            raise SettingsError(
                "The second pass needs a prompt. Write what the picture shows, or set its strength to 0."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the enlarged picture in pixels."""
        width, height = self.picture.size
        return math.floor(width * self.factor + 0.5), math.floor(height * self.factor + 0.5)

    def second_pass(self, enlarged: Picture, size: tuple[int, int]) -> EditRequest:
        """Make the edit that the second pass is.

        Args:
            enlarged: the picture.
            size: (width, height) that the model takes.
        """
        base = self.base.replace(width=size[0], height=size[1], start=Request.start, second_pass=Request.second_pass)
        return EditRequest(base, enlarged, edit=Choice("image_to_image", {"strength": self.strength}), fit="resize")

    def to_json(self) -> dict[str, Any]:
        """Plain values; the picture by its digest alone."""
        plain = {"upscaler": self.upscaler, "factor": self.factor, "strength": self.strength}
        return {"base": self.base.to_json(), "picture": self.picture.digest, **plain}

    def replace(self, **changes: Any) -> UpscaleRequest:
        """Copy the request with these fields changed."""
        return dataclasses.replace(self, **changes)


_NUMBERS = {"factor": 2.0, "strength": 0.0}


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SettingsError(f"The {name} is {str(value)[:80]!r}. It must be a number.")
    return float(value)
