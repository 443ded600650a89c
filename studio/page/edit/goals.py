"""What a person wants to do to a picture, and the methods that measured best at it: docs/edits.md has the figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.core.types import Traits
from pipelines.edits import EDITS
from pipelines.inversions import INVERSIONS
from studio.page.edit.measured import Line, read_lines

__all__ = ["GOALS", "Goal", "Suggestion"]

_NOTES = {
    "replace": "Both prompts need as many words, in the new order.",
    "infedit": "What stays may move or grow; draw a mask to hold the rest.",
    "ledits": "Write what goes with a minus as a concept, and then what stays: -cat, a fox.",
    "move": "Draw over the whole object, and say how far it goes or which size it gets.",
    "dragon": "Draw over the whole object, and say how far it goes or which size it gets.",
    "style_tracking": "Give a picture of that style as the reference.",
    "style_aligned": "Give a picture of that style as the reference.",
}
"""What a person has to know of a method, in a sentence."""


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Describes an edit, the inversion that goes with it, and why they are suggested.

    Attributes:
        edit, inversion: choices, as a form takes them.
        reason: one or two sentences.
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
    """Describes a line of the list: what is to be done, and the suggestions for it, the best first.

    Attributes:
        label: of the list.
        suggestions: for where nothing was measured, and for models that what measured best doesn't fit.
        kinds: of measured pairs, whose best methods come first.
        takes_mask: whether methods that need a drawn mask are suggested too.
        for_flow: suggestions for flow models, before the others.
    """

    label: str
    suggestions: Sequence[Suggestion]
    kinds: tuple[str, ...] = ()
    takes_mask: bool = False
    for_flow: Sequence[Suggestion] = ()

    def suggest(self, traits: Traits | None) -> Suggestion:
        """Choose the best suggestion that fits the model; where none does, the first, whose refusal says why."""
        # The measured model is no flow model.
        first = self.for_flow if traits is not None and traits.flow else self._rank()
        choices = [*first, *self.suggestions]
        return next((one for one in choices if one.fits(traits)), choices[0])

    def _rank(self) -> Iterator[Suggestion]:
        """What was measured, the best first: of equals what needs no more words, then what keeps most of the rest."""
        measured = [{(line.edit, line.inversion): line for line in read_lines(kind)} for kind in self.kinds]
        if not measured:
            return
        both = [[lines[key] for lines in measured] for key in measured[0] if all(key in lines for lines in measured)]
        usable = [lines for lines in both if self.takes_mask or not EDITS[lines[0].edit].build().masked]
        for lines in sorted(usable, key=_rate, reverse=True):
            if sum(line.right for line in lines):
                yield _describe(lines)


def _rate(lines: Sequence[Line]) -> tuple[float, bool, float]:
    share = sum(line.share for line in lines) / len(lines)
    background = [line.background for line in lines if line.background is not None]
    return share, lines[0].edit != "ledits", min(background, default=0.0)


def _describe(lines: Sequence[Line]) -> Suggestion:
    first = lines[0]
    edit = EDITS[first.edit]
    right, tried = sum(line.right for line in lines), sum(line.tried for line in lines)
    inverted = f" on {INVERSIONS[first.inversion].label}" if edit.build().inverts else ""
    reason = f"{edit.label}{inverted}: right in {right} of {tried} measured pairs."
    return Suggestion(
        {"key": first.edit}, {"key": first.inversion}, " ".join([reason, _NOTES.get(first.edit, "")]).strip()
    )


def _suggest(reason: str, edit: str, inversion: str = "direct", **settings: Any) -> Suggestion:
    return Suggestion({"key": edit, **settings}, {"key": inversion}, reason)


_FLOW = _suggest(
    "Re-prompting inverts the picture and comes back with your prompt: right in 14 of 14 measured pairs of the shipped "
    "flow model, where FlowEdit was in 9.",
    "reprompt",
)
_FLOW_STYLE = _suggest("FlowEdit moves the picture by the difference of two velocities, made for flow.", "flow_edit")
_REFINE = _suggest("Refine changes what the prompts don't have in common, and keeps the layout.", "refine")
_MOVE = _suggest(f"It copies the object's pixels and draws the place that it leaves. {_NOTES['move']}", "move")
_STYLE = _suggest(
    "STRDP gives every feature the mean and spread that it has in the reference: give a picture of that style. The "
    "shipped models know few styles.",
    "style_tracking",
)

GOALS = (
    Goal("Replace an object", (_REFINE,), ("replace",), for_flow=(_FLOW,)),
    Goal("Change the background", (_REFINE,), ("background",), for_flow=(_FLOW,)),
    Goal("Add an object", (_REFINE,), ("add",), for_flow=(_FLOW,)),
    Goal("Remove an object", (_REFINE,), ("remove",), for_flow=(_FLOW,)),
    Goal("Let two things change places", (_REFINE,), ("swap",), for_flow=(_FLOW,)),
    Goal("Move or resize an object", (_MOVE,), ("move", "resize"), takes_mask=True),
    Goal("Change the style", (_STYLE,), ("style",), for_flow=(_FLOW_STYLE,)),
    Goal("Redraw a part", (_suggest("Draw over the part: only what is under the mask is drawn anew.", "inpaint"),)),
    Goal(
        "Enlarge, sharpen or fill in",
        (
            _suggest(
                "ReSample fits a picture of the model to what is left of yours. Say what happened to it.", "resample"
            ),
            _suggest(
                "FlowChef steers each step to what is left of yours. Say what happened to it.", "flow_chef_restore"
            ),
        ),
    ),
    Goal("Extend the picture", (_suggest("Say how many pixels each side gets; what is there stays.", "outpaint"),)),
)
