"""What a picture steers a run with: an entry of a ControlNet, a T2I-Adapter, an IP-Adapter or an image encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipelines.weights.t2i_adapter_levels import ADAPTERS, Levels

__all__ = ["ADAPTER", "CONTROLNET", "ENCODER", "T2I_ADAPTER", "SteeringEntry"]

CONTROLNET, ADAPTER, ENCODER = "controlnet", "ip_adapter", "image_encoder"
"""What a part is, which is its name among a model's components too."""


T2I_ADAPTER = ADAPTERS[0]


@dataclasses.dataclass(frozen=True)
class SteeringEntry:
    """Describes one of them.

    Attributes:
        what: CONTROLNET, ADAPTER, ENCODER or T2I_ADAPTER.
        key: its name in requests.
        label: its file's or folder's name.
        path: the file, or the folder of diffusers or transformers.
        family: "sd", "sdxl", "sd3", "flux", or "" of an encoder and of a T2I-Adapter.
        width: of what reads a UNet's text, that of the text; of a transformer's, its own; 0 where nothing tells.
        factor: pixels of its picture to one latent, along a side, of a UNet's ControlNet in a folder; else 0.
        class_name: in diffusers or transformers; "" of an IP-Adapter.
        size_bytes: of the weights.
        problem: why it cannot be used, as a sentence; "" if it can.
        levels: of a T2I-Adapter, what it adds to a network; () of others.
    """

    what: str
    key: str
    label: str
    path: Path
    family: str = ""
    width: int = 0
    factor: int = 0
    class_name: str = ""
    size_bytes: int = 0
    problem: str = ""
    levels: Levels = ()
