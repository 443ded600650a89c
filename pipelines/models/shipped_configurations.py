"""Configurations and CLIP's vocabulary that come with the program: single files of SD and SDXL need no hub.

Source of the numbers: CompVis/stable-diffusion `configs/stable-diffusion/v1-inference.yaml`,
Stability-AI/stablediffusion `configs/stable-diffusion/v2-inference-v.yaml`, Stability-AI/generative-models
`configs/inference/sd_xl_base.yaml`; OpenAI's CLIP ViT-L/14, and OpenCLIP's ViT-H-14 and ViT-bigG-14. The vocabulary is
that of OpenAI's CLIP: 256 bytes, each in the middle and at the end of a word, 48,894 merges in order, and two marks.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.models.files import read_json

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

__all__ = ["CONFIGURATIONS", "find_shipped_configuration", "load_light_part", "read_clip_vocabulary"]

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "assets" / "configurations"
_MERGES = CONFIGURATIONS / "clip" / "merges.txt.gz"
_MARKS = ("<|startoftext|>", "<|endoftext|>")


def find_shipped_configuration(base: str) -> Path | None:
    """Return the folder of configurations for a kind of single file, e.g. "sd1"; None where none is shipped."""
    folder = CONFIGURATIONS / base
    return folder if base and (folder / "model_index.json").is_file() else None


def load_light_part(part_type: Any, folder: Path) -> Any:
    """Load a tokenizer, scheduler or processor from its folder; a shipped tokenizer's with the shipped vocabulary."""
    if folder.is_relative_to(CONFIGURATIONS) and folder.name.startswith("tokenizer"):
        return _build_clip_tokenizer(part_type, folder)
    return part_type.from_pretrained(str(folder), local_files_only=True)


def _build_clip_tokenizer(part_type: type[Any], folder: Path) -> CLIPTokenizer:
    settings = read_json(folder / "tokenizer_config.json")
    del settings["tokenizer_class"]
    vocabulary, merges = read_clip_vocabulary()
    return part_type(vocab=vocabulary, merges=merges, **settings)


def read_clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read CLIP's vocabulary: ids by token, and the merges, the first of which is applied first."""
    lines = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    letters = _list_byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(first + second for first, second in merges)]
    return {token: number for number, token in enumerate((*tokens, *_MARKS))}, merges


def _list_byte_letters() -> list[str]:
    """The printable sign of each byte, in the vocabulary's order: those that print stand for themselves and come
    first, the others follow as the signs from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]
