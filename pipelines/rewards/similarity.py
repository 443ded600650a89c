"""How like a picture is to one that was made or uploaded before."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.rewards.base import RewardSources, Score

__all__ = ["Similarity", "SimilaritySettings"]


@dataclasses.dataclass(frozen=True)
class SimilaritySettings:
    """Settings of the reward."""

    picture: str = setting("", "The id of a result, as the gallery shows it.")
    side: int = setting(
        0, "Pixels of a side at which both are compared; 0 for the picture's own size.", low=0, high=512
    )


class Similarity:
    """The peak signal-to-noise ratio to another picture, in decibels; at a small side, of shape and color only."""

    def __init__(self, settings: SimilaritySettings):
        self.settings = settings

    def check(self, prompt: str, sources: RewardSources) -> None:
        if not self.settings.picture.strip():
            raise SettingsError("No picture is named to be similar to. Give the id of a result from the gallery.")
        sources.find_picture(self.settings.picture.strip())

    def load(self, prompt: str, sources: RewardSources) -> Score:
        self.check(prompt, sources)
        pixels = sources.find_picture(self.settings.picture.strip())
        reference = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255

        def score(images: torch.Tensor) -> torch.Tensor:
            side = self.settings.side
            size = (side, side) if side else tuple(images.shape[-2:])
            error = (_resize(images.float(), size) - _resize(reference.to(images.device), size)).square()
            return (-10 * error.mean(dim=(1, 2, 3)).clamp_min(1e-10).log10()).cpu()

        return score


def _resize(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
