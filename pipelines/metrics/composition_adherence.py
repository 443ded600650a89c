"""The probability that a picture shows what a caption says, from the detector's scores: a figure and a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pipelines.core.errors import SettingsError
from pipelines.emoji.composition_captions import Description, parse_description
from pipelines.emoji.compositions import SIZES
from pipelines.emoji.objects import Catalog, shipped_catalog

if TYPE_CHECKING:
    from pipelines.metrics.detector import Detector, Scores

__all__ = ["adherence", "description_probability"]

_SOFTNESS = 0.03  # of a comparison of widths or places, in parts of the picture
_LIMITS = {
    "small": (SIZES["small"][1] + SIZES[None][0]) / 2,
    "large": (SIZES["large"][0] + SIZES[None][1]) / 2,
}


def adherence(detector: Detector, images: torch.Tensor, caption: str, catalog: Catalog | None = None) -> torch.Tensor:
    """Estimate the probability that each picture shows what the caption says, and nothing else.

    Args:
        detector: the judge.
        images: (B, 3, H, W) in [0, 1].
        caption: in the grammar of `pipelines.emoji.composition_captions`.
        catalog: the objects' names; by default all shipped ones.
    Returns: (B,), in [0, 1], differentiable with respect to the pictures.
    Raises: TrainingError when the caption is not of the grammar; SettingsError when it names something that the
        detector does not know.
    """
    description = parse_description(caption, catalog or shipped_catalog(None))
    return description_probability(detector, detector.scores(images), description)


def description_probability(detector: Detector, scores: Scores, description: Description) -> torch.Tensor:
    """Estimate it from scores: the product of the objects', their relation's and the background's probabilities."""
    presence = scores.presence.sigmoid()
    label_maps = presence[:, None] * scores.label.exp()
    maps = [label_maps[:, _find_index(label, detector.labels)].flatten(1) for label in description.labels]
    width = scores.place[:, 2].flatten(1)
    if description.kind == "count":
        total = _find_peaks(maps[0].view_as(presence)).flatten(1).topk(description.count).values.prod(dim=1)
    elif len(maps) == 2:
        relation = _score_relation(scores, description.kind)
        total = (maps[0][:, :, None] * maps[1][:, None, :] * relation).flatten(1).amax(dim=1)
    else:
        total = (maps[0] * _score_size(width, description.size)).amax(dim=1)
    # any further peak contradicts
    strongest = _find_peaks(presence).flatten(1).sort(dim=1, descending=True).values
    total = total * (1 - strongest[:, description.count :]).prod(dim=1)
    if description.background is not None:
        total = total * scores.background[:, _find_index(description.background, detector.backgrounds)].exp()
    return total


def _find_peaks(values: torch.Tensor) -> torch.Tensor:
    """(B, G, G) with zero wherever a neighbor exceeds it."""
    return values * (values == F.max_pool2d(values[:, None], 3, 1, 1)[:, 0])


def _score_relation(scores: Scores, kind: str) -> torch.Tensor:
    """(B, G^2, G^2): how well a first object in a cell and a second in another stand in the relation."""
    grid = scores.presence.shape[-1]
    cells = torch.arange(grid, device=scores.place.device) + 0.5
    x = ((cells[None, None, :] + scores.place[:, 0]) / grid).flatten(1)
    y = ((cells[None, :, None] + scores.place[:, 1]) / grid).flatten(1)
    if kind == "left of":
        return _score_less(x, x)
    if kind == "above":
        return _score_less(y, y)
    width = scores.place[:, 2].flatten(1)
    return _score_less(width, width) * _score_less(y, y).transpose(1, 2)


def _score_less(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return ((second[:, None, :] - first[:, :, None]) / _SOFTNESS).sigmoid()


def _score_size(width: torch.Tensor, size: str | None) -> torch.Tensor:
    if size is None:
        return torch.ones_like(width)
    sign = 1 if size == "large" else -1
    return (sign * (width - _LIMITS[size]) / _SOFTNESS).sigmoid()


def _find_index(name: str, choices: tuple[str, ...]) -> int:
    if name not in choices:
        raise SettingsError(f"The detector does not know {name!r}. It knows: {', '.join(choices)}.")
    return choices.index(name)
