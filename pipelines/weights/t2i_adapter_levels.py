"""What T2I-Adapters say to a UNet: which layers they add to, and how what they say reaches the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

__all__ = [
    "ADAPTERS",
    "FEATURE",
    "STANDARD_LEVELS",
    "AdaptedFamily",
    "Levels",
    "adapter_inputs",
    "list_adapter_levels",
    "list_unet_levels",
]

ADAPTERS = ("t2i_adapter", "t2i_adapter_2")
"""The names of a first and a second one among a model's components."""

FEATURE = "adapter feature "
"""Begins the names of a conditioning's tensors, (B, C, h, w), that are added to the UNet's blocks, by their number."""

Levels = tuple[tuple[int, int], ...]
"""Channels of each block's addition, and how many pixels of the picture one of its places has along a side."""

STANDARD_LEVELS: Mapping[str, Levels] = {
    "sd": ((320, 8), (640, 16), (1280, 32), (1280, 64), (1280, 64)),
    "sdxl": ((320, 16), (640, 16), (1280, 32), (1280, 32)),
}
"""Of the published UNets of each family, where no configuration tells."""


@runtime_checkable
class AdaptedFamily(Protocol):
    """Describes a family whose network adapters may add to."""

    @property
    def adapter_levels(self) -> Levels:
        """What may be added to the network."""


def list_adapter_levels(config: Mapping[str, object]) -> Levels:
    """List what an adapter says, by its configuration; () for kinds that are not known.

    Args:
        config: of a T2IAdapter.
    """
    channels, factor, kind = config.get("channels"), config.get("downscale_factor"), config.get("adapter_type")
    if not isinstance(channels, list | tuple) or not isinstance(factor, int) or not channels:
        return ()
    if kind == "full_adapter_xl":
        return tuple((width, factor * (2 if place > 1 else 1)) for place, width in enumerate(channels))
    if kind == "light_adapter":
        channels = [*channels, channels[-1]]
    elif kind != "full_adapter":
        return ()
    return tuple((width, factor * 2**place) for place, width in enumerate(channels))


def list_unet_levels(config: Mapping[str, object], vae_factor: int) -> Levels:
    """List what may be added to a UNet: after each block of its encoder and after its middle.

    A block with attention is added to before it halves its sides, one without attention after that.

    Args:
        config: of a UNet2DConditionModel.
        vae_factor: pixels to a latent.
    """
    widths, kinds = config.get("block_out_channels"), config.get("down_block_types")
    if not isinstance(widths, list | tuple) or not isinstance(kinds, list | tuple):
        return ()
    levels: list[tuple[int, int]] = []
    last = len(widths) - 1
    for place, (width, kind) in enumerate(zip(widths, kinds, strict=False)):
        halved = place < last and not kind.startswith("CrossAttn")
        levels.append((width, vae_factor * 2 ** (place + halved)))
    return (*levels, (widths[-1], vae_factor * 2**last)) if levels else ()


def adapter_inputs(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, list[torch.Tensor]]:
    """Return the UNet's further argument for what adapters have said; none where they say nothing.

    Args:
        tensors: of the conditioning.
        dtype: of the network.
    """
    names = sorted(name for name in tensors if name.startswith(FEATURE))
    if not names:
        return {}
    # The UNet takes them out of the list one by one, and adds in place.
    return {"down_intrablock_additional_residuals": [tensors[name].to(dtype) for name in names]}
