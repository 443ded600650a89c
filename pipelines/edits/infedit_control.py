"""InfEdit with attention control: the edit is drawn without an inversion, and looks where the source looks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler
from pipelines.core.types import Traits
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.paired import InfEdit, InfEditSettings, fits_paired
from pipelines.edits.prompt_to_prompt import Refine, RefineSettings, Replace, ReplaceSettings, fits_attention_maps

__all__ = ["ControlledInfEdit", "ControlledInfEditSettings", "fits_controlled"]

_WORDS = {"refine": (Refine, RefineSettings), "replace": (Replace, ReplaceSettings)}


@dataclasses.dataclass(frozen=True)
class ControlledInfEditSettings(InfEditSettings):
    """The settings of InfEdit with attention control."""

    words: str = setting(
        "refine",
        "refine keeps where the words in common look; replace lets new words look where the old ones did, one for one.",
        choices=tuple(_WORDS),
    )
    cross_until: float = setting(
        0.7,
        "Share of the steps, from the first, in which the edit's words look where the source's look.",
        low=0,
        high=1,
        step=0.05,
    )
    self_until: float = setting(
        0.7,
        "Share of the steps in which the picture's parts relate to each other as in the source: keeps its layout.",
        low=0,
        high=1,
        step=0.05,
    )
    blend: str = setting(
        "",
        "Words, apart by commas, of either prompt: what lies away from where they look stays the source.",
        label="Local blend",
    )


def fits_controlled(traits: Traits) -> str | None:
    """Say why not, or return None."""
    return fits_paired(traits) or fits_attention_maps(traits)


class ControlledInfEdit(UnpatchedEdit):
    """Draws as InfEdit does, while the edit's attention takes over maps of the source's row beside it.

    Source: Xu et al., Inversion-free image editing with natural language, arXiv:2312.04965, section 4, unified
    attention control; their demonstration opens on 0.7 of the steps for words and 0.3 for parts, here 0.7 for both.
    Differs: their third row, which has the source's content in the edit's layout and which their local blend takes what
    does not change from, is left out: there stands the source. Self-attention of more than 32 x 32 places of a UNet is
    left alone, as in prompt-to-prompt; only the row with the edit's prompt is changed.
    """

    paired: ClassVar[bool] = True

    def __init__(self, settings: ControlledInfEditSettings = ControlledInfEditSettings()):
        self.infedit = InfEdit(settings)
        self.strength, self.source_guidance = self.infedit.strength, self.infedit.source_guidance
        edit, settings_class = _WORDS[settings.words]
        self.words = edit(settings_class(settings.cross_until, settings.self_until, settings.blend))

    def needs_source(self) -> bool:
        return True

    def require_prompts(self, source: str, target: str) -> None:
        self.words.require_prompts(source, target)

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        drawn = dataclasses.replace(context, sampler=self.infedit.sampler(context))
        with self.words.applied(drawn) as sampler:
            yield sampler
