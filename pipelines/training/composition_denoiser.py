"""Train the 128 px model's UNet and text encoder: `python -m pipelines.training.composition_denoiser`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from pipelines.core.errors import TrainingError
from pipelines.emoji.composition_captions import describe, pluralize
from pipelines.emoji.compositions import (
    KINDS,
    ORDINARY_SIZES,
    SHARES,
    Composition,
    sample_composition,
    sample_with_singles,
)
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import BACKGROUNDS
from pipelines.models.files import part_folder
from pipelines.training.caption_reader import CaptionReader
from pipelines.training.command_options import build_parser, read_options
from pipelines.training.denoiser import DenoiserTask
from pipelines.training.denoiser_networks import build_text_encoder, build_unet, load_networks, noise_schedule
from pipelines.training.fit import PARTS, require_fit
from pipelines.training.history import FRESH, UNKNOWN, History, begin_run, continued, history_of
from pipelines.training.latents import encode, pictures_of
from pipelines.training.muon import Muon
from pipelines.training.objectives import assign_noise, soft_snr_v_loss
from pipelines.training.recipes import Recipe, catalog_for, find_recipe
from pipelines.training.tokenizer import train_tokenizer
from pipelines.training.trainer import generator_for, pick_device, settings_from, train

__all__ = ["CompositionDenoiserTask", "CompositionPool", "composition_corpus"]

SHEET_CAPTIONS = (
    "a fox on a blue background",
    "a small rocket on a black background",
    "a large owl on a teal background",
    "a unicorn on a purple background",
    "a cat face left of a red heart on a green background",
    "a panda left of a banana on a teal background",
    "a car right of a tree on a gray background",
    "a fish left of a robot on a yellow background",
    "a star above a penguin on a blue background",
    "a duck in front of a castle on a pink background",
    "three strawberries on a white background",
    "four balloons on an orange background",
)


def composition_corpus(catalog: Catalog, count: int = 20_000, seed: int = 0) -> list[str]:
    """Return captions, and every name, plural and tag once, to learn words from."""
    rng = np.random.default_rng(seed)
    captions = [describe(sample_composition(catalog, index, "all"), catalog, rng) for index in range(count)]
    names = [name for item in catalog.objects for name in item.names]
    tags = [tag for item in catalog.objects for tag in item.tags]
    return captions + names + [pluralize(name) for name in names] + tags + list(BACKGROUNDS)


class CompositionPool:
    """Keeps latents of many training compositions in memory; new ones join while the oldest leave.

    Args:
        vae: encodes.
        catalog: the objects.
        picture_size: pixels.
        count: compositions in memory at most.
        first: how many there are before the first step.
        fresh: how many join at each step.
        seed: of everything drawn.
        file: keeps the latents for a run that goes on; None keeps none.
        singles: share of single objects, at least their part of `SHARES`, which is what None takes.
        sizes: the sizes of the single objects that join by `singles`, as `sample_composition` takes them.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        catalog: Catalog,
        picture_size: int,
        count: int,
        first: int,
        fresh: int,
        seed: int,
        file: Path | None = None,
        singles: float | None = None,
        sizes: Sequence[str | None] = ORDINARY_SIZES,
    ):
        usual = SHARES[KINDS.index("single")]
        if singles is not None and not usual <= singles <= 1:
            raise TrainingError(f"The share of single objects is {singles:g}. Choose one from {usual:g} to 1.")
        self._sizes = sizes
        self._further_singles = 0.0 if singles is None else (singles - usual) / (1 - usual)
        self.vae, self.catalog, self.picture_size = vae, catalog, picture_size
        self.count, self.first, self.fresh, self.file = count, first, fresh, file
        self._base = seed * 1_000_000_000
        self._start = self._stop = 0
        self._latents = torch.empty(0)

    def window(self, step: int) -> tuple[int, int]:
        """Return the numbers of the first composition in memory at a step, and of the one behind the last."""
        stop = self.first + step // 16 * 16 * self.fresh
        return max(0, stop - self.count), stop

    def batch(
        self, step: int, size: int, rng: np.random.Generator, empty: float
    ) -> tuple[torch.Tensor, list[str], list[Composition]]:
        """Draw `size` latents (B, C, h, w), float32 and scaled, new captions for them, and what they show."""
        start, stop = self.window(step)
        self._extend_to(start, stop)
        indices = rng.choice(stop - start, size=size, replace=False)
        compositions = [self._draw_composition(start + int(index)) for index in indices]
        captions = [describe(composition, self.catalog, rng, empty) for composition in compositions]
        return self._latents[torch.from_numpy(indices)].float(), captions, compositions

    def _draw_composition(self, number: int) -> Composition:
        seed = self._base + number
        return sample_with_singles(self.catalog, seed, "train", self._further_singles, self._sizes)

    def _extend_to(self, start: int, stop: int) -> None:
        if (start, stop) == (self._start, self._stop):
            return
        if not len(self._latents) and self.file is not None and self.file.is_file():
            self._read_file(self.file)
        if not self._start <= start <= self._stop <= stop:
            self._latents, self._start, self._stop = torch.empty(0), start, start
        parts = [self._latents[start - self._start :]] if len(self._latents) else []
        for first in range(self._stop, stop, 128):
            parts.append(self._encode_range(range(first, min(first + 128, stop))))
        with torch.autocast(self._latents.device.type, enabled=False):
            self._latents, self._start = torch.cat(parts), start
        if self.file is not None and (self._stop == start or stop // 4096 > self._stop // 4096):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            numbers = torch.tensor([start, stop])
            save_file({"latents": self._latents.contiguous(), "numbers": numbers}, self.file)
        self._stop = stop

    def _read_file(self, file: Path) -> None:
        tensors = load_file(file)
        self._latents = tensors["latents"]
        self._start, self._stop = tensors["numbers"].tolist()

    def _encode_range(self, numbers: range) -> torch.Tensor:
        scenes = [self._draw_composition(number).scene for number in numbers]
        return encode(self.vae, pictures_of(scenes, self.catalog, self.picture_size)).half().cpu()


class CompositionDenoiserTask(DenoiserTask):
    """Computes the loss of the 128 px denoiser: velocity prediction on compositions.

    Args:
        recipe, networks, vae, tokenizer, catalog, seed, steps, history: as of `DenoiserTask`.
        latents_file: keeps the latents of a run that goes on, or None.

    A text encoder that asks for no gradients is left as it is, so that what was trained on its output stays valid.
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
        reader = CaptionReader(recipe.denoiser.text_width, catalog.labels).to(next(networks.parameters()).device)
        networks["caption_reader"] = reader
        learns_words = any(weight.requires_grad for weight in networks["text_encoder"].parameters())
        reader.requires_grad_(learns_words)
        super().__init__(recipe, networks, vae, tokenizer, catalog, seed, steps, history)
        shape = recipe.denoiser
        tables = [module.weight for module in networks.modules() if isinstance(module, torch.nn.Embedding)]
        tables += [reader.object.weight, reader.place.weight]
        numbers = {id(table) for table in tables}
        others = [weight for weight in networks.parameters() if id(weight) not in numbers]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": tables, "orthogonal": False}]
        for group in groups:
            group["params"] = [weight for weight in group["params"] if weight.requires_grad]
        self.optimizer = Muon(groups, lr=shape.learning_rate)
        self.scheduler = noise_schedule("v_prediction")
        counts = (shape.pool, shape.first, shape.fresh)
        self.compositions = CompositionPool(
            vae, catalog, recipe.size, *counts, seed, latents_file, shape.singles, shape.sizes
        )
        self._reader = reader if learns_words else None

    def loss(self, step: int) -> torch.Tensor:
        """Compute the weighted error of the velocity on this batch, and the loss of reading the captions."""
        rng = np.random.default_rng([self.seed, step])
        latents, captions, compositions = self.compositions.batch(step, self.batch, rng, self.shape.empty_captions)
        generator = generator_for(self.seed, step)
        noise = assign_noise(latents, torch.randn(latents.shape, generator=generator))
        # one timestep in each of B equal parts: less variance than independent ones
        positions = torch.arange(self.batch) + torch.rand(self.batch, generator=generator)
        timesteps = (positions / self.batch * 1_000).long().clamp(max=999).to(self.device)
        latents, noise = latents.to(self.device), noise.to(self.device)
        alphas = self.alphas_cumprod[timesteps]
        scale = alphas.view(-1, 1, 1, 1)
        noisy = scale.sqrt() * latents + (1 - scale).sqrt() * noise
        velocity = scale.sqrt() * noise - (1 - scale).sqrt() * latents
        embeds = self.networks["text_encoder"](self._tokenize(captions))[0]
        predicted = self.networks["unet"](noisy, timesteps, embeds, return_dict=False)[0]
        loss = soft_snr_v_loss(predicted, velocity, alphas, self.shape.snr_floor)
        if (reader := self._reader) is None:
            return loss
        misread = reader.loss(embeds, reader.targets(compositions, captions).to(self.device))
        return loss + self.shape.reading * misread


def fresh_networks(recipe: Recipe, catalog: Catalog, start: Path, folder: Path):
    """Build random networks and a new tokenizer for the autoencoder in `start`; `folder` receives the tokenizer."""
    require_fit(start, recipe, ("vae",))
    vae = AutoencoderKL.from_pretrained(part_folder(start, "vae"), dtype=torch.float32)
    shape = recipe.denoiser
    if (folder / "tokenizer.json").is_file():
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(composition_corpus(catalog), shape.vocabulary, shape.tokens, folder)
    unet = build_unet(shape, vae.config.latent_channels, recipe.size // recipe.autoencoder.factor)
    networks = {"unet": unet, "text_encoder": build_text_encoder(shape, tokenizer)}
    return vae, tokenizer, torch.nn.ModuleDict(networks)


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = build_parser(__doc__, start="stock folder; with --fresh only its autoencoder", fresh="weights")
    parser.add_argument(
        "--keep-text", action="store_true", help="leave the text encoder as it is: only the UNet learns"
    )
    options = read_options(parser, arguments)
    recipe = find_recipe(options.recipe)
    rate = options.learning_rate or recipe.denoiser.learning_rate
    shape = dataclasses.replace(recipe.denoiser, learning_rate=rate, singles=options.singles, sizes=options.sizes)
    recipe = dataclasses.replace(recipe, denoiser=shape)
    settings = settings_from(options, recipe.denoiser.steps, recipe.denoiser.ema)
    require_fit(options.start, recipe, ("vae",) if options.fresh else PARTS)
    folder = options.run_dir / "denoiser"
    history = begin_run(folder, FRESH if options.fresh else continued(history_of(options.start)))
    catalog, device = catalog_for(recipe), pick_device()
    if options.fresh:
        vae, tokenizer, networks = fresh_networks(recipe, catalog, options.start, options.run_dir / "tokenizer")
    else:
        vae, tokenizer, networks = load_networks(recipe, options.start)
    if options.keep_text:
        networks["text_encoder"].requires_grad_(False)
    # transformers' fused attention has a slow backward on the CPU
    networks["text_encoder"].set_attn_implementation("eager")
    task = CompositionDenoiserTask(
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
