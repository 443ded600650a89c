"""Train an upscaler on the compositions: `python -m pipelines.training.upscaler`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from pipelines.core.gradients import no_grad
from pipelines.emoji.compositions import sample_composition
from pipelines.emoji.objects import Catalog
from pipelines.models.files import part_folder
from pipelines.training.latents import encode, pictures_of
from pipelines.training.measures import FRESH
from pipelines.training.muon import Muon
from pipelines.training.objectives import learning_rate, psnr
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import (
    add_arguments,
    generator_for,
    pick_device,
    picture_sheet,
    settings_from,
    train,
    use_threads,
)
from pipelines.upscaling.compact import CompactUpscaler, compact_from

__all__ = ["UpscalerTask", "bicubic", "measure_upscaler", "shrink"]

SIZE, CROP, BATCH, RATE = 256, 32, 32, 1e-3
"""Pixels of a whole picture, of a crop of the small one, pictures in a step, and the learning rate."""


def shrink(images: torch.Tensor, scale: int) -> torch.Tensor:
    """Make pictures (B, 3, H, W) `scale` times smaller, bicubic with antialiasing; values stay in [0, 1]."""
    size = images.shape[-2] // scale, images.shape[-1] // scale
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def bicubic(images: torch.Tensor, scale: int) -> torch.Tensor:
    """Make pictures (B, 3, H, W) `scale` times larger by bicubic interpolation; values stay in [0, 1]."""
    return F.interpolate(images, scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)


class UpscalerTask:
    """The error of enlarged crops of the training compositions.

    Half of the small pictures have passed the model's autoencoder where it has their size, since those are what it
    will be given.

    Args:
        network: what is trained.
        vae: an autoencoder that the small pictures may pass, or None.
        catalog: the objects.
        seed: of everything drawn.
        steps: length of the run.
        pool: pictures in memory.
    """

    def __init__(
        self,
        network: CompactUpscaler,
        vae: AutoencoderKL | None,
        catalog: Catalog,
        seed: int = 0,
        steps: int = 3_000,
        pool: int = 1_500,
    ):
        self.networks, self.vae, self.catalog, self.seed, self.steps = network, vae, catalog, seed, steps
        self.batch, self.optimizer = BATCH, Muon(network.parameters(), lr=RATE)
        self.device = next(network.parameters()).device
        self._count = pool
        self._pairs: tuple[torch.Tensor, torch.Tensor] | None = None

    def learning_rate(self, step: int) -> float:
        """Of this step."""
        return learning_rate(step, self.steps, RATE, 50, 0.6)

    def loss(self, step: int) -> torch.Tensor:
        """Mean of sqrt(error squared + 0.001 squared), Charbonnier's, of a batch of crops."""
        if self._pairs is None:
            self._pairs = self._draw()
        small, large = self._pairs
        rng, scale = np.random.default_rng([self.seed, step]), self.networks.scale
        corners = rng.integers(0, small.shape[-1] - CROP + 1, (self.batch, 2))
        parts = [
            (number, *corner) for number, corner in zip(rng.integers(0, len(small), self.batch), corners, strict=True)
        ]
        low = torch.stack([small[i, :, y : y + CROP, x : x + CROP] for i, y, x in parts])
        side = CROP * scale
        high = torch.stack(
            [large[i, :, y * scale : y * scale + side, x * scale : x * scale + side] for i, y, x in parts]
        )
        low, high = (part.to(self.device).float() / 255 for part in (low, high))
        if rng.random() < 0.5:
            low, high = low.flip(-1), high.flip(-1)
        error = self.networks(low).float() - high
        return (error.square() + 1e-6).sqrt().mean()

    def export(self, folder: Path) -> None:
        """Write the weights in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().half().cpu() for name, value in self.networks.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def sheet(self, path: Path) -> None:
        """Draw held-out pictures: enlarged by bicubic interpolation, by the network, and the truth."""
        large = _pictures(self.catalog, range(FRESH, FRESH + 4), "held-out")
        small = shrink(large, self.networks.scale)
        enlarged = self.networks(small.to(self.device)).float().cpu()
        picture_sheet(torch.cat([bicubic(small, self.networks.scale), enlarged, large]), 4).save(path)

    @no_grad
    def _draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the pool: small and whole pictures, (N, 3, H, W), uint8."""
        small, large = [], []
        generator = generator_for(self.seed, -1 % 2**31)
        for start in range(0, self._count, 50):
            first = self.seed * 1_000_000 + start
            whole = _pictures(self.catalog, range(first, first + min(50, self._count - start)), "train")
            shrunk = shrink(whole, self.networks.scale)
            if self.vae is not None:
                passed = self.vae.decode(encode(self.vae, shrunk) / self.vae.config.scaling_factor).sample.cpu()
                chosen = torch.rand(len(whole), 1, 1, 1, generator=generator) < 0.5
                shrunk = torch.where(chosen, (passed / 2 + 0.5).clamp(0, 1), shrunk)
            small.append((shrunk * 255).round().byte())
            large.append((whole * 255).round().byte())
        return torch.cat(small), torch.cat(large)


def _pictures(catalog: Catalog, seeds: range, split: str) -> torch.Tensor:
    return pictures_of([sample_composition(catalog, seed, split).scene for seed in seeds], catalog, SIZE)


@no_grad
def measure_upscaler(network: CompactUpscaler, catalog: Catalog, count: int = 64) -> dict[str, float]:
    """Measure it on held-out compositions that were shrunk.

    Returns: "psnr" and "bicubic", the mean PSNR in dB of its pictures and of bicubic interpolation's.
    """
    large = _pictures(catalog, range(FRESH, FRESH + count), "held-out")
    small = shrink(large, network.scale)
    enlarged = torch.cat([network(part) for part in small.split(8)]).clamp(0, 1)
    return {
        "psnr": float(psnr(enlarged, large).mean()),
        "bicubic": float(psnr(bicubic(small, network.scale), large).mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir; then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, help="a stock folder whose autoencoder half of the pictures pass")
    parser.add_argument("--scale", type=int, default=2, help="how many times larger (default: 2)")
    parser.add_argument("--pool", type=int, default=1_500, help="pictures in memory")
    chosen = parser.parse_args(arguments)
    use_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    recipe, device = find_recipe(chosen.recipe), pick_device()
    vae = None
    if chosen.start:
        vae = AutoencoderKL.from_pretrained(part_folder(chosen.start, "vae"), dtype=torch.float32).to(device)
    catalog, settings = catalog_for(recipe), settings_from(chosen, 3_000, 0.995)
    network = CompactUpscaler(scale=chosen.scale).to(device)
    task = UpscalerTask(network, vae, catalog, chosen.seed, settings.steps, chosen.pool)
    folder = chosen.run_dir / f"upscaler_{chosen.scale}"
    if train(task, folder, settings) >= settings.steps:
        figures = measure_upscaler(compact_from(load_file(folder / "export" / "model.safetensors")), catalog)
        print({name: round(value, 2) for name, value in figures.items()})


if __name__ == "__main__":
    main()
