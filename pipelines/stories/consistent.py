"""Pictures of one subject: each looks at parts of all the others while they are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.edits.attention import order_self_attention
from pipelines.edits.map_controller import MapController
from pipelines.stories.scenes import StorySettings

__all__ = ["Consistent", "ConsistentSettings", "SampledPlaces", "look_at_others", "sample_places"]


@dataclasses.dataclass(frozen=True)
class ConsistentSettings(StorySettings):
    """The settings of consistent self-attention."""

    sharing: float = setting(
        0.5,
        "Share of each picture's places that the others look at: 0 draws each picture alone, 1 costs most.",
        low=0,
        high=1,
        step=0.05,
    )
    start: float = setting(
        0.1, "Share of the steps, from the first, in which each picture is drawn alone.", low=0, high=1, step=0.05
    )
    layers: float = setting(
        0.6, "Share of the self-attention layers, from the last, that look at the others.", low=0, high=1, step=0.05
    )


def sample_places(pictures: int, places: int, sharing: float, seed: int) -> list[torch.Tensor]:
    """Draw for each picture which of its places the others look at, in ascending order.

    Args:
        pictures: of the story.
        places: of a picture in a layer.
        sharing: share of them, 0 to 1.
        seed: of the draw.

    Returns:
        As many indices for each picture: sharing times the places, rounded.
    """
    generator = torch.Generator().manual_seed(seed)
    count = round(sharing * places)
    with torch.inference_mode(False):  # drawn in one evaluation, used in others, of which some want gradients
        return [torch.randperm(places, generator=generator)[:count].sort().values for _ in range(pictures)]


def look_at_others(rows: torch.Tensor, places: list[torch.Tensor]) -> torch.Tensor:
    """Put behind each picture's keys or values those of all other pictures at their sampled places.

    Args:
        rows: (R, ..., S, D), R a multiple of the pictures, whose rows stand side by side.
        places: indices below S, as many for each picture.

    Returns:
        (R, ..., S + (pictures - 1) * count, D).

    Source: Zhou et al., StoryDiffusion, arXiv:2405.01434, section 3.1, the tokens S_i and P_i.
    """
    groups = rows.unflatten(0, (-1, len(places)))
    sampled = [groups[:, index].index_select(-2, chosen.to(rows.device)) for index, chosen in enumerate(places)]
    seen = [
        torch.cat([groups[:, index], *(one for other, one in enumerate(sampled) if other != index)], dim=-2)
        for index in range(len(places))
    ]
    return torch.stack(seen, dim=1).flatten(0, 1)


class SampledPlaces(MapController):
    """A controller with which the pictures of a story look at sampled places of each other in chosen layers.

    Args:
        layers: names of the layers.
        pictures: of the story; an evaluation's rows are a multiple of them.
        sharing: share of a picture's places that the others look at.
        seed: of which.
    """

    changes_maps = False
    keeps_text_share = True

    def __init__(self, layers: Collection[str], pictures: int, sharing: float, seed: int):
        self.layers, self.pictures, self.sharing, self.seed = frozenset(layers), pictures, sharing, seed
        self._places: dict[int, list[torch.Tensor]] = {}

    def is_needed(self, layer: str, cross: bool, queries: int) -> bool:
        return not cross and layer in self.layers and round(self.sharing * queries) > 0

    def change_keys(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(keys) % self.pictures:
            raise SettingsError(
                f"A story needs all {self.pictures} rows of its pictures at once; it was given {len(keys)}. Choose "
                "another guidance."
            )
        count = keys.shape[-2]
        if count not in self._places:
            self._places[count] = sample_places(self.pictures, count, self.sharing, self.seed)
        return look_at_others(keys, self._places[count]), look_at_others(values, self._places[count])


class Consistent:
    """Draws the scenes of a story together, so that what the prompt names first looks the same in all of them.

    Source: Zhou et al., StoryDiffusion: consistent self-attention for long-range image and video generation,
    arXiv:2405.01434, section 3.1; in the authors' published code half of the places are sampled, in a UNet's up blocks
    and not in the first 5 of 50 steps.
    Differs: the places are drawn once a run and not anew in each step, so that the network stays one function of
    latents and time, and solvers keep their order; as many are drawn of each picture; and no layer is left out at
    random, as in their code, in a part of the steps. In a joint attention, which they don't have, the picture's keys
    together weigh as much as its own do alone, so that the text keeps its share.
    """

    def __init__(self, settings: ConsistentSettings = ConsistentSettings()):
        self.settings, self.start, self.subject = settings, settings.start, settings.subject

    def list_prompts(self, prompt: str) -> list[str]:
        return self.settings.list_prompts(prompt)

    def control(self, network: torch.nn.Module, pictures: int, seed: int) -> MapController | None:
        layers = order_self_attention(network)
        chosen = layers[len(layers) - round(self.settings.layers * len(layers)) :]
        if pictures < 2 or not chosen or not self.settings.sharing:
            return None
        return SampledPlaces(chosen, pictures, self.settings.sharing, seed)
