"""Convolutions of 3 x 3 on a CPU with four products in place of nine, for autoencoders in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.core.derivatives import is_differentiated

__all__ = ["WinogradConv2d", "use_fewer_products"]

LEAST_CHANNELS = 256
"""Of input and output, below which the transforms take longer than the products that they save."""

LEAST_TILES = 256
"""Tiles of 2 x 2 results below which the weights' transform takes longer than that."""

TILES_AT_ONCE = 256
"""So many that what is computed of them stays in a processor's cache."""

DTYPES = (torch.float32, torch.float64)
"""In half precision the transforms round three times as much as the convolution, and win little."""


class WinogradConv2d(nn.Conv2d):
    """A convolution of 3 x 3 by Winograd's F(2 x 2, 3 x 3): sixteen products for four results in place of 36.

    With 256 and 512 channels at 32 to 128 pixels it takes 0.69 to 0.85 of oneDNN's time; with 128 channels additions
    take what is won. Stable Diffusion's autoencoder decodes in 0.92 of its time and encodes in 0.90 (256 px, one core
    with AVX-512 on a loaded machine, processor time, by hand). The results differ by rounding, 1e-6 of their norm.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, section 4.1.

    Attributes:
        stands_for: the class whose layer it is, for those who choose layers by their class.
    """

    stands_for = nn.Conv2d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve (B, C, H, W)."""
        if not self._is_faster(input):
            return super().forward(input)
        batch, _, height, width = input.shape
        weight = _transform_weight(self.weight)
        results = input.new_empty((batch, (height + 1) // 2, 2, (width + 1) // 2, 2, self.out_channels))
        for picture, result in zip(input, results, strict=True):
            _convolve(picture, weight, self.bias, result)
        picture = results.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)
        return picture.contiguous(memory_format=torch.channels_last)

    def _is_faster(self, input: torch.Tensor) -> bool:
        return (
            input.dim() == 4
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype
            and input.dtype in DTYPES
            and input.shape[-2] * input.shape[-1] >= 4 * LEAST_TILES
            # What writes into buffers has no derivative.
            and not is_differentiated(input, self.weight)
        )


def _transform_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return G g G^T of weights (K, C, 3, 3) as (16, C, K)."""
    taps = weight.permute(2, 3, 0, 1)
    columns = _transform_taps(_transform_taps(taps).transpose(0, 1))
    return columns.transpose(0, 1).reshape(16, *weight.shape[:2]).transpose(1, 2)


def _transform_taps(taps: torch.Tensor) -> torch.Tensor:
    outer, middle = (taps[0] + taps[2]).mul_(0.5), taps[1] * 0.5
    return torch.stack((taps[0], outer + middle, outer - middle, taps[2]))


def _convolve(picture: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, results: torch.Tensor) -> None:
    """Convolve (C, H, W) with transformed weights (16, C, K) into tiles of results (h, 2, w, 2, K)."""
    channels, height, width = picture.shape
    down, across = results.shape[0], results.shape[2]
    padded = F.pad(picture.permute(1, 2, 0), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
    rows = max(1, TILES_AT_ONCE // across)
    for start in range(0, down, rows):
        part = results[start : start + rows]
        tiles = _transform_tiles(padded[2 * start : 2 * (start + len(part)) + 2])
        products = torch.bmm(tiles.view(16, len(part) * across, channels), weight)
        _transform_back(products.view(4, 4, len(part), across, -1), part, bias)


def _transform_tiles(padded: torch.Tensor) -> torch.Tensor:
    """Return B^T d B, (4, 4, h, w, C), of the tiles d of 4 x 4 pixels of (2 h + 2, 2 w + 2, C), a step of two apart."""
    height, width, channels = padded.shape
    rows = padded.new_empty((4, height // 2 - 1, width, channels))
    _combine_neighbors(padded, rows)
    tiles = padded.new_empty((4, 4, height // 2 - 1, width // 2 - 1, channels))
    _combine_neighbors(rows.permute(2, 0, 1, 3), tiles.permute(1, 3, 0, 2, 4))
    return tiles


def _combine_neighbors(places: torch.Tensor, results: torch.Tensor) -> None:
    """Write B^T d along the first dimension: of 2 n + 2 places d into (4, n, ...)."""
    even, odd = places[0::2], places[1::2]
    torch.sub(even[:-1], even[1:], out=results[0])
    torch.add(odd[:-1], even[1:], out=results[1])
    torch.sub(even[1:], odd[:-1], out=results[2])
    torch.sub(odd[:-1], odd[1:], out=results[3])


def _transform_back(products: torch.Tensor, results: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Write A^T m A of the products m (4, 4, h, w, K), and the bias, into (h, 2, w, 2, K)."""
    for row, sums in enumerate(_add_up(products)):
        for column, total in enumerate(_add_up(sums)):
            results[:, row, :, column] = total if bias is None else total.add_(bias)


def _add_up(products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A^T m along the first dimension."""
    return (products[1] + products[2]).add_(products[0]), (products[1] - products[2]).sub_(products[3])


def use_fewer_products(vae: nn.Module) -> int:
    """Let an autoencoder's wide plain convolutions compute as `WinogradConv2d`, in place; return how many.

    Parameters, names and hooks stay as they are.
    """
    count = 0
    for module in vae.modules():
        if type(module) is nn.Conv2d and _is_plain(module) and min(module.weight.shape[:2]) >= LEAST_CHANNELS:
            module.__class__ = WinogradConv2d
            count += 1
    return count


def _is_plain(convolution: nn.Conv2d) -> bool:
    shape = (convolution.kernel_size, convolution.padding, convolution.stride, convolution.dilation)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1)) and convolution.groups == 1 and convolution.padding_mode == "zeros"
