"""Pictures of one style: all look at the first one, and take over the statistics of its attention."""

from __future__ import annotations

import dataclasses

import torch

from pipelines.core.registry import setting
from pipelines.edits.map_controller import MapController
from pipelines.edits.style_aligned import SharedAttention
from pipelines.inversions.base import SOURCE
from pipelines.stories.scenes import StorySettings

__all__ = ["SharedStyle", "SharedStyleSettings"]


@dataclasses.dataclass(frozen=True)
class SharedStyleSettings(StorySettings):
    """The settings of a shared style."""

    attention: float = setting(
        1.0,
        "Factor on how much each picture looks at the first: 1 as much as at itself, 0 draws each picture alone.",
        low=0,
        high=8,
        step=0.1,
    )
    adapt: bool = setting(True, "Whether queries and keys take over the first picture's mean and spread.")
    start: float = setting(
        0.0, "Share of the steps, from the first, in which each picture is drawn alone.", low=0, high=1, step=0.05
    )


class _TextKept(SharedAttention):
    """Shared attention that in a joint attention leaves the text's share as it is: the keys of picture and first
    picture together weigh as much as the picture's own did."""

    def change_part(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        weighted = super().change_part(maps, cross)
        if cross:
            return weighted
        shares = torch.full((self.group, 1, 1, 1), 1 / (1 + self.factor), dtype=maps.dtype, device=maps.device)
        shares[SOURCE] = 1
        return weighted * shares.repeat(len(maps) // self.group, 1, 1, 1)


class SharedStyle:
    """Draws the scenes of a story together, all in the style of the first one, which is drawn as it would be alone.

    Source: Hertz et al., Style aligned image generation via shared attention, arXiv:2312.02133, section 4, equations 4
    and 5: the set of pictures looks at its first one.
    Differs: the factor of the attention, 1 in the paper, may be another; at 0 nothing is shared, statistics included.
    In a joint attention, which the paper does not have, the text keeps its share.
    """

    def __init__(self, settings: SharedStyleSettings = SharedStyleSettings()):
        self.settings, self.start, self.subject = settings, settings.start, settings.subject

    def list_prompts(self, prompt: str) -> list[str]:
        return self.settings.list_prompts(prompt)

    def control(self, network: torch.nn.Module, pictures: int, seed: int) -> MapController | None:
        if pictures < 2 or not self.settings.attention:
            return None
        return _TextKept(self.settings.attention, self.settings.adapt, pictures)
