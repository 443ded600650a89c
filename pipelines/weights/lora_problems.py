"""Why a LoRA's tensors cannot be added to a model, read from its file's header alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipelines.weights.files import Tensor
from pipelines.weights.lora_parts import BUNDLED, kind_of, split_key

__all__ = ["explain_kind", "explain_tensors"]

_KINDS = (
    (r"\.oft_R(?:\.[\w-]+)?\.weight$|\.oft_r$", "OFT as PEFT writes it"),
    (r"\.oft_diag$", "OFT with diagonal blocks"),
    (r"\.[ab][12]\.weight$", "GLoRA"),
    (r"\.vera_lambda_[bd](?:\.[\w-]+)?$", "VeRA"),
    (r"\.lora_(?:up|down)\.mid\.weight$|\.lora_E(?:\.[\w-]+)?$", "AdaLoRA"),
    (r"\.lora_embedding_[AB](?:\.[\w-]+)?$", "LoRA of a table of words"),
)
_OTHER_KINDS = "which is not applied here. Use one of the kind LoRA, LoHa, LoKr, DoRA, (IA)^3 or OFT."
_FLUX_INPUT = re.compile(r"(?:^|[._])(?:img_in|x_embedder)\.lora_(?:A|down)(?:\.[\w-]+)?\.weight$")
_FLUX_CHANNELS = 64
"""Of FLUX.1's packed latents; what follows a given picture takes those of the picture too."""

_FACTORS = (("up", "down"), ("w1_a", "w1_b"), ("w2_a", "w2_b"), ("lokr_w1_a", "lokr_w1_b"), ("lokr_w2_a", "lokr_w2_b"))
"""Parts that are multiplied: the first one's columns are the second one's rows."""


def explain_kind(tensors: Mapping[str, Tensor]) -> str:
    """Explain why this way of changing weights is not applied here, as a sentence; "" where it is."""
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in tensors):
            return f"It is of the kind {kind}, {_OTHER_KINDS}"
    if any(name.endswith(".oft_blocks") and len(tensor.shape) == 4 for name, tensor in tensors.items()):
        return f"It is of the kind BOFT, {_OTHER_KINDS}"
    return ""


def explain_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Explain why some of a LoRA's tensors cannot be added, as a sentence; "" where all can.

    Args:
        tensors: of the header of a file that is a LoRA for a family known here.
    """
    channels = [tensor.shape[1] for name, tensor in tensors.items() if _FLUX_INPUT.search(name)]
    if any(count > _FLUX_CHANNELS for count in channels):
        return (
            "It makes FLUX.1 follow a given picture (Depth, Canny, Fill or the like), which is not offered here. "
            "Use a LoRA for text to image."
        )
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(BUNDLED):
            if name.endswith("_out"):
                return (
                    f"Its embedding {name.removeprefix(BUNDLED)[:60]!r} is one of outputs, which is not applied here. "
                    "Save it with input embeddings."
                )
            continue
        if name.startswith(("vae.", "first_stage_model.", "lora_vae_")):
            return "It changes the VAE, which is not done here. Use a LoRA of the denoising network."
        split = split_key(name)
        if split is None:
            return f"Its tensor {name[:120]!r} is of a kind {_OTHER_KINDS}"
        layers.setdefault(split[0], {})[split[1]] = tensor
    return next(filter(None, (_explain_layer(path, parts) for path, parts in layers.items())), "")


def _explain_layer(path: str, parts: Mapping[str, Tensor]) -> str:
    again = f"It is incomplete or damaged at {path[:120]!r}. Get the file again."
    weights = {name: part for name, part in parts.items() if name not in {"alpha", "up_bias", "diff_b"}}
    if weights and kind_of(weights.keys()) is None:
        return again
    if any(part.dtype.startswith(("I", "U")) for part in weights.values()):
        return (
            f"Its weights at {path[:120]!r} are packed into whole numbers, which is not read here. Get its fp16 file."
        )
    if "alpha" in parts and parts["alpha"].count != 1:
        return again
    for first, second in _FACTORS:
        if first in parts and second in parts and "mid" not in parts and "lokr_t2" not in parts and "t1" not in parts:
            left, right = parts[first].shape, parts[second].shape
            if len(left) < 2 or len(right) < 2 or left[1] != right[0] or not left[1]:
                return again
    return ""
