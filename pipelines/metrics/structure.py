"""How much the layout of two pictures differs: the self-similarity of their features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.core.errors import SettingsError
from pipelines.core.gradients import no_grad

if TYPE_CHECKING:
    from pipelines.metrics.detector import Detector

__all__ = ["self_similarity", "structure_distance", "structure_distance_between"]


def self_similarity(features: torch.Tensor) -> torch.Tensor:
    """Compute the cosine of every place's features with every other's.

    Args:
        features: (T, C), one row a place.

    Returns:
        (T, T), 1 on the diagonal.
    """
    normed = F.normalize(features, dim=-1)
    return normed @ normed.T


def structure_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Compute the mean squared difference of two self-similarities.

    Args:
        first, second: (T, C), features of two pictures at the same places.

    Returns:
        0 for equal layouts; what the places look like does not count, only how like each other they are.

    Raises:
        SettingsError: the shapes differ.

    Source: Tumanyan et al., Splicing ViT features for semantic appearance transfer, arXiv:2201.00424, equation 2;
    as a metric of edits Ju et al., arXiv:2310.01506, section 5.
    """
    if first.shape != second.shape:
        raise SettingsError(f"Features of the shapes {tuple(first.shape)} and {tuple(second.shape)} aren't comparable.")
    return float((self_similarity(first) - self_similarity(second)).pow(2).mean())


@no_grad
def structure_distance_between(detector: Detector, picture: np.ndarray, reference: np.ndarray) -> float:
    """Compute the structure distance of two pictures by the shipped detector's features.

    Args:
        detector: the features are those under its heads, 8 x 8 places.
        picture, reference: (H, W, 3) uint8.

    Differs: the source takes keys of DINO, whose weights are not shipped; figures of the two are not comparable.
    """
    images = torch.stack([torch.from_numpy(one.copy()).permute(2, 0, 1).float() / 255 for one in (picture, reference)])
    first, second = detector.features(images).flatten(2).transpose(1, 2)
    return structure_distance(first, second)
