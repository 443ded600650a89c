"""Train the flow transformer beside the 128 px UNet: `python -m pipelines.training.flow_transformer`.

A dual-stream transformer (MM-DiT) on the autoencoder of the model in --start, whose text encoder it begins from.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer, PreTrainedModel

from pipelines.emoji.objects import Catalog
from pipelines.training.caption_reader import CaptionReader
from pipelines.training.command_options import build_parser, read_options
from pipelines.training.composition_denoiser import SHEET_CAPTIONS, CompositionPool
from pipelines.training.denoiser import load_in_float32
from pipelines.training.flow_networks import (
    FLOW_PARTS,
    build_flow_networks,
    encode_for_transformer,
    load_flow_networks,
    transformer_recipe,
)
from pipelines.training.history import UNKNOWN, History, begin_run, continued, history_of, write_history
from pipelines.training.latents import fit_preview, save_preview
from pipelines.training.muon import Muon
from pipelines.training.objectives import assign_noise, learning_rate, stratified_logit_normal
from pipelines.training.recipes import Recipe, TransformerRecipe, catalog_for, find_recipe
from pipelines.training.tokenizer import encode_captions, write_slow_tokenizer
from pipelines.training.trainer import (
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
)

__all__ = ["FlowTransformerTask"]


class FlowTransformerTask:
    """Computes the loss of a rectified flow on compositions, and its export as a pipeline.

    Args:
        recipe: sizes and rates; its `transformer` is set.
        networks: ModuleDict of "transformer", "text_encoder" and "text_encoder_2".
        vae: a trained autoencoder, left as it is.
        tokenizer: of the captions.
        catalog: the objects.
        seed: of everything drawn.
        steps: length of the run, for the learning rate.
        history: what the first weights had seen; it is exported with the last ones.
        latents_file: keeps the latents of a run that goes on, or None.
    """

    sheet_captions = SHEET_CAPTIONS

    def __init__(
        self,
        recipe: Recipe,
        networks: torch.nn.ModuleDict,
        vae: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        catalog: Catalog,
        seed: int = 0,
        steps: int | None = None,
        history: History = UNKNOWN,
        latents_file: Path | None = None,
    ):
        self.recipe, self.shape = recipe, transformer_recipe(recipe)
        self.device = next(networks.parameters()).device
        reader = CaptionReader(self.shape.text_width, catalog.labels).to(self.device)
        networks["caption_reader"] = reader
        self.networks, self.tokenizer, self.history = networks, tokenizer, history
        self.vae = vae.eval().requires_grad_(False)
        self.seed, self.steps, self.batch = seed, steps or self.shape.steps, self.shape.batch
        transformer: Any = networks["transformer"]
        # the first and last layers and tables are not maps from features to features: Adam's steps suit them
        ends = [transformer.pos_embed.proj.weight, transformer.proj_out.weight]
        ends += [module.weight for module in networks.modules() if isinstance(module, torch.nn.Embedding)]
        ends += [reader.object.weight, reader.place.weight]
        numbers = {id(weight) for weight in ends}
        others = [weight for weight in networks.parameters() if id(weight) not in numbers]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": ends, "orthogonal": False}]
        self.optimizer = Muon(groups, lr=self.shape.learning_rate)
        denoiser = recipe.denoiser
        counts = (denoiser.pool, denoiser.first, denoiser.fresh)
        self.pool = CompositionPool(
            vae, catalog, recipe.size, *counts, seed, latents_file, denoiser.singles, denoiser.sizes
        )
        self._preview: dict[str, Any] | None = None

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        shape = self.shape
        return learning_rate(step, self.steps, shape.learning_rate, shape.warmup, shape.decay)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the error of the velocity on this batch, and the loss of reading the captions.

        Source: Liu et al., Flow Straight and Fast, arXiv 2209.03003, equation 1, between data (t = 0) and noise
            (t = 1); times as in Esser et al., arXiv 2403.03206, section 3.1 (logit-normal).
        """
        rng = np.random.default_rng([self.seed, step])
        latents, captions, compositions = self.pool.batch(step, self.batch, rng, self.shape.empty_captions)
        generator = generator_for(self.seed, step)
        noise = assign_noise(latents, torch.randn(latents.shape, generator=generator))
        times = stratified_logit_normal(self.batch, self.shape.time_mean, 1.0, generator).to(self.device)
        latents, noise = latents.to(self.device), noise.to(self.device)
        share = times.view(-1, 1, 1, 1)
        noisy = (1 - share) * latents + share * noise
        # a stock pipeline adds 256 empty tokens for the T5 that is absent, unless it is asked for none
        empty_tokens = 256 if rng.random() < self.shape.padded else 0
        tokens = encode_captions(self.tokenizer, captions).to(self.device)
        transformer: Any = self.networks["transformer"]
        width = transformer.config.joint_attention_dim
        context, pooled = encode_for_transformer(self.networks, tokens, width, empty_tokens)
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention has a slow backward on the CPU
            predicted = transformer(noisy, context, pooled, times * 1_000, return_dict=False)[0]
        reader: Any = self.networks["caption_reader"]
        written = context[:, : tokens.shape[1], : self.shape.text_width]
        misread = reader.loss(written, reader.targets(compositions, captions).to(self.device))
        error = (predicted.float() - (noise - latents)).square().mean()
        return error + self.shape.reading * misread

    def export(self, folder: Path) -> None:
        """Write a stock pipeline in half precision, with the preview's factors."""
        shutil.rmtree(folder, ignore_errors=True)
        rounded = {part: copy.deepcopy(self.networks[part]).half() for part in FLOW_PARTS}
        self._build_pipeline(rounded, copy.deepcopy(self.vae).half()).save_pretrained(folder)
        for part in ("tokenizer", "tokenizer_2"):
            write_slow_tokenizer(self.tokenizer, folder / part)
        for part in FLOW_PARTS[1:]:
            load_in_float32(folder / part / "config.json")
        if self._preview is None:
            self._preview = fit_preview(self.vae, self.pool.catalog, self.recipe.size)
        save_preview(self._preview, folder, max_sequence_length=0)
        write_history(folder, self.history)

    def sheet(self, path: Path) -> None:
        """Draw two pictures for each of a few fixed captions."""
        pipeline = self._build_pipeline({part: self.networks[part] for part in FLOW_PARTS}, self.vae)
        pipeline.set_progress_bar_config(disable=True)
        output = pipeline(
            list(self.sheet_captions),
            num_inference_steps=25,
            guidance_scale=4.0,
            output_type="pt",
            num_images_per_prompt=2,
            generator=torch.Generator().manual_seed(0),
            max_sequence_length=0,
        )
        picture_sheet(output.images.float()).save(path)

    def _build_pipeline(self, networks: dict[str, torch.nn.Module], vae: AutoencoderKL) -> StableDiffusion3Pipeline:
        vae.register_to_config(shift_factor=0.0)  # the pipeline adds it
        return StableDiffusion3Pipeline(
            **networks,
            vae=vae,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1_000, shift=self.shape.shift),
        )


def _adapt_recipe(options: argparse.Namespace) -> tuple[Recipe, TransformerRecipe]:
    """The recipe of this name with what the command line changes, and what it says of the transformer."""
    recipe = find_recipe(options.recipe)
    shape = transformer_recipe(recipe)
    shape = dataclasses.replace(
        shape,
        learning_rate=options.learning_rate or shape.learning_rate,
        padded=shape.padded if options.padded is None else options.padded,
    )
    denoiser = dataclasses.replace(recipe.denoiser, singles=options.singles, sizes=options.sizes)
    return dataclasses.replace(recipe, transformer=shape, denoiser=denoiser), shape


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = build_parser(__doc__, start="stock folder; with --fresh of Stable Diffusion", fresh="transformer weights")
    parser.add_argument("--padded", type=float, help="share of batches with the stock pipeline's empty tokens")
    options = read_options(parser, arguments)
    recipe, shape = _adapt_recipe(options)
    settings = settings_from(options, shape.steps, shape.ema)
    folder = options.run_dir / "flow_transformer"
    history = begin_run(folder, continued(history_of(options.start)))
    catalog, device = catalog_for(recipe), pick_device()
    build = build_flow_networks if options.fresh else load_flow_networks
    vae, tokenizer, networks = build(recipe, options.start)
    for part in FLOW_PARTS[1:]:
        # transformers' fused attention has a slow backward on the CPU
        cast("PreTrainedModel", networks[part]).set_attn_implementation("eager")
    task = FlowTransformerTask(
        recipe,
        networks.to(device),
        vae.to(device),
        tokenizer,
        catalog,
        options.seed,
        settings.steps,
        history,
        folder / "latents.safetensors",
    )
    train(task, folder, settings)


if __name__ == "__main__":
    main()
