"""Which model a checkpoint, a LoRA or a part belongs to, by its metadata and the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from pipelines.weights.files import Tensor
from pipelines.weights.lora_kinds import LORA_MARK, lora_kind
from pipelines.weights.prediction import Prediction, prediction_of

__all__ = ["CONTEXT_WIDTHS", "FileKind", "bare_names", "file_kind"]

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

_OUTER = ("state_dict", "module", "ema")
_NESTED = (
    "Its tensors stand one level too deep, as in a training checkpoint that was converted with all around it. Convert "
    "what is inside, so that names begin with model.diffusion_model."
)

VAE_PREFIXES = ("first_stage_model.", "vae.")
ENCODERS = {
    "sd1": {"text_encoder": ("cond_stage_model.transformer.",)},
    "sd2": {"text_encoder": ("cond_stage_model.model.",)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    "sd3": {
        "text_encoder": ("text_encoders.clip_l.",),
        "text_encoder_2": ("text_encoders.clip_g.",),
        "text_encoder_3": ("text_encoders.t5xxl.",),
    },
    "flux": {"text_encoder": ("text_encoders.clip_l.",), "text_encoder_2": ("text_encoders.t5xxl.",)},
}
"""Where a whole checkpoint keeps each text encoder, by base, or by family where all its bases agree."""

TEXT_ENCODERS = ("cond_stage_model.", "conditioner.", "text_encoders.")
EXTRA_CHANNELS = {
    9: "models for inpainting",
    8: "models that edit a picture by an instruction",
    7: "upscalers",
    5: "models that take a depth map",
}


class FileKind(NamedTuple):
    """Says what a file is.

    Attributes:
        what: "checkpoint" (a whole model), "network" (only the denoising network), "lora", "embedding", "upscaler",
            "vae", "text_encoder", "controlnet", "ip_adapter" or "unknown".
        family: "sd", "sdxl", "sd3", "flux", or "" when nothing tells it.
        base: "sd1", "sd2", "sdxl", "sd3", "sd35-medium", "sd35-large", "flux1" (a LoRA), "flux1-dev",
            "flux1-schnell"; of a text encoder "clip_l", "clip_g", "open_clip_h" or "t5xxl"; of a VAE its
            latents' channels, "4" or "16"; of a ControlNet or an IP-Adapter the width of the text that its network
            reads; or "".
        note: why a file that was recognized cannot be used, as a sentence; "" if it can.
        lacks: the parts that a whole model of this kind has and the file has not.
        prediction: "v_prediction" or "epsilon" where the file tells, else "".
        zero_snr: whether it was trained to start from pure noise (zero terminal signal-to-noise ratio).
        edm: whether its time is the logarithm of EDM's noise level, as CosXL's.
    """

    what: str
    family: str = ""
    base: str = ""
    note: str = ""
    lacks: tuple[str, ...] = ()
    prediction: str = ""
    zero_snr: bool = False
    edm: bool = False


def file_kind(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> FileKind:
    """Return the kind of a file from its header.

    Args:
        tensors, metadata: as `weights.files.read_full_header` gives them.
    """
    metadata = metadata or {}
    quantized = _explain_quantization(tensors, metadata)
    if quantized:
        return FileKind("unknown", note=quantized)
    if any(name.startswith(f"{outer}.{PREFIXES[0]}") for name in tensors for outer in _OUTER):
        return FileKind("unknown", note=_NESTED)
    if any(LORA_MARK.search(name) for name in tensors):
        return FileKind("lora", *lora_kind(tensors, metadata, CONTEXT_WIDTHS))
    return _classify_adapter(tensors) or _classify_network(tensors, metadata) or _classify_part(tensors)


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


def _explain_quantization(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Why the weights' packed form is not read here, as a sentence; "" for plain weights and scaled fp8."""
    if (
        any(name.endswith((".qweight", ".wscales")) for name in tensors)
        or "nunchaku" in metadata.get("model_class", "").lower()
    ):
        return (
            "It is an SVDQuant file, which only the package nunchaku runs, on an NVIDIA GPU; Stepwise does not. "
            "Use the model's fp16, fp8 or GGUF file, or quantize it in the Quantize tab."
        )
    if any(".quant_state.bitsandbytes__" in name for name in tensors):
        return (
            "Its weights are packed by bitsandbytes (nf4 or fp4), which is read only as a diffusers folder. "
            "Use the model's fp16, fp8 or GGUF file."
        )
    packed = [name for name, tensor in tensors.items() if name.endswith(".weight_scale_2") or tensor.dtype == "F4"]
    if packed or any(
        tensor.dtype == "U8" and name.endswith(".weight") and f"{name}_scale" in tensors
        for name, tensor in tensors.items()
    ):
        return "Its weights are packed to four bits (nvfp4), which is not read here. Use the model's fp16 or fp8 file."
    if any(name.endswith(".weight_scale") and tensor.dtype in {"U8", "F8_E8M0"} for name, tensor in tensors.items()):
        # Its scales are powers of two in blocks of 32 weights, in an order of their own.
        return "Its weights are fp8 with scales of blocks (mxfp8), which is not read here. Use the model's fp16 file."
    return ""


def _classify_network(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> FileKind | None:
    _, bare = bare_names(tensors)
    if (
        any(name.startswith(("control_model.", "controlnet_")) for name in tensors)
        or "input_hint_block.0.weight" in bare
    ):
        return _classify_controlnet(tensors)
    family, base, note = _identify_network(bare)
    if not family:
        return FileKind("unknown", note=note) if bare else None
    has_text_encoder = any(name.startswith(TEXT_ENCODERS) for name in tensors)
    lacks = _list_missing_parts(tensors, family, base)
    prediction = prediction_of(tensors, metadata) if family in {"sd", "sdxl"} else Prediction()
    note = note or prediction.note or _explain_channels(bare)
    return FileKind(
        "checkpoint" if has_text_encoder else "network",
        family,
        base,
        note,
        lacks,
        prediction.prediction,
        prediction.zero_snr,
        prediction.edm,
    )


def _classify_controlnet(tensors: Mapping[str, Tensor]) -> FileKind:
    """A ControlNet by itself: of a UNet, by the width of the text that it reads, which stands for a base too."""
    for name, tensor in tensors.items():
        if UNET_CONTEXT.search(name) and len(tensor.shape) >= 2:
            width = tensor.shape[1]
            is_xl = any("label_emb" in other or "add_embedding" in other for other in tensors)
            return FileKind("controlnet", "sdxl" if is_xl else "sd", str(width))
    note = "It is a ControlNet of a transformer, which is read only as a diffusers folder with its config.json."
    return FileKind("controlnet", note=note)


def _classify_adapter(tensors: Mapping[str, Tensor]) -> FileKind | None:
    """An IP-Adapter; None for any other file."""
    width = next((one.shape[1] for name, one in tensors.items() if name.endswith(".to_k_ip.weight")), 0)
    if not width or not any(name.startswith("image_proj.") for name in tensors):
        return None
    known = {"image_proj.proj.weight", "image_proj.proj.3.weight", "image_proj.latents"}
    note = "" if known & tensors.keys() else "It reads faces by another network (FaceID), which is not offered here."
    return FileKind("ip_adapter", CONTEXT_WIDTHS.get(width, ("sd", ""))[0], str(width), note)


def _explain_channels(bare: Mapping[str, Tensor]) -> str:
    first = bare.get("input_blocks.0.0.weight") or bare.get("conv_in.weight")
    if first is None or len(first.shape) != 4 or first.shape[1] == 4:
        return ""
    what = EXTRA_CHANNELS.get(first.shape[1], "models for inpainting or editing")
    return f"Its network takes {first.shape[1]} channels, as {what} do; text to image needs 4."


def _list_missing_parts(tensors: Mapping[str, Tensor], family: str, base: str) -> tuple[str, ...]:
    encoders = ENCODERS.get(base) or ENCODERS[family]
    parts = {"vae": VAE_PREFIXES, **encoders}
    return tuple(name for name, starts in parts.items() if not any(key.startswith(starts) for key in tensors))


def _identify_network(bare: Mapping[str, Tensor]) -> tuple[str, str, str]:
    """(family, base, note) of the denoising network; the family is "" for any that is not known here."""
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


def _classify_part(tensors: Mapping[str, Tensor]) -> FileKind:
    """A VAE, a text encoder or an embedding by itself."""
    from pipelines.weights.embeddings import embedding_kind

    names = {_strip_vae_prefix(name) for name in tensors}
    if {"decoder.conv_in.weight", "encoder.conv_in.weight"} <= names and "decoder.conv_out.weight" in names:
        shape = next(tensors[name].shape for name in tensors if _strip_vae_prefix(name) == "decoder.conv_in.weight")
        return FileKind("vae", base=str(shape[1]) if len(shape) == 4 else "")
    if any(name.startswith(("encoder.layers.", "decoder.layers.")) for name in names) and "taesd_" in str(
        sorted(names)
    ):
        return FileKind(
            "unknown", note="It is a tiny decoder. Put its diffusers folder into tiny_vae of the models folder."
        )
    base = _identify_encoder(tensors)
    if base:
        return FileKind("text_encoder", base=base)
    if {"body.0.weight", "body.1.weight", "body.2.weight"} <= names and len(tensors["body.0.weight"].shape) == 4:
        return FileKind("upscaler")
    embedding = embedding_kind(tensors)
    if embedding:
        return FileKind("embedding", *embedding)
    return FileKind("unknown")


def _strip_vae_prefix(name: str) -> str:
    for prefix in VAE_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _identify_encoder(tensors: Mapping[str, Tensor]) -> str:
    for name, tensor in tensors.items():
        if name.endswith("token_embedding.weight") and len(tensor.shape) == 2:
            return {768: "clip_l", 1024: "open_clip_h", 1280: "clip_g"}.get(tensor.shape[1], "clip_l")
        if name.endswith(("encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight")):
            return "t5xxl"
    return ""
