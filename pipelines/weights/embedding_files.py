"""Files of textual inversion: which they are by their header, and their vectors.

The layouts are those of AUTOMATIC1111 and kohya ("emb_params"), diffusers (one tensor by the word's name), SDXL's and
SD3's ("clip_l", "clip_g", "t5xxl"), and of OneTrainer's LoRA files ("bundle_emb.<word>.<layout>").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core.errors import ModelFileError
from pipelines.weights.files import Tensor, read_full_header

if TYPE_CHECKING:
    import torch


__all__ = ["bundled_embeddings", "embedding_kind", "fits_width", "read_bundled", "read_embedding", "write_embedding"]

_WIDTHS = {768: ("sd", "sd1"), 1024: ("sd", "sd2"), 1280: ("sdxl", "sdxl")}
_SHIPPED_WIDTHS = {192: ("sd", "emoji"), 256: ("sd", "emoji-128")}
"""Of the shipped models' text encoders. A lone tensor of such a width under any name is no embedding yet."""

_CLIP_L = ("clip_l", "text_encoders.clip_l", "emb_params", "string_to_param.*", "string_to_param", "vector", "weight")
_CLIP_G = ("clip_g", "text_encoders.clip_g")
_T5 = ("t5xxl", "t5", "text_encoders.t5xxl")
_KNOWN = {*_CLIP_L, *_CLIP_G, *_T5}
_BUNDLE = "bundle_emb."


def embedding_kind(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return (family, base) of an embedding by its header, None where the file is none."""
    if not 1 <= len(tensors) <= len(_KNOWN):
        return None
    is_numeric = all(
        tensor.dtype.startswith(("F", "BF")) and len(tensor.shape) in {1, 2} for tensor in tensors.values()
    )
    has_known_names = tensors.keys() <= _KNOWN
    (first, *more) = tensors.values()
    by_word = not more and bool(first.shape) and first.shape[-1] in _WIDTHS
    if not is_numeric or not (has_known_names or by_word):
        return None
    if tensors.keys() & set(_T5):
        return "sd3", "sd3"
    if tensors.keys() & set(_CLIP_G):
        return "sdxl", "sdxl"
    return (_WIDTHS | _SHIPPED_WIDTHS).get(first.shape[-1], ("", ""))


def fits_width(base: str, width: int) -> bool:
    """Whether an embedding of this base has vectors of a text encoder's width, as far as its base tells."""
    widths = {name: number for number, (_, name) in (_WIDTHS | _SHIPPED_WIDTHS).items() if name != "sdxl"}
    return widths.get(base, width) == width


def read_embedding(path: Path) -> dict[str, torch.Tensor]:
    """Read an embedding's vectors by part: "clip_l", "clip_g" or "t5", each (n, width), in float32.

    Raises:
        ModelFileError: the file is none, or holds no embedding.
    """
    from pipelines.weights.reading import TensorReader

    header = read_full_header(path)
    if embedding_kind(header.tensors) is None:
        raise ModelFileError(f"{path.name} is not an embedding. Choose a textual-inversion file in safetensors form.")
    with TensorReader(path, header) as reader:
        return _sort_by_part({name: reader.read(name) for name in header.tensors}, path.name)


def write_embedding(vectors: torch.Tensor, path: Path) -> None:
    """Write vectors (n, width) of a CLIP as AUTOMATIC1111 and kohya name them, whole or not at all.

    Raises:
        ModelFileError: the file cannot be written.
    """
    from safetensors.torch import save_file

    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"emb_params": vectors.detach().float().cpu().contiguous()}, part)
        part.replace(path)
    except OSError as error:
        raise ModelFileError(f"{path.name} cannot be written ({error.strerror}). Make room, and try again.") from error


def read_bundled(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Read the embeddings in a LoRA's file, by word; nothing else of it is read.

    Raises:
        ModelFileError: an embedding is of a form that is not read.
    """
    from pipelines.weights.reading import TensorReader

    header = read_full_header(path)
    names = [name for name in header.tensors if name.startswith(_BUNDLE)]
    with TensorReader(path, header) as reader:
        return bundled_embeddings({name: reader.read(name) for name in names}, path.name)


def bundled_embeddings(tensors: Mapping[str, torch.Tensor], file: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the embeddings that OneTrainer puts into a LoRA's file, by word.

    Args:
        tensors: of the whole file; those of the LoRA are left out.
        file: its name, for messages.

    Raises:
        ModelFileError: an embedding is of a form that is not read.
    """
    words: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_BUNDLE):
            # The word itself may have dots; the layout's own names are known.
            word, layout = next(
                (
                    (name[len(_BUNDLE) : -len(end) - 1], end)
                    for end in sorted(_KNOWN, key=len, reverse=True)
                    if name.endswith(f".{end}")
                ),
                (name.removeprefix(_BUNDLE).rpartition(".")[0], name.rpartition(".")[2]),
            )
            words.setdefault(word, {})[layout] = tensor
    return {word: _sort_by_part(parts, f"{file} (its embedding {word!r})") for word, parts in words.items()}


def _sort_by_part(tensors: Mapping[str, torch.Tensor], file: str) -> dict[str, torch.Tensor]:
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        part = "clip_g" if name in _CLIP_G else "t5" if name in _T5 else "clip_l"
        if name.endswith("_out"):
            raise ModelFileError(
                f"{file} holds output embeddings ({name}), which are not applied here. Save it with input embeddings."
            )
        vectors = tensor.float()
        if not bool(vectors.isfinite().all()):
            raise ModelFileError(f"The embedding {file} holds NaN or infinity. Its file is broken: get it again.")
        parts[part] = vectors[None] if vectors.ndim == 1 else vectors
    return parts
