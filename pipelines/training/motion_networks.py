"""The motion modules around a frozen UNet, and the few rows of the text encoder that say what moves where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.training.tokenizer import encode_captions

__all__ = ["WORDS", "WordRows", "at_places", "build_adapter", "join", "load_adapter", "motion_rows", "write_rows"]

WORDS = ("moving", "up", "down", "growing", "shrinking", "bouncing")
"""Words that no caption of a picture has; "left" and "right" are known from two objects and stay as they are."""
_COMMON = frozenset(("ing</w>", "s", "h", "k", "c"))
"""Pieces of them that many other unknown words have: left alone."""
_TABLE = "embeddings.token_embedding.weight"


def build_adapter(unet: UNet2DConditionModel, frames: int) -> MotionAdapter:
    """Build fresh motion modules for the shipped UNet that at first change nothing.

    Attention in time stands where the pixels are few, at the middle level and in the middle block; the other levels
    have modules without it, two linear layers each, since diffusers has a module after every block.

    Args:
        unet: of three levels.
        frames: most frames of a clip.
    """
    adapter = MotionAdapter(
        block_out_channels=tuple(unet.config.block_out_channels),
        motion_layers_per_block=unet.config.layers_per_block,
        motion_transformer_layers_per_block=(0, 1, 0),
        motion_num_attention_heads=4,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=frames,
        use_motion_mid_block=True,
    )
    for module in adapter.modules():
        if hasattr(module, "proj_out"):
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    return _freeze_first(adapter)


def load_adapter(folder: Path) -> MotionAdapter:
    """Load motion modules in float32 to train them on.

    Args:
        folder: of a stock MotionAdapter.
    """
    return _freeze_first(MotionAdapter.from_pretrained(folder, dtype=torch.float32))


def _freeze_first(adapter: MotionAdapter) -> MotionAdapter:
    """There is nothing to learn before the first words and the first other frames."""
    adapter.down_blocks[0].requires_grad_(False)
    return adapter


def join(unet: UNet2DConditionModel, adapter: MotionAdapter) -> UNetMotionModel:
    """Return the UNet with the adapter's own modules in it; only these ask for gradients."""
    asks = {name: weight.requires_grad for name, weight in adapter.named_parameters()}
    joined = UNetMotionModel.from_unet2d(unet, adapter).requires_grad_(False)
    for name, weight in adapter.named_parameters():
        weight.requires_grad_(asks[name])
    for blocks, modules in ((joined.down_blocks, adapter.down_blocks), (joined.up_blocks, adapter.up_blocks)):
        for block, holder in zip(blocks, modules, strict=True):
            block.motion_modules = holder.motion_modules
    joined.mid_block.motion_modules = adapter.mid_block.motion_modules
    # PyTorch's fused attention has a slow backward on the CPU
    joined.set_attn_processor(AttnProcessor())
    return joined


@contextlib.contextmanager
def at_places(adapter: torch.nn.Module, places: torch.Tensor) -> Iterator[None]:
    """Have the modules take a clip's frames for those at these places in time, within the block.

    Args:
        adapter: has sinusoidal embeddings of places.
        places: (F,), int64, rising.
    """
    embeddings = [module for module in adapter.modules() if isinstance(module, SinusoidalPositionalEmbedding)]
    whole = [module.pe for module in embeddings]
    try:
        for module in embeddings:
            module.pe = module.pe[:, places]
        yield
    finally:
        for module, table in zip(embeddings, whole, strict=True):
            module.pe = table


def motion_rows(tokenizer: CLIPTokenizer) -> list[int]:
    """Return the token numbers of the motion words' own pieces."""
    pieces = {piece for word in WORDS for piece in tokenizer.tokenize(word)} - _COMMON
    return sorted(cast("list[int]", tokenizer.convert_tokens_to_ids(sorted(pieces))))


class WordRows(torch.nn.Module):
    """Learns rows of a text encoder's table of tokens; all else of it stays as it is.

    Args:
        text_encoder: frozen.
        tokenizer: its own.
    """

    def __init__(self, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer):
        super().__init__()
        self._frozen = [text_encoder.eval().requires_grad_(False), tokenizer]  # in a list: no parts of this module
        self.numbers = motion_rows(tokenizer)
        table = text_encoder.get_parameter(_TABLE).detach()
        self.rows = torch.nn.Parameter(table[self.numbers].clone())

    def forward(self, captions: list[str]) -> torch.Tensor:
        """Encode captions with the rows as they are: (B, tokens, width)."""
        text_encoder, tokenizer = self._frozen
        table = text_encoder.get_parameter(_TABLE).detach().clone()
        table[self.numbers] = self.rows
        tokens = encode_captions(tokenizer, captions).to(table.device)
        return torch.func.functional_call(text_encoder, {_TABLE: table}, (tokens,))[0]


def write_rows(words: WordRows, text_encoder: CLIPTextModel, folder: Path) -> None:
    """Write the text encoder with the learned rows in half precision; every other number of it is unchanged."""
    text_encoder.get_parameter(_TABLE).data[words.numbers] = words.rows.detach().to(text_encoder.dtype)
    text_encoder.save_pretrained(folder)
