"""Why a file or folder of the models folder is no model that can be used, as sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipelines.core.errors import ModelFileError
from pipelines.models.files import list_parts
from pipelines.models.folder_walk import EMBEDDINGS, LORAS, UPSCALERS, Kinds
from pipelines.weights.files import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES
from pipelines.weights.gguf_files import GGUF_INSTALL, has_gguf
from pipelines.weights.kinds import FileKind

__all__ = [
    "CHOSEN_BESIDE",
    "PLACES",
    "SHARD",
    "VISION_ENCODER",
    "explain_file",
    "explain_incomplete",
    "explain_part",
    "explain_shard",
    "explain_suffix",
    "read_class_name",
]

PLACES = {
    "lora": ("a LoRA", LORAS),
    "embedding": ("a textual-inversion embedding", EMBEDDINGS),
    "upscaler": ("an upscaler", UPSCALERS),
    "checkpoint": ("a checkpoint", "checkpoints"),
    "network": ("a model's denoising network", "diffusion_models"),
    "vae": ("a VAE", "vae"),
    "text_encoder": ("a text encoder", "text_encoders"),
}
"""What a file is called, and the folder where it belongs."""

CHOSEN_BESIDE = {
    "controlnet": "a ControlNet: choose it under ControlNet",
    "t2i_adapter": "a T2I-Adapter: choose it under T2I-Adapter",
    "ip_adapter": "an IP-Adapter: choose it under Picture as prompt",
}
"""What is no model and is chosen beside one."""

SHARD = re.compile(r"^(.*?)-\d{5}-of-\d{5}(.*)$")


def explain_suffix(path: Path) -> str:
    """Say why a file is not even opened, by its suffix; "" for those that are."""
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS_SUFFIXES or suffix in PICKLE_SUFFIXES or suffix == ".gguf":
        return ""
    if suffix in {".part", ".partial", ".crdownload", ".tmp", ".aria2", ".incomplete", ".download"}:
        return f"{path.name} is a download that has not ended. Let it finish, or download it again."
    if suffix in {".zip", ".7z", ".rar", ".tar", ".gz", ".xz"}:
        return f"{path.name} is an archive. Unpack it in the models folder."
    return f"{path.name} is not a safetensors or GGUF file, the only kinds of weights that are read."


VISION_ENCODER = "CLIPVisionModelWithProjection"


def explain_shard(path: Path) -> str:
    """Say what to do with one of several files of a network."""
    return (
        f"{path.name} is one of several files of a network by itself. Put it with its list (*.index.json) and its "
        "config.json into the model's diffusers folder."
    )


def explain_part(path: Path) -> str:
    """Say what a part of a diffusers model by itself is, and what to do with it."""
    if "ControlNet" in read_class_name(path.parent):
        return f"{path.parent.name} is {CHOSEN_BESIDE['controlnet']}, with a model that it fits."
    if read_class_name(path.parent) == "T2IAdapter":
        return f"{path.parent.name} is {CHOSEN_BESIDE['t2i_adapter']}, with a model that it fits."
    if VISION_ENCODER in read_class_name(path.parent):
        return f"{path.parent.name} is an image encoder, which IP-Adapters read pictures with."
    if read_class_name(path.parent).startswith("Autoencoder"):
        return f"{path.parent.name} is a VAE by itself: choose it under VAE, with a model that it fits."
    return (
        f"{path.parent.name}/{path.name} is one part of a diffusers model. Put its whole folder, with "
        "model_index.json, into the models folder."
    )


def read_class_name(folder: Path) -> str:
    """Return the class in diffusers or transformers that a part's configuration names; "" where it names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config.get("_class_name") or config.get("architectures") or "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def explain_file(path: Path, kind: FileKind, gguf: bool) -> str:
    """Say why a file by itself is no model, and what to do with it; "" where it is one.

    Args:
        path: of the file.
        kind: by its header.
        gguf: whether it is a GGUF file.
    """
    if kind.note:
        return f"{path.name} cannot be used by itself. {kind.note}"
    if kind.what in CHOSEN_BESIDE:
        return f"{path.name} is {CHOSEN_BESIDE[kind.what]}, with a model that it fits."
    if kind.what in {"lora", "embedding", "upscaler"}:
        what, place = PLACES[kind.what]
        return f"{path.name} is {what}. Move it into the folder '{place}'."
    if gguf and not has_gguf() and (kind.family or kind.what in {"vae", "text_encoder"}):
        return f"{path.name} is a GGUF file, which needs the package gguf. Install it with: {GGUF_INSTALL}"
    if kind.what == "vae":
        return f"{path.name} is a VAE by itself: choose it under VAE. Models that lack one are completed with it."
    if kind.what == "text_encoder":
        return f"{path.name} is {PLACES[kind.what][0]} by itself. Models that lack one are completed with it."
    if not kind.family:
        return f"{path.name} is none of the checkpoints known here: Stable Diffusion 1 to 3.5, SDXL, FLUX.1."
    return ""


def explain_incomplete(folder: Path, kinds: Kinds) -> str:
    """Explain why a folder's files do not make its parts, as a sentence; "" where they do. Only headers are read."""
    try:
        parts = list_parts(folder, {}, ("", "fp16"))
        for weights in (path for part in parts.values() if part for path in part.weights):
            kinds.kind(weights)
    except ModelFileError as error:
        return str(error)
    return ""
