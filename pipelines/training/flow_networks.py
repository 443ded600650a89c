"""Networks of the flow transformer: fresh ones of a recipe's shape, and those of a stock pipeline's folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.core.errors import TrainingError
from pipelines.models.files import part_folder
from pipelines.training.fit import require_fit
from pipelines.training.recipes import RECIPES, Recipe, TransformerRecipe

__all__ = [
    "FLOW_PARTS",
    "build_flow_networks",
    "build_text_encoders",
    "build_transformer",
    "encode_for_transformer",
    "load_flow_networks",
    "transformer_recipe",
]

FLOW_PARTS = ("transformer", "text_encoder", "text_encoder_2")


def transformer_recipe(recipe: Recipe) -> TransformerRecipe:
    """Return the transformer's part of a recipe. Raises: TrainingError when it has none."""
    if recipe.transformer is None:
        names = ", ".join(name for name, item in RECIPES.items() if item.transformer is not None)
        raise TrainingError(f"The recipe {recipe.name!r} has no transformer. Choose one of: {names}.")
    return recipe.transformer


def build_transformer(recipe: TransformerRecipe, latent_channels: int, latent_size: int) -> SD3Transformer2DModel:
    """Build a fresh transformer whose blocks and last layer begin at zero.

    Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, section 4 (the MM-DiT block);
        Peebles and Xie, arXiv 2212.09748, section 3.2: blocks that begin as the identity (adaLN-Zero).
    """
    transformer = SD3Transformer2DModel(
        sample_size=latent_size,
        patch_size=recipe.patch,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=recipe.layers,
        attention_head_dim=recipe.width // recipe.heads,
        num_attention_heads=recipe.heads,
        joint_attention_dim=recipe.text_width + recipe.words_width,
        caption_projection_dim=recipe.width,
        pooled_projection_dim=recipe.text_width + recipe.words_width,
        pos_embed_max_size=2 * latent_size // recipe.patch,
        qk_norm="rms_norm",
    )
    for block in transformer.transformer_blocks:
        for layer in (block.norm1.linear, block.norm1_context.linear):
            torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    for layer in (transformer.norm_out.linear, transformer.proj_out):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    return transformer


def build_text_encoders(
    recipe: TransformerRecipe, start: CLIPTextModel
) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
    """Build the two CLIPs: the trained encoder with one layer more, and a table of words.

    The stock pipeline reads the layer before a CLIP's last one. So the first encoder keeps all layers of `start` and
    gets another, which only its pooled output passes through; the second has one layer, and what the transformer reads
    of it are the embeddings of the words themselves.
    """
    facts, depth = start.config.to_dict(), start.config.num_hidden_layers
    deeper = {"num_hidden_layers": depth + 1, "projection_dim": recipe.text_width}
    text_encoder = CLIPTextModelWithProjection(CLIPTextConfig(**facts | deeper))
    state = {f"text_model.{name}": value for name, value in start.state_dict().items()}
    last, further = (f"text_model.encoder.layers.{number}." for number in (depth - 1, depth))
    state |= {name.replace(last, further): value for name, value in state.items() if name.startswith(last)}
    state["text_projection.weight"] = torch.eye(recipe.text_width)
    text_encoder.load_state_dict(state)
    words = {
        "hidden_size": recipe.words_width,
        "intermediate_size": 2 * recipe.words_width,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "projection_dim": recipe.words_width,
    }
    return text_encoder, CLIPTextModelWithProjection(CLIPTextConfig(**facts | words))


def build_flow_networks(recipe: Recipe, start: Path) -> tuple[AutoencoderKL, CLIPTokenizer, torch.nn.ModuleDict]:
    """Build a fresh transformer on the autoencoder and the text encoder of a Stable Diffusion folder.

    Raises: TrainingError when a part is missing or does not fit the recipe.
    """
    require_fit(start, recipe, ("vae", "tokenizer", "text_encoder"))
    vae = AutoencoderKL.from_pretrained(part_folder(start, "vae"), dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    first, second = build_text_encoders(transformer_recipe(recipe), text_encoder)
    latent_size = recipe.size // recipe.autoencoder.factor
    transformer = build_transformer(transformer_recipe(recipe), vae.config.latent_channels, latent_size)
    networks = {"transformer": transformer, "text_encoder": first, "text_encoder_2": second}
    return vae, tokenizer, torch.nn.ModuleDict(networks)


def load_flow_networks(recipe: Recipe, start: Path) -> tuple[AutoencoderKL, CLIPTokenizer, torch.nn.ModuleDict]:
    """Load autoencoder, tokenizer and networks of a stock flow pipeline's folder, in float32.

    Raises: TrainingError when a part is missing or does not fit the recipe.
    """
    require_fit(start, recipe, ("vae", "tokenizer", "text_encoder"))
    vae = AutoencoderKL.from_pretrained(part_folder(start, "vae"), dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    classes = (SD3Transformer2DModel, CLIPTextModelWithProjection, CLIPTextModelWithProjection)
    loaded = {
        part: kind.from_pretrained(start / part, dtype=torch.float32)
        for part, kind in zip(FLOW_PARTS, classes, strict=True)
    }
    return vae, tokenizer, torch.nn.ModuleDict(loaded)


def encode_for_transformer(
    networks: torch.nn.ModuleDict, tokens: torch.Tensor, width: int, empty_tokens: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode captions as StableDiffusion3Pipeline does where the T5 is absent.

    Args:
        networks: holds "text_encoder" and "text_encoder_2".
        tokens: (B, T) integers, padded.
        width: of the transformer's context, at least that of both encoders together.
        empty_tokens: rows of zeros in the T5's place; the pipeline's `max_sequence_length`.
    Returns: (B, T + empty_tokens, width) and the pooled (B, P).
    """
    outputs = [networks[part](tokens, output_hidden_states=True) for part in FLOW_PARTS[1:]]
    context = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
    return torch.nn.functional.pad(context, (0, width - context.shape[-1], 0, empty_tokens)), pooled
