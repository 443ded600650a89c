"""Train the autoencoder: `python -m pipelines.training.autoencoder`."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from pipelines.core.gradients import no_grad
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import sample_scene
from pipelines.models.files import part_folder
from pipelines.training.fit import require_fit
from pipelines.training.latents import pictures_of
from pipelines.training.objectives import gradient_l1, learning_rate, psnr
from pipelines.training.recipes import AutoencoderRecipe, Recipe, catalog_for, find_recipe
from pipelines.training.trainer import (
    add_arguments,
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
    use_threads,
)

__all__ = [
    "AutoencoderTask",
    "build_autoencoder",
    "held_out_psnr",
    "measured_scaling",
]


def build_autoencoder(recipe: AutoencoderRecipe, size: int) -> AutoencoderKL:
    """Build a fresh AutoencoderKL of the recipe's shape."""
    levels = len(recipe.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.widths,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        sample_size=size,
        norm_num_groups=recipe.norm_groups,
        mid_block_add_attention=False,
    )


@no_grad
def measured_scaling(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Return the factor that gives these pictures' latents unit variance; (B, 3, H, W) in [0, 1]."""
    weight = next(vae.parameters())
    mean = vae.encode(images.to(weight.device) * 2 - 1).latent_dist.mean
    return float(1 / mean.float().std())


@no_grad
def held_out_psnr(vae: AutoencoderKL, catalog: Catalog, size: int, count: int = 128) -> float:
    """Measure the mean PSNR in dB over whole scenes of held-out pairs, clipped as a saved picture is."""
    scenes = [sample_scene(catalog, seed, "held-out") for seed in range(count)]
    device, values = next(vae.parameters()).device, []
    for start in range(0, count, 32):
        images = pictures_of(scenes[start : start + 32], catalog, size).to(device)
        latents = vae.encode(images * 2 - 1).latent_dist.mean
        decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        values.append(psnr(decoded, images))
    return float(torch.cat(values).mean())


class AutoencoderTask:
    """Computes the autoencoder's loss on crops of fresh scenes.

    Args:
        recipe: sizes and rates.
        vae: what is trained.
        catalog: the objects.
        seed: of everything drawn.
        steps: length of the run.
    """

    def __init__(
        self,
        recipe: Recipe,
        vae: AutoencoderKL,
        catalog: Catalog,
        seed: int = 0,
        steps: int | None = None,
    ):
        self.recipe, self.shape, self.networks = recipe, recipe.autoencoder, vae
        self.catalog, self.seed = catalog, seed
        self.steps, self.batch = steps or self.shape.steps, self.shape.batch
        self.optimizer = torch.optim.AdamW(vae.parameters(), lr=self.shape.learning_rate, betas=(0.9, 0.99))
        self.device = next(vae.parameters()).device

    def learning_rate(self, step: int) -> float:
        """Rises over 100 steps, then falls to zero."""
        return learning_rate(step, self.steps, self.shape.learning_rate, 100, 0.95)

    def loss(self, step: int) -> torch.Tensor:
        """Compute L1 of the picture and of its gradients, and a little KL."""
        generator = generator_for(self.seed, step)
        images = self._draw_crops(step, generator).to(self.device) * 2 - 1
        posterior = self.networks.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
        decoded = self.networks.decode(posterior.mean + posterior.std * noise).sample.float()
        picture = (decoded - images).abs().mean()
        edges = self.shape.gradient_weight * gradient_l1(decoded, images)
        return picture + edges + self.shape.kl_weight * posterior.kl().float().mean()

    def export(self, folder: Path) -> None:
        """Write the autoencoder in half precision with its measured scaling factor."""
        scenes = [sample_scene(self.catalog, seed) for seed in range(256)]
        images = pictures_of(scenes, self.catalog, self.recipe.size)
        scaling = measured_scaling(self.networks, images)
        self.networks.register_to_config(scaling_factor=scaling)
        copy.deepcopy(self.networks).half().save_pretrained(folder / "vae")
        quality = held_out_psnr(self.networks, self.catalog, self.recipe.size, 64)
        print(f"held-out scenes: {quality:.2f} dB; scaling factor {scaling:.4f}", flush=True)

    def sheet(self, path: Path) -> None:
        """Draw held-out scenes, and below them what comes back."""
        scenes = [sample_scene(self.catalog, seed, "held-out") for seed in range(12)]
        images = pictures_of(scenes, self.catalog, self.recipe.size).to(self.device)
        latents = self.networks.encode(images * 2 - 1).latent_dist.mean
        decoded = self.networks.decode(latents).sample / 2 + 0.5
        picture_sheet(torch.cat([images, decoded]).cpu()).save(path)

    def _draw_crops(self, step: int, generator: torch.Generator) -> torch.Tensor:
        first = (self.seed * 1_000_000 + step) * self.batch
        scenes = [sample_scene(self.catalog, first + index) for index in range(self.batch)]
        images = pictures_of(scenes, self.catalog, self.recipe.size)
        crop, spare = self.shape.crop, self.recipe.size - self.shape.crop
        corners = torch.randint(spare + 1, (self.batch, 2), generator=generator).tolist()
        return torch.stack(
            [image[:, y : y + crop, x : x + crop] for image, (y, x) in zip(images, corners, strict=True)]
        )


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, help="a stock folder whose 'vae' to go on from")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe, device = find_recipe(options.recipe), pick_device()
    vae = build_autoencoder(recipe.autoencoder, recipe.size)
    if options.start:
        require_fit(options.start, recipe, ("vae",))
        vae = AutoencoderKL.from_pretrained(part_folder(options.start, "vae"), dtype=torch.float32)
    settings = settings_from(options, recipe.autoencoder.steps, recipe.autoencoder.ema)
    task = AutoencoderTask(recipe, vae.to(device), catalog_for(recipe), options.seed, settings.steps)
    train(task, options.run_dir / "autoencoder", settings)


if __name__ == "__main__":
    main()
