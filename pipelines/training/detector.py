"""Train the judge of the 128 px model: `python -m pipelines.training.detector`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from pipelines.core.gradients import no_grad
from pipelines.emoji.compositions import ORDINARY_SIZES, Composition, sample_with_singles
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import BACKGROUNDS
from pipelines.metrics.detector import Detector, DetectorNetwork, Scores, load_detector, save_detector
from pipelines.models.files import part_folder
from pipelines.training.classifier import blurred
from pipelines.training.command_options import read_sizes
from pipelines.training.latents import encode, pictures_of
from pipelines.training.objectives import learning_rate
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

__all__ = ["GRID", "DetectorTask", "detector_loss", "detector_targets"]

GRID = 8
BATCH, STEPS, RATE = 64, 1_500, 2e-3
POOL, FRESH = 6_144, 64  # pictures in memory; new ones after every fourth step


def detector_targets(compositions: list[Composition], labels: tuple[str, ...], grid: int = GRID) -> torch.Tensor:
    """Write the truth as rows of numbers.

    Returns: (objects, 7), float32: picture's number, row, column, label's number, offset right and down in cells,
        width.
    """
    rows = []
    for number, composition in enumerate(compositions):
        for item in composition.scene.objects:
            column, row = min(int(item.x * grid), grid - 1), min(int(item.y * grid), grid - 1)
            right, down = item.x * grid - column - 0.5, item.y * grid - row - 0.5
            rows.append([number, row, column, labels.index(item.label), right, down, item.size])
    return torch.tensor(rows, dtype=torch.float32)


def detector_loss(scores: Scores, targets: torch.Tensor, backgrounds: torch.Tensor) -> torch.Tensor:
    """Sum of presence (binary cross-entropy), label and background (cross-entropies), place and width (L1).

    Cells next to an object's own count little where they claim it: its center may lie on their common edge.

    Args:
        scores: of B pictures.
        targets: as `detector_targets` gives them.
        backgrounds: (B,), int64.
    """
    picture, row, column, label = targets[:, :4].long().unbind(1)
    occupied = torch.zeros_like(scores.presence)
    occupied[picture, row, column] = 1
    near = F.max_pool2d(occupied[:, None], 3, 1, 1)[:, 0]
    weight = torch.where(occupied > 0, 4.0, torch.where(near > 0, 0.5, 1.0))
    presence = F.binary_cross_entropy_with_logits(scores.presence, occupied, weight, reduction="sum") / len(targets)
    place = scores.place[picture, :, row, column] - targets[:, 4:]
    return (
        presence
        + F.nll_loss(scores.label[picture, :, row, column], label)
        + (place * torch.tensor([1.0, 1.0, 4.0]).to(place)).abs().mean()
        + F.nll_loss(scores.background, backgrounds)
    )


class DetectorTask:
    """Computes the detector's loss on spoiled pictures of compositions of every kind and pair.

    Args:
        network: what is trained.
        vae: passes half of the pictures, their latents disturbed; None passes none.
        catalog: the objects.
        size: pixels.
        seed: of everything drawn.
        steps: length of the run.
        pool: pictures in memory.
        singles: share of the pictures that are single objects of `sizes`; the others are of all kinds, as they come.
        sizes: keys of `SIZES`.
        rate: the highest learning rate.
    """

    batch = BATCH

    def __init__(
        self,
        network: DetectorNetwork,
        vae: AutoencoderKL | None,
        catalog: Catalog,
        size: int,
        seed: int = 0,
        steps: int = STEPS,
        pool: int = POOL,
        singles: float = 0.0,
        sizes: Sequence[str | None] = ORDINARY_SIZES,
        rate: float = RATE,
    ):
        self._singles, self._sizes, self.rate = singles, sizes, rate
        self.networks, self.vae, self.catalog, self.size = network, vae, catalog, size
        self.seed, self.steps, self.pool = seed, steps, pool
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
        self.device = next(network.parameters()).device
        self._compositions: list[Composition] = []
        self._images = torch.empty(0, 3, size, size, dtype=torch.uint8)

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        return learning_rate(step, self.steps, self.rate, 100, 0.8)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the loss on this step's batch."""
        self._extend_pool(step)
        generator = generator_for(self.seed, step)
        indices = torch.randint(len(self._images), (self.batch,), generator=generator)
        images = blurred(self._images[indices].float() / 255, generator)
        compositions = [self._compositions[index] for index in indices.tolist()]
        backgrounds = torch.tensor([list(BACKGROUNDS).index(item.scene.background) for item in compositions])
        self.networks.requires_grad_(True)
        targets = detector_targets(compositions, self.catalog.labels).to(self.device)
        return detector_loss(self.networks(images.to(self.device)), targets, backgrounds.to(self.device))

    def export(self, folder: Path) -> None:
        """Write the detector as it ships."""
        save_detector(Detector(self.networks, self.catalog.labels, tuple(BACKGROUNDS), self.size), folder)
        self.networks.requires_grad_(True)

    def sheet(self, path: Path) -> None:
        """Draw some of the pictures that it learns from."""
        picture_sheet(self._images[-48:].float() / 255).save(path)

    def _extend_pool(self, step: int) -> None:
        """The pictures of a step depend on the step alone: a resumed run draws the last ones again."""
        last = step // 4 * FRESH
        first = max(0, last + 4 * FRESH - self.pool) if not self._compositions else last + 3 * FRESH
        if self._compositions and (step % 4 or len(self._images) == 0):
            return
        start = self.seed * 100_000_000 + 50_000_000
        seeds = range(start + first, start + last + 4 * FRESH)
        fresh = [self._sample(seed) for seed in seeds]
        generator = generator_for(self.seed, start + first)
        self._images = torch.cat([self._images, self._draw_images(fresh, generator)])[-self.pool :]
        self._compositions = [*self._compositions, *fresh][-self.pool :]

    def _sample(self, seed: int) -> Composition:
        return sample_with_singles(self.catalog, seed, "all", self._singles, self._sizes)

    @no_grad
    def _draw_images(self, compositions: list[Composition], generator: torch.Generator) -> torch.Tensor:
        """(B, 3, H, W), uint8; every second one has passed the autoencoder."""
        parts = []
        for start in range(0, len(compositions), 64):
            scenes = [item.scene for item in compositions[start : start + 64]]
            images = pictures_of(scenes, self.catalog, self.size)
            if self.vae is not None:
                images[::2] = _pass_autoencoder(self.vae, images[::2], generator)
            parts.append((images.clamp(0, 1) * 255).round().byte())
        return torch.cat(parts)


def _pass_autoencoder(vae: AutoencoderKL, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    latents = encode(vae, images).float()
    level = 0.35 * torch.rand(len(latents), 1, 1, 1, generator=generator)
    latents = latents + (torch.randn(latents.shape, generator=generator) * level).to(latents)
    return vae.decode(latents / vae.config.scaling_factor).sample.cpu() / 2 + 0.5


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--start", type=Path, help="stock folder whose autoencoder some pictures pass")
    parser.add_argument("--detector", type=Path, help="a folder of this command to go on from")
    parser.add_argument("--learning-rate", type=float, default=RATE, help="the highest")
    parser.add_argument("--singles", type=float, default=0.0, help="share of single objects that join the others")
    parser.add_argument(
        "--sizes", type=read_sizes, default=ORDINARY_SIZES, metavar="SIZE,SIZE,...", help="of these single objects"
    )
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe, device = find_recipe(options.recipe), pick_device()
    catalog = catalog_for(recipe)
    vae = None
    if options.start:
        vae = AutoencoderKL.from_pretrained(part_folder(options.start, "vae"), dtype=torch.float32).to(device).eval()
    network = DetectorNetwork(len(catalog.objects), len(BACKGROUNDS)).to(device)
    if options.detector:
        network = load_detector(options.detector, device.type).network
    settings = settings_from(options, STEPS, 0.99)
    shares = options.singles, options.sizes, options.learning_rate
    task = DetectorTask(network, vae, catalog, recipe.size, options.seed, settings.steps, POOL, *shares)
    train(task, options.run_dir / "detector", settings)


if __name__ == "__main__":
    main()
