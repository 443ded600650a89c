"""How many bytes a picture takes as a JPEG: detail, or the lack of it."""

from __future__ import annotations

import dataclasses
import io

import torch
from PIL import Image

from pipelines.core.registry import setting
from pipelines.rewards.pixels import PixelReward

__all__ = ["JpegSize", "JpegSizeSettings"]

SMALLER, LARGER = "smaller", "larger"


@dataclasses.dataclass(frozen=True)
class JpegSizeSettings:
    """Settings of the reward."""

    want: str = setting(
        SMALLER, "A smaller file is a plainer picture, a larger one has more detail.", choices=(SMALLER, LARGER)
    )
    quality: int = setting(95, "Of the JPEG.", low=1, high=100, step=1)


class JpegSize(PixelReward):
    """The size of the picture as a JPEG in kilobytes (1,000 bytes), negative where a smaller file is wanted.

    Source: Black et al., Training diffusion models with reinforcement learning (DDPO), arXiv:2305.13301.
    """

    def __init__(self, settings: JpegSizeSettings):
        self.settings = settings

    def score(self, images: torch.Tensor) -> torch.Tensor:
        pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        sizes = [self._count_bytes(Image.fromarray(picture)) for picture in pixels]
        sign = -1 if self.settings.want == SMALLER else 1
        return sign * torch.tensor(sizes, dtype=torch.float32) / 1000

    def _count_bytes(self, picture: Image.Image) -> int:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=self.settings.quality)
        return buffer.tell()
