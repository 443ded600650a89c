"""Networks of the denoiser: fresh ones of a recipe's shape, and those of a stock pipeline's folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipelines.emoji.objects import Catalog
from pipelines.models.files import part_folder
from pipelines.training.fit import PARTS, require_fit
from pipelines.training.recipes import DenoiserRecipe, Recipe
from pipelines.training.tokenizer import caption_corpus, train_tokenizer

__all__ = ["build_text_encoder", "build_unet", "fresh_networks", "load_networks", "noise_schedule"]


def noise_schedule(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Build Stable Diffusion's schedule: scaled-linear, 1,000 steps; what is predicted is by default the noise."""
    return DDIMScheduler(
        num_train_timesteps=1_000,
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
    )


def build_unet(recipe: DenoiserRecipe, latent_channels: int, sample_size: int):
    """Build a fresh UNet2DConditionModel of the recipe's shape."""
    down = tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in recipe.attention)
    up = tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(recipe.attention))
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=recipe.widths,
        layers_per_block=recipe.layers,
        attention_head_dim=recipe.heads,
        cross_attention_dim=recipe.text_width,
        norm_num_groups=recipe.norm_groups,
    )


def build_text_encoder(recipe: DenoiserRecipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a fresh CLIPTextModel of the recipe's shape for the tokenizer's vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=recipe.text_hidden,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        max_position_embeddings=recipe.tokens,
        projection_dim=recipe.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def load_networks(recipe: Recipe, start: Path) -> tuple[AutoencoderKL, CLIPTokenizer, torch.nn.ModuleDict]:
    """Load autoencoder, tokenizer and networks of a stock pipeline's folder, in float32.

    Raises: TrainingError when a part is missing or does not fit the recipe.
    """
    require_fit(start, recipe, PARTS)
    vae = AutoencoderKL.from_pretrained(part_folder(start, "vae"), dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    unet = UNet2DConditionModel.from_pretrained(start / "unet", dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    networks = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    return vae, tokenizer, networks


def fresh_networks(
    recipe: Recipe, catalog: Catalog, start: Path, folder: Path
) -> tuple[AutoencoderKL, CLIPTokenizer, torch.nn.ModuleDict]:
    """Build random networks and a new tokenizer, for the autoencoder in `start`.

    Args:
        recipe: the networks' shape.
        catalog: the captions' words.
        start: a folder with a trained "vae".
        folder: receives the tokenizer; one that is there is used again.
    Raises: TrainingError when `start` has no autoencoder of the recipe, or the tokenizer that is
        there is of another.
    """
    require_fit(start, recipe, ("vae",))
    vae = AutoencoderKL.from_pretrained(part_folder(start, "vae"), dtype=torch.float32)
    if (folder / "tokenizer.json").is_file():
        require_fit(folder.parent, recipe, (folder.name,))
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    else:
        shape = recipe.denoiser
        tokenizer = train_tokenizer(caption_corpus(catalog), shape.vocabulary, shape.tokens, folder)
    latent_size = recipe.size // recipe.autoencoder.factor
    unet = build_unet(recipe.denoiser, vae.config.latent_channels, latent_size)
    text_encoder = build_text_encoder(recipe.denoiser, tokenizer)
    networks = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    return vae, tokenizer, networks
