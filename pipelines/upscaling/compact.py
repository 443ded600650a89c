"""The compact convolutional upscaler, in the layout that published files of it have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from pipelines.core.errors import ModelFileError

__all__ = ["CompactUpscaler", "compact_from"]

_WEIGHT = re.compile(r"body\.(\d{1,4})\.weight")


class CompactUpscaler(torch.nn.Module):
    """Convolutions at the small size, then each pixel becomes scale x scale; learned on top of nearest neighbor.

    Args:
        width: channels inside.
        depth: convolutions inside.
        scale: how many times larger, at least 2.
    Source: Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
        Neural Network, arXiv 1609.05158, section 3.2, for the last layer; the layout and the names of the weights
        (`body.N`) are those of Real-ESRGAN's compact network, so that its files load here and these load elsewhere.
    """

    def __init__(self, width: int = 48, depth: int = 8, scale: int = 2):
        super().__init__()
        self.scale = scale
        layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, width, 3, padding=1), torch.nn.PReLU(width)]
        for _ in range(depth):
            layers += [torch.nn.Conv2d(width, width, 3, padding=1), torch.nn.PReLU(width)]
        layers.append(torch.nn.Conv2d(width, 3 * scale**2, 3, padding=1))
        self.body = torch.nn.Sequential(*layers)

    @property
    def reach(self) -> int:
        """How many pixels around a pixel it sees: what tiles must overlap by."""
        return sum(isinstance(layer, torch.nn.Conv2d) for layer in self.body)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Enlarge pictures: (B, 3, H, W) in [0, 1] -> (B, 3, H x scale, W x scale), not clamped."""
        return F.pixel_shuffle(self.body(images), self.scale) + F.interpolate(images, scale_factor=self.scale)


def compact_from(tensors: Mapping[str, torch.Tensor]) -> CompactUpscaler:
    """Build the network of a state dict and load it, in float32.

    Raises: ModelFileError when the tensors are of another network.
    """
    numbered = {match[1]: name for name in tensors if (match := _WEIGHT.fullmatch(name))}
    ordered = [tensors[numbered[number]] for number in sorted(numbered, key=int)]  # a file's own order is another
    convolutions = [value for value in ordered if value.ndim == 4]
    if len(convolutions) < 2 or convolutions[0].shape[1] != 3:
        raise ModelFileError(
            "This file is not a compact upscaler: it has no convolutions named body.0, body.2 and so on."
        )
    scale = math.isqrt(convolutions[-1].shape[0] // 3)
    if convolutions[-1].shape[0] != 3 * scale**2:
        raise ModelFileError(f"Its last layer has {convolutions[-1].shape[0]} channels, not 3 times a square.")
    network = CompactUpscaler(convolutions[0].shape[0], len(convolutions) - 2, scale)
    try:
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise ModelFileError(f"This file is not a compact upscaler: {str(error)[:200]}") from None
    return network.eval().requires_grad_(False)
