"""Where a U-Net joins a skip connection to its main path, and so two distributions in one tensor."""

from __future__ import annotations

import torch

__all__ = ["list_splits"]


def list_splits(network: torch.nn.Module) -> dict[str, int]:
    """Find the layers whose input is a concatenation of the main path and a skip connection.

    These are, in each residual block on the way up, the first convolution and the one of the block's own shortcut.

    Args:
        network: a U-Net of diffusers; any other has none.

    Returns:
        Name of a layer to the channels of the main path, which come first.
    """
    blocks, middle = getattr(network, "up_blocks", None), getattr(network, "mid_block", None)
    if blocks is None or middle is None:
        return {}
    found = {}
    before = _count_outputs(middle)
    for place, block in enumerate(blocks):
        for index, part in enumerate(getattr(block, "resnets", ())):
            for name in ("conv1", "conv_shortcut"):
                layer = getattr(part, name, None)
                if isinstance(layer, torch.nn.Conv2d) and before and before < layer.in_channels:
                    found[f"up_blocks.{place}.resnets.{index}.{name}"] = before
            before = part.conv2.out_channels
    return found


def _count_outputs(block: torch.nn.Module) -> int:
    resnets = getattr(block, "resnets", None)
    return int(resnets[-1].conv2.out_channels) if resnets else 0
