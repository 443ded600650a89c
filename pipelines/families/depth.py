"""How deep a network is, by its configuration, which can be read without loading it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.core.types import Traits

__all__ = ["with_depth"]


def with_depth(traits: Traits, config: Mapping[str, object], text_config: Mapping[str, object] | None = None) -> Traits:
    """Add to a model's traits how deep its network and its text encoder are.

    Args:
        traits: of the model.
        config: of its network, as diffusers writes it into `config.json`; what it doesn't say stays 0.
        text_config: of its text encoder, of Stable Diffusion 1 and 2; of others no layer is chosen so.
    """
    if traits.family == "sd" and text_config:
        traits = dataclasses.replace(traits, text_layers=_read_count(text_config.get("num_hidden_layers")))
    if traits.backbone == "transformer":
        joint, single = (_read_count(config.get(name)) for name in ("num_layers", "num_single_layers"))
        return dataclasses.replace(traits, joint_blocks=joint, single_blocks=single)
    down, layers = config.get("down_block_types"), config.get("layers_per_block")
    if not isinstance(down, (list, tuple)) or not down:
        return traits
    counts = layers if isinstance(layers, (list, tuple)) else [layers] * len(down)
    if len(counts) != len(down) or not all(_read_count(count) for count in counts):
        return traits
    # the first convolution's, each residual layer's, and each downsampling's: none follows the last block
    return dataclasses.replace(traits, skips=1 + sum(map(_read_count, counts)) + len(down) - 1)


def _read_count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
