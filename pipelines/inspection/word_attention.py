"""Where the network looks while it reads each word of the prompt."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from pipelines.core.prediction import Network, Perturbation, Query
from pipelines.core.registry import setting
from pipelines.edits.attention import opened_attention
from pipelines.edits.map_controller import MapController
from pipelines.guidance.attention_watch import AttentionWatch, cross_attentions
from pipelines.guidance.perturbations import find_network
from pipelines.inspection.base import Finding, InspectContext

__all__ = ["WordAttention", "WordAttentionSettings", "average_maps"]

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class WordAttentionSettings:
    draws: int = setting(8, "Noise levels at which the network is watched.", low=1, high=100, step=1)


def average_maps(seen: Sequence[tuple[Grid, torch.Tensor]], size: Grid) -> torch.Tensor:
    """Average attention maps of all layers, heads and levels over one grid.

    Args:
        seen: grid (h, w) and maps (heads, h * w, L) of each layer and level.
        size: of the result.

    Returns:
        (L, h, w), float32, which sum to one over L at every place.
    """
    total = torch.zeros(())
    for grid, maps in seen:
        layer = maps.float().mean(0).T.unflatten(1, grid)[None]
        total = total + F.interpolate(layer, size, mode="bilinear", align_corners=False)[0]
    return total / len(seen)


class _JointWatch(MapController):
    """Notes what a transformer's picture sees of the text, as shares of that, in every layer of an evaluation."""

    def __init__(self, size: Grid, seen: list[tuple[Grid, torch.Tensor]]):
        self._size, self._seen = size, seen

    @contextlib.contextmanager
    def applied(self, network: Network) -> Iterator[None]:
        with opened_attention(find_network(network), self):
            yield

    def change_part(self, maps: torch.Tensor, cross: bool) -> torch.Tensor:
        if cross:
            height, width = self._size
            patch = round((height * width / maps.shape[2]) ** 0.5)
            self._seen.append(((height // patch, width // patch), maps[0] / maps[0].sum(dim=-1, keepdim=True)))
        return maps


class WordAttention:
    """Averages the cross-attention of all layers and heads over noise levels of the picture; a word has the sum of its
    tokens.

    Source: Tang et al., What the DAAM, arXiv:2210.04885, section 2.2.
    Differs: the picture is noised anew at each level instead of followed through its own steps, so that any picture can
        be asked about; the interpolation is bilinear, which keeps sums. Of a transformer's joint attention the part
        from picture to text is taken.
    """

    needs_picture = True

    def __init__(self, settings: WordAttentionSettings = WordAttentionSettings()):
        self.draws = settings.draws

    def count_pieces(self) -> int:
        return self.draws

    def inspect(self, context: InspectContext) -> Finding:
        words = context.read_words()
        clean = context.encode_picture()
        height, width = clean.shape[-2:]
        seen: list[tuple[Grid, torch.Tensor]] = []
        watch: Perturbation
        if context.family.traits.backbone == "unet":
            watch = AttentionWatch(cross_attentions, lambda layer, maps, grid: seen.append((grid, maps[0])))
        else:
            watch = _JointWatch((height, width), seen)
        conditioning = context.encode_prompt(context.resolved.request.prompt)
        for level, _, latents in context.draw_noised(clean, self.draws):
            context.ask([conditioning], Query(latents, level, patch=watch))
        maps = average_maps(seen, (height, width))
        found, shares = {}, {}
        for word, places in zip(_tell_apart(words.words), words.list_places(), strict=True):
            values = maps[list(places)].sum(0)
            found[word], shares[f"share of {word}"] = values.numpy(), float(values.mean())
        return Finding(
            shares, found, sentence="The share is of all attention; the marks of begin and end have the rest."
        )


def _tell_apart(words: Sequence[str]) -> list[str]:
    """The words in order, of one that comes again with its number behind it."""
    return [
        word if place == words.index(word) else f"{word} ({words[: place + 1].count(word)})"
        for place, word in enumerate(words)
    ]
