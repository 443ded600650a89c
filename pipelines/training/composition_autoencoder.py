"""Train the 128 px model's autoencoder: `python -m pipelines.training.composition_autoencoder`.

First all of it on crops, then with --decoder the decoder alone on whole pictures: the latents stay as they are, so
that a denoiser can be trained on them at the same time.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D

from pipelines.core.gradients import no_grad
from pipelines.emoji.compositions import sample_composition
from pipelines.emoji.objects import Catalog
from pipelines.models.files import part_folder
from pipelines.training.autoencoder import build_autoencoder, measured_scaling
from pipelines.training.fit import require_fit
from pipelines.training.latents import pictures_of
from pipelines.training.muon import Muon
from pipelines.training.objectives import gradient_l1, learning_rate, psnr
from pipelines.training.recipes import Recipe, catalog_for, find_recipe
from pipelines.training.trainer import (
    add_arguments,
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
    use_threads,
)

__all__ = ["CompositionAutoencoderTask", "composition_psnr", "normalize_latents", "prepare_autoencoder"]

LATENT_NOISE = 0.04  # of the latents' spread, at most
POOL, FRESH = 6_000, 4  # pictures in memory; so many new ones join at every fourth step


def prepare_autoencoder(vae: AutoencoderKL) -> AutoencoderKL:
    """Let a fresh autoencoder begin as an almost linear one with an almost certain posterior.

    Residual branches begin at zero (Goyal et al., arXiv 1706.02677, section 5.1, for the last normalization), and
    the posterior's standard deviation at e^-3: with the defaults the latents' code stays in one dimension for long.
    """
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, ResnetBlock2D):
                module.conv2.weight.zero_()
                module.conv2.bias.zero_()
        channels = vae.config.latent_channels
        vae.quant_conv.weight[channels:] *= 0.02
        vae.quant_conv.bias[channels:] = -6.0
    return vae


@no_grad
def normalize_latents(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Give each latent channel mean zero and unit variance over these pictures, and change no decoded picture.

    The affine map goes into the two convolutions of one pixel around the latents.

    Args: images: (B, 3, H, W) in [0, 1].
    """
    mean, channels = _encode_means(vae, images), vae.config.latent_channels
    center, deviation = mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3))
    inward, outward = vae.quant_conv, vae.post_quant_conv
    outward.bias += (outward.weight[:, :, 0, 0] * center).sum(dim=1)
    outward.weight *= deviation[None, :, None, None]
    inward.weight[:channels] /= deviation[:, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - center) / deviation
    inward.bias[channels:] -= 2 * deviation.log()


@no_grad
def composition_psnr(vae: AutoencoderKL, catalog: Catalog, size: int, count: int = 128) -> float:
    """Measure the mean PSNR in dB over compositions of held-out pairs, clipped as a saved picture is."""
    values, device = [], next(vae.parameters()).device
    for start in range(0, count, 16):
        images = _draw_pictures(catalog, range(start, min(start + 16, count)), size, "held-out").to(device)
        decoded = (vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
        values.append(psnr(decoded, images))
    return float(torch.cat(values).mean())


class CompositionAutoencoderTask:
    """Computes the autoencoder's loss on crops of compositions, or the decoder's on whole ones.

    Args:
        recipe: sizes and rates.
        vae: what is trained.
        catalog: the objects.
        seed: of everything drawn.
        steps: length of the run.
        decoder: train the decoder alone, on whole pictures, two at a step.
        pool: pictures in memory.
    """

    def __init__(
        self,
        recipe: Recipe,
        vae: AutoencoderKL,
        catalog: Catalog,
        seed: int = 0,
        steps: int | None = None,
        decoder: bool = False,
        pool: int = POOL,
    ):
        self.recipe, self.shape, self.networks = recipe, recipe.autoencoder, vae
        self.catalog, self.seed, self.decoder, self.pool = catalog, seed, decoder, pool
        self.steps = steps or self.shape.steps
        self.batch = 2 if decoder else self.shape.batch
        self.rate = self.shape.learning_rate / 2 if decoder else self.shape.learning_rate
        self.trained = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
        if decoder:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        else:
            self.trained = list(vae.parameters())
        self.optimizer = Muon(self.trained, lr=self.rate)
        self.device = next(vae.parameters()).device
        self._images = torch.empty(0, 3, recipe.size, recipe.size, dtype=torch.uint8)

    def learning_rate(self, step: int) -> float:
        """Rises over 100 steps, then falls to zero at the end."""
        return learning_rate(step, self.steps, self.rate, 100, 0.6)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the squared error mostly, L1 of the picture and of its gradients, and a little KL.

        L1 alone settles on flat pictures first: under uncertainty the median of a gradient is zero.
        """
        self._extend_pool(step)
        generator = generator_for(self.seed, step)
        images = self._draw_crops(generator).to(self.device) * 2 - 1
        with torch.set_grad_enabled(not self.decoder):
            posterior = self.networks.encode(images).latent_dist
            latents, deviation = posterior.mean.float(), posterior.std.float()
        level = LATENT_NOISE * torch.rand(self.batch, 1, 1, 1, generator=generator).to(self.device)
        noise = torch.randn(2, *latents.shape, generator=generator).to(self.device)
        latents = latents + noise[0] * level * latents.detach().std() + noise[1] * deviation
        decoded = self.networks.decode(latents).sample.float()
        error = decoded - images
        edges = self.shape.gradient_weight * gradient_l1(decoded, images)
        picture = 0.3 * error.abs().mean() + 8 * error.square().mean()
        return picture + edges + self.shape.kl_weight * posterior.kl().float().mean()

    def export(self, folder: Path) -> None:
        """Write the autoencoder in half precision, its latents normalized."""
        exported = copy.deepcopy(self.networks)
        images = _draw_pictures(self.catalog, range(256), self.recipe.size, "train").to(self.device)
        if not self.decoder:
            normalize_latents(exported, images)
        exported.register_to_config(scaling_factor=measured_scaling(exported, images))
        exported.half().save_pretrained(folder / "vae")
        quality = composition_psnr(self.networks, self.catalog, self.recipe.size, 64)
        print(f"held-out compositions: {quality:.2f} dB", flush=True)

    def sheet(self, path: Path) -> None:
        """Draw held-out compositions, and below them what comes back."""
        images = _draw_pictures(self.catalog, range(12), self.recipe.size, "held-out").to(self.device)
        decoded = self.networks.decode(self.networks.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5
        picture_sheet(torch.cat([images, decoded]).cpu()).save(path)

    def _extend_pool(self, step: int) -> None:
        """The pictures of a step depend on the step alone: a resumed run draws the last ones again."""
        stop = 256 + (step // 4 + 1) * FRESH
        start = max(0, stop - self.pool) if not len(self._images) else stop - FRESH
        if len(self._images) and step % 4:
            return
        base = self.seed * 100_000_000 + 10_000_000
        fresh = _draw_pictures(self.catalog, range(base + start, base + stop), self.recipe.size, "train")
        self._images = torch.cat([self._images, (fresh * 255).round().byte()])[-self.pool :]

    def _draw_crops(self, generator: torch.Generator) -> torch.Tensor:
        crop = self.recipe.size if self.decoder else self.shape.crop
        indices = torch.randint(len(self._images), (self.batch,), generator=generator)
        corners = torch.randint(self.recipe.size - crop + 1, (self.batch, 2), generator=generator)
        pictures = zip(self._images[indices], corners.tolist(), strict=True)
        return torch.stack([image[:, y : y + crop, x : x + crop] for image, (y, x) in pictures]).float() / 255


def _draw_pictures(catalog: Catalog, seeds: range, size: int, split: str) -> torch.Tensor:
    return pictures_of([sample_composition(catalog, seed, split).scene for seed in seeds], catalog, size)


def _encode_means(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """The posterior means (B, C, h, w), unscaled."""
    return torch.cat([vae.encode(part * 2 - 1).latent_dist.mean for part in images.split(16)])


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, help="a stock folder whose 'vae' to go on from")
    parser.add_argument("--decoder", action="store_true", help="the decoder alone, on whole pictures")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe, device = find_recipe(options.recipe), pick_device()
    if options.start:
        require_fit(options.start, recipe, ("vae",))
        vae = AutoencoderKL.from_pretrained(part_folder(options.start, "vae"), dtype=torch.float32)
    else:
        vae = prepare_autoencoder(build_autoencoder(recipe.autoencoder, recipe.size))
    settings = settings_from(options, recipe.autoencoder.steps, recipe.autoencoder.ema)
    catalog = catalog_for(recipe)
    task = CompositionAutoencoderTask(recipe, vae.to(device), catalog, options.seed, settings.steps, options.decoder)
    train(task, options.run_dir / ("decoder" if options.decoder else "autoencoder"), settings)


if __name__ == "__main__":
    main()
