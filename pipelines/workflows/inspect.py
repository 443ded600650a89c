"""A request to inspect a picture or a prompt, checked, and its run on a loaded model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from pipelines.core.errors import MethodFitError
from pipelines.core.types import Choice, Request, Traits
from pipelines.core.validation import read_object, require_fields, require_one_picture
from pipelines.families.base import Family
from pipelines.inspection import INSPECTIONS
from pipelines.inspection.base import Finding, InspectContext, Inspection
from pipelines.requests.refusals import require_made_here, require_one_pass, require_own_parts, require_uncached
from pipelines.requests.text_to_image import ResolvedRun, starting_noise
from pipelines.workflows.edit.request import Picture

__all__ = ["InspectRequest", "run_inspection"]


@dataclasses.dataclass(frozen=True)
class InspectRequest:
    """Holds everything that decides an inspection.

    Attributes:
        base: model, prompt and all that draws the request's picture; its seed is that of every draw.
        inspection: a method of the table.
        picture: that is inspected; None for the one that the request draws.
    """

    base: Request
    inspection: Choice = Choice("word_attention")
    picture: Picture | None = None

    @classmethod
    def parse(
        cls,
        values: Mapping[str, object],
        read_request: Callable[[Mapping[str, object]], Request],
        read_picture: Callable[[object], Picture],
    ) -> InspectRequest:
        """Read an inspection from untrusted plain values.

        Args:
            values: fields of `InspectRequest`, those of the base under "base".
            read_request: makes a checked request of plain values.
            read_picture: makes a picture of whatever stands for it.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        require_fields(values, [field.name for field in dataclasses.fields(cls)], "an inspection")
        base = read_request(read_object(values.get("base", {}), "base of an inspection"))
        picture = read_picture(values["picture"]) if values.get("picture") is not None else None
        return cls(base, Choice.parse(values.get("inspection", "word_attention")), picture)

    def check(self, traits: Traits | None) -> None:
        """Check everything that can be said without the model.

        Raises:
            SettingsError: the first thing that is wrong, its value, and what to do.
            MethodFitError: a method does not fit the model.
        """
        require_one_picture(self.base.batch_size, "An inspection looks at one picture")
        require_made_here(self.base, "An inspection")
        require_one_pass(self.base, "An inspection")
        require_own_parts(self.base, "An inspection")
        require_uncached(self.base, "An inspection")
        INSPECTIONS.require(self.inspection, traits)

    def build(self) -> Inspection:
        """Build the inspection with its settings."""
        return INSPECTIONS.build(self.inspection)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a picture by its digest alone."""
        return {
            "base": self.base.to_json(),
            "inspection": self.inspection.to_json(),
            "picture": self.picture and self.picture.digest,
        }


def run_inspection(
    request: InspectRequest,
    resolved: ResolvedRun,
    family: Family,
    cancelled: Callable[[], bool] = lambda: False,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Finding, InspectContext]:
    """Inspect on a loaded model.

    Args:
        request: checked.
        resolved: its base on this model.
        family: the model, its LoRAs already applied.
        cancelled: polled before every evaluation.
        advance: called after each piece of work.

    Returns:
        What was found, and the context with the picture that was looked at and the evaluations that it took.

    Raises:
        Cancelled: it was stopped.
        MethodFitError: the model does not fit.
    """
    INSPECTIONS[request.inspection.key].require_fit(family.traits)
    if family.traits.guidance != "cfg" and request.inspection.key != "autoencoder_trace":
        raise MethodFitError("This model takes the guidance scale as an input, which an inspection does not set.")
    inspection, context = request.build(), InspectContext(family, resolved, None, cancelled, advance)
    if inspection.needs_picture:
        if request.picture is not None:
            size = resolved.request.width, resolved.request.height
            context.picture = np.asarray(Image.fromarray(request.picture.pixels).resize(size, Image.Resampling.LANCZOS))
        else:
            context.picture = context.draw_picture(starting_noise(resolved, family)[0])
    return inspection.inspect(context), context
