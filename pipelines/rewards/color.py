"""How near a picture's mean color is to one that a person names."""

from __future__ import annotations

import dataclasses
import re

import torch

from pipelines.core.errors import SettingsError
from pipelines.core.registry import setting
from pipelines.rewards.base import RewardSources
from pipelines.rewards.pixels import PixelReward

__all__ = ["Color", "ColorSettings", "lab"]

_HEX = re.compile(r"#?([0-9a-fA-F]{6})")
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_EDGE = 6 / 29


@dataclasses.dataclass(frozen=True)
class ColorSettings:
    """Settings of the reward."""

    color: str = setting("#d03030", "Red, green and blue as six hexadecimal digits.")


class Color(PixelReward):
    """The negative distance of the mean color from the one wanted, in CIE 1976 L*a*b* (ΔE): 0 at best.

    Source: ISO/CIE 11664-4:2019; sRGB as of IEC 61966-2-1, its white point D65.
    """

    def __init__(self, settings: ColorSettings):
        self.settings = settings

    def check(self, prompt: str, sources: RewardSources) -> None:
        self._parse()

    def _parse(self) -> torch.Tensor:
        match = _HEX.fullmatch(self.settings.color.strip())
        if match is None:
            raise SettingsError(f"The color is {self.settings.color[:80]!r}. Give six hexadecimal digits, as #d03030.")
        return torch.tensor(list(bytes.fromhex(match.group(1))), dtype=torch.float32) / 255

    def score(self, images: torch.Tensor) -> torch.Tensor:
        wanted = lab(self._parse()[None, :, None, None].to(images.device))
        mean = lab(images.float()).mean(dim=(2, 3))
        # The root has no slope at zero.
        return -((mean - wanted[:, :, 0, 0]).square().sum(dim=1) + 1e-12).sqrt().cpu()


def lab(images: torch.Tensor) -> torch.Tensor:
    """Convert sRGB (B, 3, H, W) in [0, 1] to L*a*b*, differentiable."""
    linear = torch.where(images <= 0.04045, images / 12.92, ((images.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    matrix = images.new_tensor(_TO_XYZ)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / matrix.sum(dim=1, keepdim=True), linear)
    curve = torch.where(xyz > _EDGE**3, xyz.clamp_min(_EDGE**3) ** (1 / 3), xyz / (3 * _EDGE**2) + 4 / 29)
    x, y, z = curve.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
