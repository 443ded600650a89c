"""Which denoising network a file holds, by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipelines.weights.files import Tensor

__all__ = [
    "CONTEXT_WIDTHS",
    "FLUX_KEY",
    "PREFIXES",
    "UNET_CONTEXT",
    "bare_names",
    "explain_channels",
    "identify_network",
]

CONTEXT_WIDTHS = {768: ("sd", "sd1"), 1024: ("sd", "sd2"), 2048: ("sdxl", "sdxl")}
"""Width of the text that a UNet's cross-attention reads, which tells the versions apart."""

REFINER_WIDTH = 1280
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "")
"""Under which files keep the denoising network; a whole checkpoint uses the first."""

FLUX_KEY = "double_blocks.0.img_attn.norm.key_norm.scale"
FLUX_GUIDANCE_KEY = "guidance_in.in_layer.bias"
SD3_KEY = "joint_blocks.0.context_block.adaLN_modulation.1.bias"
SD35_LARGE_KEY = "joint_blocks.37.x_block.mlp.fc1.weight"
SD35_MEDIUM_POSITIONS = 384 * 384
"""Length of SD3.5 medium's pos_embed; SD3's is 192 * 192."""

OTHER_NETWORKS = (
    ("single_stream_modulation.lin.weight", "FLUX.2"),
    ("distilled_guidance_layer.in_proj.bias", "Chroma"),
    ("cap_embedder.0.weight", "Lumina 2 or Z-Image"),
    ("txt_in.individual_token_refiner.blocks.0.norm1.weight", "HunyuanVideo"),
    ("txtfusion.projector.weight", "Krea"),
    ("blocks.0.cross_attn.norm_k.weight", "Wan"),
    ("transformer_blocks.0.attn.add_k_proj.lora_down", "an SVDQuant file"),
    ("transformer_blocks.0.img_mod.1.weight", "Qwen-Image"),
    ("double_layers.0.attn.w1q.weight", "AuraFlow"),
    ("t_embedder1.mlp.0.weight", "HiDream"),
    ("patchify_proj.weight", "LTX-Video"),
    ("clf.1.weight", "Stable Cascade"),
    ("mlp_t5.0.weight", "HunyuanDiT"),
    ("y_embedder.y_embedding", "PixArt or SANA"),
)
"""Names by which the networks of other models are recognized; their single files are not read here."""

UNET_KEY = re.compile(r"^(?:input_blocks|output_blocks|middle_block)\.")
UNET_CONTEXT = re.compile(r"attn2\.to_k\.weight$")
DIFFUSERS_UNET = re.compile(r"^(?:down_blocks\.\d+\.(?:resnets|attentions)|mid_block\.resnets)\.")
DIFFUSERS_FLUX = "single_transformer_blocks.0.attn.to_q.weight"
DIFFUSERS_SD3 = "transformer_blocks.0.attn.add_k_proj.weight"

EXTRA_CHANNELS = {
    9: "models for inpainting",
    8: "models that edit a picture by an instruction",
    7: "upscalers",
    5: "models that take a depth map",
}


def bare_names(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the prefix of the denoising network, and its tensors without that; ("", {}) where there is none."""
    for prefix in PREFIXES:
        bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if any(UNET_KEY.match(name) or DIFFUSERS_UNET.match(name) for name in bare):
            return prefix, bare
        if {FLUX_KEY, SD3_KEY, DIFFUSERS_FLUX, DIFFUSERS_SD3} & bare.keys() or _find_other_network(bare):
            return prefix, bare
    return "", {}


def _find_other_network(bare: Mapping[str, Tensor]) -> str:
    return next((model for name, model in OTHER_NETWORKS if name in bare), "")


def explain_channels(bare: Mapping[str, Tensor]) -> str:
    """Say why a network takes other channels than the 4 of plain latents, as a sentence; "" where it takes these."""
    first = bare.get("input_blocks.0.0.weight") or bare.get("conv_in.weight")
    if first is None or len(first.shape) != 4 or first.shape[1] == 4:
        return ""
    what = EXTRA_CHANNELS.get(first.shape[1], "models for inpainting or editing")
    return f"Its network takes {first.shape[1]} channels, as {what} do; text to image needs 4."


def identify_network(bare: Mapping[str, Tensor]) -> tuple[str, str, str]:
    """Return (family, base, note) of the denoising network; the family is "" for any that is not known here.

    Args:
        bare: its tensors, as `bare_names` gives them.
    """
    other = _find_other_network(bare)
    if other:
        return "", "", f"It is a network of {other}, which is read only as a diffusers folder."
    if FLUX_KEY in bare or DIFFUSERS_FLUX in bare:
        guided = FLUX_GUIDANCE_KEY in bare or "time_text_embed.guidance_embedder.linear_1.bias" in bare
        return "flux", "flux1-dev" if guided else "flux1-schnell", _explain_flux(bare)
    if SD3_KEY in bare or DIFFUSERS_SD3 in bare:
        return "sd3", _identify_sd3_base(bare), ""
    for name, tensor in bare.items():
        if UNET_CONTEXT.search(name) and len(tensor.shape) >= 2:
            width = tensor.shape[1]
            if width == REFINER_WIDTH and width not in CONTEXT_WIDTHS:
                return "sdxl", "sdxl", _REFINER
            family, base = CONTEXT_WIDTHS.get(width, ("", ""))
            unknown = f"Its UNet reads text of width {width}, as no model known here does."
            return family, base, "" if family else unknown
    return "", "", ""


_REFINER = (
    "It is SDXL's refiner, which only finishes pictures that SDXL has begun; that is not offered here. "
    "Choose an SDXL base model."
)


def _explain_flux(bare: Mapping[str, Tensor]) -> str:
    """FLUX.1's fill, depth and canny networks take more channels than the 64 of the packed latents."""
    first = bare.get("img_in.weight") or bare.get("x_embedder.weight")
    if first is None or len(first.shape) != 2 or first.shape[1] not in {128, 384}:
        return ""
    what = "FLUX.1 Fill, which repaints" if first.shape[1] == 384 else "FLUX.1 Depth, Canny or the like, which follows"
    return f"It is {what} a given picture; text to image needs FLUX.1 dev or schnell."


def _identify_sd3_base(bare: Mapping[str, Tensor]) -> str:
    if SD35_LARGE_KEY in bare or "transformer_blocks.37.ff.net.2.weight" in bare:
        return "sd35-large"
    positions = bare.get("pos_embed") or bare.get("pos_embed.pos_embed")
    medium = positions is not None and len(positions.shape) == 3 and positions.shape[1] == SD35_MEDIUM_POSITIONS
    return "sd35-medium" if medium else "sd3"
