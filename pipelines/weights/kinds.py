"""Which model a checkpoint or a LoRA file belongs to, told by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from pipelines.weights.files import Tensor

__all__ = ["FileKind", "file_kind"]

CONTEXT_WIDTHS = {768: ("sd", "sd1"), 1024: ("sd", "sd2"), 2048: ("sdxl", "sdxl")}
"""Width of the text that a UNet's cross-attention reads, which tells the versions apart."""

FLUX_KEY = "double_blocks.0.img_attn.norm.key_norm.scale"
FLUX_GUIDANCE_KEY = "guidance_in.in_layer.bias"
OTHER_FLUX_KEYS = ("single_stream_modulation.lin.weight", "distilled_guidance_layer.in_proj.bias")
"""FLUX.2 and Chroma, whose blocks have the names of FLUX.1's."""

SD3_KEY = "joint_blocks.0.context_block.adaLN_modulation.1.bias"
SD35_LARGE_KEY = "joint_blocks.37.x_block.mlp.fc1.weight"
SD35_MEDIUM_POSITIONS = 384 * 384
"""Length of SD3.5 medium's pos_embed; SD3's is 192 * 192."""

UNET_KEYS = re.compile(r"^model\.diffusion_model\.(?:input|output|middle)_blocks?\.")
UNET_CONTEXT = re.compile(r"^model\.diffusion_model\..*attn2\.to_k\.weight$")
LORA_MARK = re.compile(r"(?:lora_(?:up|down|A|B)(?:\.\w+)?\.weight|lora\.(?:up|down)\.weight|hada_w1_a|lokr_w1)$")
LORA_CONTEXT = re.compile(r"attn2[._](?:processor\.)?to_k(?:_lora)?.*(?:down|lora_A(?:\.\w+)?)\.weight$")
TEXT_ENCODERS = ("cond_stage_model.", "conditioner.", "text_encoders.")


class FileKind(NamedTuple):
    """What a file is.

    Attributes:
        what: "checkpoint" (a whole model), "network" (only the denoising network), "lora" or "unknown".
        family: "sd", "sdxl", "sd3", "flux", or "" when it cannot be told.
        base: "sd1", "sd2", "sdxl", "sd3", "sd35-medium", "sd35-large", "flux1" (a LoRA), "flux1-dev",
            "flux1-schnell", or "".
        note: why a file that was recognized cannot be used, as a sentence; "" if it can.
    """

    what: str
    family: str = ""
    base: str = ""
    note: str = ""


def file_kind(tensors: Mapping[str, Tensor]) -> FileKind:
    """The kind of a file from its tensors, as `weights.read_header` gives them."""
    if any(LORA_MARK.search(name) for name in tensors):
        return _lora(tensors)
    family, base = _network(tensors)
    if not family:
        return FileKind("unknown")
    if not any(name.startswith(TEXT_ENCODERS) for name in tensors):
        return FileKind("network", family, base, "It holds only the denoising network, without text encoder and VAE.")
    first = tensors.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is not None and len(first.shape) == 4 and first.shape[1] != 4:
        return FileKind(
            "checkpoint",
            family,
            base,
            f"Its network takes {first.shape[1]} channels, as models for "
            "inpainting or editing do; text to image needs 4.",
        )
    return FileKind("checkpoint", family, base)


def _network(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """(family, base) of the denoising network, ("", "") for any that is not known here."""

    def find(key: str) -> Tensor | None:
        return tensors.get(key) or tensors.get(f"model.diffusion_model.{key}")

    if find(FLUX_KEY):
        if any(find(key) for key in OTHER_FLUX_KEYS):
            return "", ""
        return "flux", "flux1-dev" if find(FLUX_GUIDANCE_KEY) else "flux1-schnell"
    if find(SD3_KEY):
        positions = find("pos_embed")
        medium = positions is not None and len(positions.shape) == 3 and positions.shape[1] == SD35_MEDIUM_POSITIONS
        return "sd3", "sd35-large" if find(SD35_LARGE_KEY) else "sd35-medium" if medium else "sd3"
    if not any(UNET_KEYS.match(name) for name in tensors):
        return "", ""
    return _by_context(tensors, UNET_CONTEXT)


def _by_context(tensors: Mapping[str, Tensor], pattern: re.Pattern) -> tuple[str, str]:
    for name, tensor in tensors.items():
        if pattern.search(name) and len(tensor.shape) >= 2:
            return CONTEXT_WIDTHS.get(tensor.shape[1], ("", ""))
    return "", ""


def _lora(tensors: Mapping[str, Tensor]) -> FileKind:
    """A LoRA's family: transformers by the names of their blocks, UNets by the width of the text they read."""
    names = list(tensors)
    if any(re.search(r"single_transformer_blocks|double_blocks|lora_unet_single_blocks", name) for name in names):
        return FileKind("lora", "flux", "flux1")
    if any("joint_blocks" in name for name in names):
        return FileKind("lora", "sd3", "sd3")
    if any(name.startswith("transformer.transformer_blocks") and ".attn.add_" in name for name in names):
        return FileKind("lora", "sd3", "sd3")
    family, base = _by_context(tensors, LORA_CONTEXT)
    if not family and any("lora_te2_" in name or name.startswith("text_encoder_2.") for name in names):
        family, base = "sdxl", "sdxl"
    return FileKind("lora", family, base)
