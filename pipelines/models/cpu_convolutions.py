"""What makes convolutions faster on a CPU: products of matrices on small grids, and channels last in autoencoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["SmallGridConv2d", "use_channels_last", "use_products_on_small_grids"]

LEAST_WEIGHTS = 12_000_000
"""Weights of a convolution from which on the reordering that oneDNN does in each call costs more than it wins."""

MOST_POSITIONS = {torch.float32: 192, torch.bfloat16: 64}
"""Positions of the result (pictures x rows x columns) up to which the product is faster, by the weights' dtype."""


class SmallGridConv2d(nn.Conv2d):
    """A convolution that is computed as W @ columns where weights are many and positions few.

    oneDNN brings the weights of a convolution into its own order in every call. At the lowest levels of a UNet of
    Stable Diffusion's size that takes longer than the multiplications: two rows of 1280 channels at 4 x 4 took 2.5
    times as long as this, at 8 x 8 1.35 times, on one core with AVX-512 (`python -m pipelines.benchmark peers`
    measures whole runs). The results differ by rounding.

    Attributes:
        stands_for: the class whose layer it is, for those who choose layers by their class.
    """

    stands_for = nn.Conv2d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve (B, C, H, W)."""
        if isinstance(self.padding, str):
            return super().forward(input)
        height, width = (
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                input.shape[-2:], self.padding, self.kernel_size, self.stride, strict=True
            )
        )
        positions = input.shape[0] * height * width
        if not self._is_faster_as_product(input, positions):
            return super().forward(input)
        columns = F.unfold(input, self.kernel_size, padding=self.padding, stride=self.stride)
        columns = columns.transpose(0, 1).reshape(-1, positions)
        weight = self.weight.reshape(self.out_channels, -1)
        result = weight @ columns if self.bias is None else torch.addmm(self.bias[:, None], weight, columns)
        return (
            result.view(-1, input.shape[0], height * width).transpose(0, 1).reshape(input.shape[0], -1, height, width)
        )

    def _is_faster_as_product(self, input: torch.Tensor, positions: int) -> bool:
        return (
            input.dim() == 4
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype
            and 0 < positions <= MOST_POSITIONS.get(self.weight.dtype, 0)
            and self.weight.numel() >= LEAST_WEIGHTS
            and self.weight.is_contiguous()
        )


def use_products_on_small_grids(network: nn.Module) -> int:
    """Let the large plain convolutions of a network compute as `SmallGridConv2d`, in place; return how many.

    Parameters, names and hooks stay as they are. Convolutions with groups, dilation or another padding than zeros are
    left alone, and so are small ones: no shipped model has one that large.
    """
    count = 0
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.weight.numel() >= LEAST_WEIGHTS
            and module.groups == 1
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            module.__class__ = SmallGridConv2d
            count += 1
    return count


def use_channels_last(vae: nn.Module) -> bool:
    """Keep an autoencoder's convolutions in the order of channels last, in place; return whether it was done.

    oneDNN then reorders nothing between its layers: the shipped autoencoders decode and encode in 0.80 to 0.95 of the
    time on one core, Stable Diffusion's in 0.90 (256 px, processor time). The results differ by rounding. Video
    autoencoders, whose convolutions have three dimensions, are left alone.
    """
    if any(parameter.dim() > 4 for parameter in vae.parameters()):
        return False
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return True
