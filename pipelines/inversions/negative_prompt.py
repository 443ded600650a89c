"""Negative-prompt inversion: the source prompt takes the negative prompt's place."""

from __future__ import annotations

import dataclasses

from pipelines.core.registry import setting
from pipelines.core.types import Traits
from pipelines.inversions.ddim import DdimInversion, fits_ddim_inversion

__all__ = ["NegativePromptInversion", "NegativePromptSettings", "fits_negative_prompt"]


@dataclasses.dataclass(frozen=True)
class NegativePromptSettings:
    """The settings of negative-prompt inversion."""

    strength: float = setting(
        1.0, "Share of the steps that are inverted: less keeps more of the source.", low=0.1, high=1, step=0.05
    )


def fits_negative_prompt(traits: Traits) -> str | None:
    """Say why not, or return None."""
    if traits.guidance != "cfg":
        return "it evaluates no negative prompt"
    return fits_ddim_inversion(traits)


class NegativePromptInversion(DdimInversion):
    """Inverts with DDIM at guidance 1, and guides the edit away from the source prompt.

    Both branches of the source's row have one prompt then, so that its guidance is 1 at any scale: it comes back as
    DDIM inversion at guidance 1 does. Nothing is optimized. The person's own negative prompt isn't used.

    Source: Miyake et al., Negative-prompt inversion, arXiv:2305.16807, section 3.2.
    """

    replaces_negative = True

    def __init__(self, settings: NegativePromptSettings = NegativePromptSettings()):
        self.scale, self.strength = 1.0, settings.strength
