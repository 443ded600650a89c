"""Which sizes a model makes, said without loading it."""

from __future__ import annotations

import math

from pipelines.models.entry import CatalogEntry
from pipelines.models.files import read_part_config

__all__ = ["longest_side", "size_multiple"]

_BY_FAMILY = {"sd": 8, "sdxl": 8, "sd3": 16, "flux": 16}
"""Of the published models: the autoencoder's factor of eight, times a transformer's patches. A UNet copes with sides
that it cannot halve evenly."""

_OTHERWISE = 8


def size_multiple(entry: CatalogEntry) -> int:
    """The number of pixels by which a picture's sides must be divisible, as `Family.size_multiple` has it when loaded.

    Args:
        entry: of a model. A folder on this machine says it in its configurations; any other model of a family is taken
            to be like the published ones.
    """
    usual = _BY_FAMILY.get(entry.family, _OTHERWISE)
    if entry.path is None or entry.family not in _BY_FAMILY or not entry.path.is_dir():
        return usual
    autoencoder = read_part_config(entry.path, "vae")
    network = read_part_config(entry.path, "transformer")
    try:
        factor = 2 ** (len(autoencoder["block_out_channels"]) - 1)
        if entry.family in ("sd", "sdxl"):
            return math.lcm(8, factor)
        return factor * (int(network["patch_size"]) if entry.family == "sd3" else 2)
    except (KeyError, TypeError, ValueError):  # a part lies elsewhere, or names are another library's
        return usual


def longest_side(entry: CatalogEntry) -> int:
    """The longest side in pixels that a model's table of positions has room for; 0 for one without, and where it isn't
    known."""
    if entry.family != "sd3" or entry.path is None or not entry.path.is_dir():
        return 0
    positions = read_part_config(entry.path, "transformer").get("pos_embed_max_size")
    return positions * size_multiple(entry) if isinstance(positions, int) else 0
