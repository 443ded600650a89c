"""Which model a checkpoint, a LoRA or a part belongs to, by its metadata and the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipelines.weights.files import Tensor
from pipelines.weights.lora_kinds import LORA_MARK, lora_kind
from pipelines.weights.network_kinds import (
    CONTEXT_WIDTHS,
    PREFIXES,
    UNET_CONTEXT,
    bare_names,
    explain_channels,
    identify_network,
)
from pipelines.weights.prediction import Prediction, prediction_of
from pipelines.weights.t2i_adapter_names import read_adapter_config

__all__ = ["FileKind", "file_kind", "list_part_tensors"]

_OUTER = ("state_dict", "module", "ema")
_NESTED = (
    "Its tensors stand one level too deep, as in a training checkpoint that was converted with all around it. Convert "
    "what is inside, so that names begin with model.diffusion_model."
)

NETWORKS = ("unet", "transformer")
"""Parts that are a denoising network."""

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


class FileKind(NamedTuple):
    """Says what a file is.

    Attributes:
        what: "checkpoint" (a whole model), "network" (only the denoising network), "lora", "embedding", "upscaler",
            "vae", "text_encoder", "controlnet", "t2i_adapter", "ip_adapter" or "unknown".
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
    if read_adapter_config(tensors):
        return FileKind("t2i_adapter")
    return _classify_adapter(tensors) or _classify_network(tensors, metadata) or _classify_part(tensors)


def list_part_tensors(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a whole model's file, under the file's names.

    Args:
        tensors: of the file.
        name: of the part: "unet", "transformer", "vae", "text_encoder", ...
    """
    if name in NETWORKS:
        prefix, bare = bare_names(tensors)
        return {f"{prefix}{one}": tensor for one, tensor in bare.items()}
    starts: tuple[str, ...] = VAE_PREFIXES
    if name != "vae":
        kind = file_kind(tensors)
        encoders: Mapping[str, tuple[str, ...]] = ENCODERS.get(kind.base) or ENCODERS.get(kind.family, {})
        starts = encoders.get(name, ())
    return {one: tensor for one, tensor in tensors.items() if one.startswith(starts)}


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
    family, base, note = identify_network(bare)
    if not family:
        return FileKind("unknown", note=note) if bare else None
    has_text_encoder = any(name.startswith(TEXT_ENCODERS) for name in tensors)
    lacks = _list_missing_parts(tensors, family, base)
    prediction = prediction_of(tensors, metadata) if family in {"sd", "sdxl"} else Prediction()
    note = note or prediction.note or explain_channels(bare)
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
        # Of a Control-LoRA the second of the two matrices has the width.
        if (UNET_CONTEXT.search(name) or name.endswith("attn2.to_k.down")) and len(tensor.shape) >= 2:
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


def _list_missing_parts(tensors: Mapping[str, Tensor], family: str, base: str) -> tuple[str, ...]:
    encoders = ENCODERS.get(base) or ENCODERS[family]
    parts = {"vae": VAE_PREFIXES, **encoders}
    return tuple(name for name, starts in parts.items() if not any(key.startswith(starts) for key in tensors))


def _classify_part(tensors: Mapping[str, Tensor]) -> FileKind:
    """A VAE, a text encoder or an embedding by itself."""
    from pipelines.weights.embedding_files import embedding_kind

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
