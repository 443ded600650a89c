"""The tensors of a LoRA's file by layer and part, read from their names: no tensor is read for that.

Sources: the names are those of kohya's sd-scripts, LyCORIS (module/*.py), PEFT, diffusers and X-Labs' x-flux.
"""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["BUNDLED", "kind_of", "split_key"]

BUNDLED = "bundle_emb."
"""Begins the names of embeddings that OneTrainer puts into a LoRA's file; `weights.embeddings` reads them."""

_PARTS = {
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.bias": "up_bias",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_up.weight": "up",
    ".lora_up.bias": "up_bias",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora.alpha": "alpha",
    "_lora.alpha": "alpha",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    **{f".hada_{name}": name for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    ".oft_blocks": "oft_blocks",
    ".rescale": "rescale",
    ".on_input": "on_input",
    ".ia3_l": "ia3_l",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "diff",
    ".b_norm": "diff_b",
    ".weight": "weight",
}
"""Ends of tensors' names to their parts, longer ones before those that they end with."""

_XLABS = re.compile(r"^(.*\.processor\.(?:qkv|proj)_lora\d?)\.(down|up)\.weight$")

_ADAPTER_NAME = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.[\w-]+\.(weight|bias)$|\.(ia3_l)\.[\w-]+$")
"""PEFT puts the adapter's name, mostly `default`, into its tensors' names."""

_NEEDED = {
    "lora": ({"down", "up"},),
    "loha": ({"w1_a", "w1_b", "w2_a", "w2_b"},),
    "lokr": tuple(
        {*first, *second}
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
    "ia3": ({"weight", "on_input"},),
    "ia3_peft": ({"ia3_l"},),
    "oft": ({"oft_blocks"},),
    "difference": ({"diff"},),
}
"""The parts of which a layer's change is made, by its kind."""


def split_key(key: str) -> tuple[str, str] | None:
    """A tensor's name as (layer's path with its prefix, its part's short name); None for any other tensor.

    The short names are those of `weights.adapters`, and "up_bias" and "diff_b" for what is added to a layer's bias.
    """
    key = key.replace("base_model.model.", "")
    if match := _XLABS.match(key):
        return match[1], match[2]
    key = _ADAPTER_NAME.sub(lambda named: f".{named[3]}" if named[3] else f".{named[1]}.{named[2]}", key)
    for suffix, part in _PARTS.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), part
    return None


def kind_of(parts: Collection[str]) -> str | None:
    """The kind of a layer's change by the names of its parts; None where they make none."""
    there = set(parts)
    return next((kind for kind, forms in _NEEDED.items() if any(form <= there for form in forms)), None)
