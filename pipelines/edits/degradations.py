"""How a picture was spoiled: the operators of inverse problems, from a clean picture to the one that was given."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F

from pipelines.core.errors import SettingsError

__all__ = ["DAMAGES", "Degradation"]

DAMAGES = ("low resolution", "blur", "missing part", "overexposed")
_REACH = 3.0
"""Standard deviations at which the Gaussian is cut off."""


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Describes the map A of an inverse problem y = A(x), differentiable, on pictures (1, 3, H, W) in [0, 1].

    Attributes:
        damage: one of `DAMAGES`. Low resolution is the mean over squares, blur a Gaussian with reflected edges, a
            missing part a product with 0, overexposed the colors doubled about mid-gray and cut off, which is not
            linear.
        factor: pixels to a side of a square.
        blur: standard deviation in pixels.
        mask: (1, 1, H, W), 1 where the picture is missing; None without a mask.
    """

    damage: str
    factor: int = 4
    blur: float = 2.0
    mask: torch.Tensor | None = None

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute A(x).

        Raises:
            SettingsError: the part is missing that a mask would name, or the picture is smaller than a square.
        """
        if self.damage == "low resolution":
            if min(pixels.shape[-2:]) < self.factor:
                raise SettingsError(f"A picture of {tuple(pixels.shape[-2:])} pixels has no square of {self.factor}.")
            return F.avg_pool2d(pixels, self.factor)
        if self.damage == "blur":
            return self._blur(pixels)
        if self.damage == "overexposed":
            return (2 * pixels - 0.5).clamp(0, 1)
        if self.mask is None:
            raise SettingsError("No part is missing. Draw over the part to fill in.")
        return pixels * (1 - self.mask.to(pixels))

    def measure(self, given: torch.Tensor) -> torch.Tensor:
        """Return y of the picture that was given, (1, 3, H, W): of one of low resolution the squares' means, else what
        it is."""
        return self(given) if self.damage in ("low resolution", "missing part") else given

    def _blur(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.blur <= 0:
            return pixels
        radius = min(math.ceil(_REACH * self.blur), min(pixels.shape[-2:]) - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (offsets / self.blur) ** 2)
        kernel = (kernel / kernel.sum()).to(pixels).expand(pixels.shape[1], 1, -1)
        padded = F.pad(pixels, (radius,) * 4, mode="reflect")
        blurred = F.conv2d(padded, kernel[:, :, None], groups=pixels.shape[1])
        return F.conv2d(blurred, kernel[..., None], groups=pixels.shape[1])
