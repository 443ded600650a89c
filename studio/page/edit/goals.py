"""What a person wants to do to a picture, and the methods that measured best at it: docs/edits.md has the figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.types import Traits
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS

__all__ = ["GOALS", "Goal", "Suggestion"]


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Describes an edit, the inversion that goes with it, and why they are suggested.

    Attributes:
        edit, inversion: choices, as a form takes them.
        reason: one sentence.
    """

    edit: Mapping[str, Any]
    inversion: Mapping[str, Any]
    reason: str

    def fits(self, traits: Traits | None) -> bool:
        """Say whether a model takes both; one that isn't known yet is not asked."""
        if traits is None:
            return True
        edit, inversion = EDITS[self.edit["key"]], INVERSIONS[self.inversion["key"]]
        return not edit.fit(traits) and not (edit.build().inverts and inversion.fit(traits))


@dataclasses.dataclass(frozen=True)
class Goal:
    """Describes a line of the list: what is to be done, and the suggestions for it, the best first."""

    label: str
    suggestions: Sequence[Suggestion]

    def suggest(self, traits: Traits | None) -> Suggestion:
        """Choose the best suggestion that fits the model; where none does, the first, whose refusal says why."""
        return next((one for one in self.suggestions if one.fits(traits)), self.suggestions[0])


def _suggest(reason: str, edit: str, inversion: str = "direct", **settings: Any) -> Suggestion:
    return Suggestion({"key": edit, **settings}, {"key": inversion}, reason)


_FLOW = _suggest(
    "FlowEdit moves the picture by the difference of two velocities; it was made for models like this.", "flow_edit"
)

GOALS = (
    Goal(
        "Replace an object",
        (
            _suggest(
                "Refine on the DDPM inversion: right in 10 of 10 measured pairs, and the most of the rest kept.",
                "refine",
                "ddpm",
            ),
            _FLOW,
        ),
    ),
    Goal(
        "Change the background",
        (
            _suggest(
                "Refine on the DDPM inversion: right in 10 of 10 measured pairs, the object stays as it is.",
                "refine",
                "ddpm",
            ),
            _FLOW,
        ),
    ),
    Goal(
        "Add an object",
        (
            _suggest(
                "Plain re-prompting on the DDPM inversion: right in 8 of 10 measured pairs, as often as any.",
                "reprompt",
                "ddpm",
            ),
            _FLOW,
        ),
    ),
    Goal(
        "Remove an object",
        (
            _suggest(
                "InfEdit: right in 10 of 10 measured pairs. What stays may move or grow; draw a mask to hold the rest.",
                "infedit",
            ),
        ),
    ),
    Goal(
        "Let two things change places",
        (
            _suggest(
                "Replace on Direct Inversion: right in 10 of 10 measured pairs. Both prompts need as many words, in "
                "the new order.",
                "replace",
            ),
            _FLOW,
        ),
    ),
    Goal(
        "Move or resize an object",
        (
            _suggest(
                "Move or resize: right in 20 of 20 moves and 19 of 20 resizes. Draw over the whole object, and say how "
                "far it goes or which size it gets.",
                "move",
            ),
        ),
    ),
    Goal(
        "Change the style",
        (
            _suggest(
                "STRDP gives every feature the mean and spread that it has in a picture of that style: give one.",
                "style_tracking",
            ),
            _FLOW,
        ),
    ),
    Goal("Redraw a part", (_suggest("Draw over the part: only what is under the mask is drawn anew.", "inpaint"),)),
    Goal("Extend the picture", (_suggest("Say how many pixels each side gets; what is there stays.", "outpaint"),)),
)
