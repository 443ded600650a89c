"""Whose a LoRA is, and whether it can be added here, read from its file's header alone.

Sources: the names are those of kohya's sd-scripts, LyCORIS (module/*.py), PEFT, diffusers' `lora_conversion_utils`,
OneTrainer and X-Labs' x-flux.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipelines.weights.files import Tensor
from pipelines.weights.lora_problems import explain_kind, explain_tensors

__all__ = ["LORA_MARK", "lora_kind"]

LORA_MARK = re.compile(
    r"(?:"
    r"lora_(?:up|down|A|B)(?:\.[\w-]+)?\.weight|lora(?:_linear_layer)?\.(?:up|down)\.weight"
    r"|_lora\d?\.(?:up|down)\.weight|hada_w1_a|lokr_w[12](?:_a)?|\.oft_(?:blocks|diag|R\.weight)|\.on_input|\.ia3_l"
    r"|\.diff|\.diff_b|\.a1\.weight|\.b1\.weight|\.vera_lambda_[bd]|\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?"
    r")$"
)
"""Names of tensors that only a change of weights has: LoRA and its relatives."""

_CONTEXT = re.compile(r"attn2[._](?:processor\.)?to_[kv](?:_lora)?[._].*")
_FLUX = re.compile(
    r"single_transformer_blocks|double_blocks|single_blocks|(?:^|[._])(?:img_in|txt_in|time_in|vector_in|guidance_in)[._]"
)
_SD3 = re.compile(
    r"joint_blocks|transformer_blocks[._]\d+[._]attn2?[._](?:add_|to_add_out)|transformer_blocks_\d+_attn_add"
)
_UNET = re.compile(
    r"(?:down|up|mid|input|output|middle)_blocks?[._]|^(?:lora_unet_|unet\.)(?:conv_|time_embed|label_emb|out_)"
)
_ENCODER = re.compile(
    r"^(?:lora_te\d?_|text_encoder(?:_[23])?\.|text_encoders\.|te\d?\.|clip_[lg]\.|t5(?:xxl)?\.|lora_prior_te_)"
)
_TRANSFORMER = re.compile(
    r"transformer_blocks[._]\d+[._](?:attn2?|ff|ff_context|norm1|norm1_context)[._]"
    r"|(?:^|[._])(?:x_embedder|context_embedder|proj_out|norm_out|time_text_embed|final_layer|[ty]_embedder)[._]"
)
_OTHERS = (
    (re.compile(r"img_mod|txt_mod|transformer_blocks[._]\d+[._]img_mlp"), "Qwen-Image"),
    (re.compile(r"single_stream_modulation|double_stream_modulation"), "FLUX.2"),
    (re.compile(r"distilled_guidance_layer"), "Chroma"),
    (re.compile(r"blocks[._]\d+[._](?:self_attn|cross_attn)[._]"), "Wan"),
    (re.compile(r"individual_token_refiner|double_blocks\.\d+\.(?:img|txt)_attn_qkv"), "HunyuanVideo"),
    (re.compile(r"layers[._]\d+[._](?:attention|feed_forward|adaLN)"), "Lumina 2 or Z-Image"),
    (re.compile(r"motion_modules"), "AnimateDiff"),
    (re.compile(r"clf|effnet|lora_prior_unet"), "Stable Cascade"),
)
_VERSIONS = (
    # The shipped models, as `pipelines.training.adapters` writes them.
    (re.compile(r"^stepwise-emoji-128-flow\b"), ("sd3", "emoji-128-flow")),
    (re.compile(r"^stepwise-emoji-128\b"), ("sd", "emoji-128")),
    (re.compile(r"^stepwise-emoji\b"), ("sd", "emoji")),
    (re.compile(r"sdxl|stable-diffusion-xl|pony|illustrious|noob", re.IGNORECASE), ("sdxl", "sdxl")),
    (re.compile(r"sd3|stable-diffusion-3|stable-diffusion-v3", re.IGNORECASE), ("sd3", "sd3")),
    (re.compile(r"flux", re.IGNORECASE), ("flux", "flux1")),
    (re.compile(r"sd_?v?2|stable-diffusion-v2", re.IGNORECASE), ("sd", "sd2")),
    (re.compile(r"sd_?v?1|stable-diffusion-v1", re.IGNORECASE), ("sd", "sd1")),
)
_VERSION_FIELDS = ("modelspec.architecture", "ss_base_model_version", "ot_model_type", "base_model")
_WEIGHTLESS = re.compile(r"\.(?:alpha|on_input|rescale|scale|dora_scale)$|^bundle_emb\.")


def lora_kind(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], widths: Mapping[int, tuple[str, str]]
) -> tuple[str, str, str]:
    """Return (family, base, note) of a LoRA.

    Args:
        tensors, metadata: of its header.
        widths: of the text that a UNet's cross-attention reads, to (family, base).

    Returns:
        The family is "" where nothing tells it; the note is why it cannot be used, as a sentence, or "".
    """
    names = [name for name in tensors if not _WEIGHTLESS.search(name)]
    family, base = _find_family(tensors, names, widths)
    if not family:
        family, base = _read_version(metadata)
    is_known = family or any(pattern.search(name) for name in names for pattern in (_UNET, _ENCODER, _TRANSFORMER))
    foreign = "" if is_known and not _find_other_model(names) else _explain_model(names)
    return family, base, explain_kind(tensors) or foreign or explain_tensors(tensors)


def _find_other_model(names: list[str]) -> str:
    return next((model for pattern, model in _OTHERS if any(pattern.search(name) for name in names)), "")


def _find_family(
    tensors: Mapping[str, Tensor], names: list[str], widths: Mapping[int, tuple[str, str]]
) -> tuple[str, str]:
    """Transformers are recognized by the names of their blocks, UNets by the width of the text they read."""
    other = _find_other_model(names)
    if not other and any(_FLUX.search(name) for name in names):
        return "flux", "flux1"
    if not other and any(_SD3.search(name) for name in names):
        return "sd3", "sd3"
    by_width = _find_by_width(tensors, widths)
    if by_width:
        return by_width
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) and "SelfAttention" not in name for name in names):
        return "sdxl", "sdxl"
    if any(re.search(r"transformer_blocks[._][2-9][._]attn", name) and _UNET.search(name) for name in names):
        return "sdxl", "sdxl"
    return "", ""


def _find_by_width(tensors: Mapping[str, Tensor], widths: Mapping[int, tuple[str, str]]) -> tuple[str, str] | None:
    for name, tensor in tensors.items():
        width = 0
        if (
            _CONTEXT.search(name) and len(tensor.shape) == 2 and re.search(r"(?:down|lora_A(?:\.\w+)?)\.weight$", name)
        ) or (_CONTEXT.search(name) and re.search(r"hada_w[12]_b$|\.diff$", name) and len(tensor.shape) == 2):
            width = tensor.shape[1]
        if width in widths:
            return widths[width]
    return None


def _read_version(metadata: Mapping[str, str]) -> tuple[str, str]:
    for field in _VERSION_FIELDS:
        for pattern, kind in _VERSIONS:
            if pattern.search(metadata.get(field, "")):
                return kind
    return "", ""


def _explain_model(names: list[str]) -> str:
    model = _find_other_model(names)
    what = f"made for {model}" if model else "made for a model that is not known here"
    return f"It is {what}; LoRAs are applied to Stable Diffusion 1 to 3.5, SDXL and FLUX.1."
