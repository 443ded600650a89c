"""Train the UNet and the text encoder together: `python -m pipelines.training.denoiser`."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTokenizer

from pipelines.emoji.captions import caption
from pipelines.emoji.objects import Catalog
from pipelines.training.denoiser_networks import fresh_networks, load_networks, noise_schedule
from pipelines.training.fit import MODEL, PARTS, choose_folder, require_fit
from pipelines.training.history import FRESH, UNKNOWN, History, begin_run, continued, history_of, write_history
from pipelines.training.latents import LatentPool, fit_preview, save_preview
from pipelines.training.objectives import learning_rate, min_snr_loss
from pipelines.training.recipes import Recipe, catalog_for, find_recipe
from pipelines.training.tokenizer import encode_captions, write_slow_tokenizer
from pipelines.training.trainer import (
    add_arguments,
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
    use_threads,
)

__all__ = ["DenoiserTask", "load_in_float32"]

SHEET_CAPTIONS = (
    "a fox on a blue background",
    "a cat face on a pink background",
    "a puppy on a red background",
    "a rocket on a black background",
    "a red heart on a white background",
    "a penguin on an orange background",
    "a sunflower on a purple background",
    "a house on a green background",
    "a cat face left of a red heart on a green background",
    "a panda left of a banana on a teal background",
    "a car right of a tree on a gray background",
    "a fish left of a robot on a yellow background",
)


class DenoiserTask:
    """Computes the loss of the denoiser on latents drawn beforehand, and its export as a pipeline.

    Args:
        recipe: sizes and rates.
        networks: ModuleDict of "unet" and "text_encoder".
        vae: a trained autoencoder, left as it is.
        tokenizer: of the captions.
        catalog: the objects.
        seed: of everything drawn.
        steps: length of the run, for the learning rate.
        history: what the first weights had seen; it is exported with the last ones.
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
    ):
        self.recipe, self.shape = recipe, recipe.denoiser
        self.networks, self.tokenizer, self.history = networks, tokenizer, history
        self.vae = vae.eval().requires_grad_(False)
        self.seed, self.steps = seed, steps or recipe.denoiser.steps
        self.batch = recipe.denoiser.batch
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            networks.parameters(),
            lr=self.shape.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self.pool = LatentPool(vae, catalog, recipe.size, self.shape.pool, self.shape.pairs, seed)
        self.device = next(networks.parameters()).device
        if self.device.type == "cpu":
            # PyTorch's fused attention has a slow backward there: this trains a quarter faster
            cast("UNet2DConditionModel", networks["unet"]).set_attn_processor(AttnProcessor())
        self.scheduler = noise_schedule()
        self.alphas_cumprod = self.scheduler.alphas_cumprod.to(self.device)
        self._preview: dict[str, torch.Tensor] | None = None

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        shape = self.shape
        return learning_rate(step, self.steps, shape.learning_rate, shape.warmup, shape.decay)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the min-SNR weighted error of the predicted noise on this step's batch."""
        latents, captions = self._draw_batch(step)
        generator = generator_for(self.seed, step)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        # one timestep in each of B equal parts: less variance than independent ones
        positions = torch.arange(self.batch) + torch.rand(self.batch, generator=generator)
        timesteps = (positions / self.batch * 1_000).long().clamp(max=999).to(self.device)
        alphas = self.alphas_cumprod[timesteps]
        scale = alphas.view(-1, 1, 1, 1)
        noisy = scale.sqrt() * latents + (1 - scale).sqrt() * noise
        embeds = self.networks["text_encoder"](self._tokenize(captions))[0]
        predicted = self.networks["unet"](noisy, timesteps, embeds, return_dict=False)[0]
        return min_snr_loss(predicted, noise, alphas, self.shape.min_snr)

    def export(self, folder: Path) -> None:
        """Write a stock pipeline in half precision, with the preview's factors."""
        shutil.rmtree(folder, ignore_errors=True)
        networks = self.networks["unet"], self.networks["text_encoder"]
        rounded = [copy.deepcopy(part).half() for part in (*networks, self.vae)]
        self._build_pipeline(*rounded).save_pretrained(folder)
        load_in_float32(folder / "text_encoder" / "config.json")
        write_slow_tokenizer(self.tokenizer, folder / "tokenizer")
        if self._preview is None:
            self._preview = fit_preview(self.vae, self.pool.catalog, self.recipe.size)
        save_preview(self._preview, folder)
        write_history(folder, self.history)

    def sheet(self, path: Path) -> None:
        """Draw two pictures for each of a few fixed captions."""
        pipeline = self._build_pipeline(self.networks["unet"], self.networks["text_encoder"], self.vae)
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(self.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        output = pipeline(
            list(self.sheet_captions),
            num_inference_steps=20,
            guidance_scale=4.0,
            output_type="pt",
            num_images_per_prompt=2,
            generator=torch.Generator().manual_seed(0),
        )
        picture_sheet(output.images.float()).save(path)

    def _build_pipeline(self, unet, text_encoder, vae) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=self.tokenizer,
            unet=unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def _draw_batch(self, step: int) -> tuple[torch.Tensor, list[str]]:
        generation = step // self.shape.pool_steps
        pool = self.pool.latents(generation)
        rng = np.random.default_rng([self.seed, step])
        indices = rng.choice(len(pool), size=self.batch, replace=False)
        captions = [
            caption(self.pool.scene(generation, int(index)), self.pool.catalog, rng, self.shape.empty_captions)
            for index in indices
        ]
        return pool[torch.from_numpy(indices)].float().to(self.device), captions

    def _tokenize(self, captions: list[str]) -> torch.Tensor:
        return encode_captions(self.tokenizer, captions).to(self.device)


def load_in_float32(config: Path) -> None:
    """Let the half precision weights load as float32 when nothing else is asked for.

    transformers loads what the file says, diffusers float32: together they would not fit.
    """
    facts = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(facts | {"dtype": "float32"}, indent=2) + "\n", "utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--start",
        type=Path,
        help="stock folder to begin from; with --fresh only its "
        "autoencoder (default: the shipped model, for its own recipe)",
    )
    parser.add_argument("--fresh", action="store_true", help="begin with random weights")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe = find_recipe(options.recipe)
    settings = settings_from(options, recipe.denoiser.steps, recipe.denoiser.ema)
    start = choose_folder(options.start, recipe, "--start", MODEL)
    # before the objects are fetched, which may take long
    require_fit(start, recipe, ("vae",) if options.fresh else PARTS)
    folder = options.run_dir / "denoiser"
    history = begin_run(folder, FRESH if options.fresh else continued(history_of(start)))
    catalog, device = catalog_for(recipe), pick_device()
    if options.fresh:
        tokens = options.run_dir / "tokenizer"
        vae, tokenizer, networks = fresh_networks(recipe, catalog, start, tokens)
    else:
        vae, tokenizer, networks = load_networks(recipe, start)
    task = DenoiserTask(
        recipe,
        networks.to(device),
        vae.to(device),
        tokenizer,
        catalog,
        options.seed,
        settings.steps,
        history,
    )
    train(task, folder, settings)


if __name__ == "__main__":
    main()
