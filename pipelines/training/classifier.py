"""Train the judge of pictures: `python -m pipelines.training.classifier`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from pipelines.core.gradients import no_grad
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import BACKGROUNDS, Scene, sample_scene
from pipelines.metrics.classifier import Classifier, ClassifierNetwork, Scores, save_classifier
from pipelines.models.files import part_folder
from pipelines.training.fit import MODEL, choose_folder, require_fit
from pipelines.training.latents import encode, pictures_of
from pipelines.training.objectives import learning_rate
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

__all__ = ["ClassifierTask", "blurred", "classifier_loss", "targets_of"]


def targets_of(scenes: list[Scene], labels: tuple[str, ...]) -> torch.Tensor:
    """Return the truth as numbers: (B, 4), int64: alone, left, right (or len(labels)), background."""
    nothing, backgrounds = len(labels), tuple(BACKGROUNDS)
    rows = []
    for scene in scenes:
        indices = [labels.index(placed.label) for placed in scene.objects]
        objects = [indices[0], nothing, nothing] if len(indices) == 1 else [nothing, *indices]
        rows.append([*objects, backgrounds.index(scene.background)])
    return torch.tensor(rows)


def classifier_loss(scores: Scores, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies of the four answers; targets as `targets_of` gives them."""
    heads = (scores.alone, scores.left, scores.right, scores.background)
    return torch.stack([F.nll_loss(head.float(), targets[:, i]) for i, head in enumerate(heads)]).sum()


def blurred(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Spoil each picture a little, as a generator of pictures does: blur, contrast, grain."""
    count, size = len(images), images.shape[-1]
    coarse = F.interpolate(images, scale_factor=0.5, mode="area")
    coarse = F.interpolate(coarse, (size, size), mode="bilinear")
    amount = torch.rand(count, 1, 1, 1, generator=generator)
    images = torch.lerp(images, coarse, amount * (amount > 0.4))
    contrast = 1 + 0.1 * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    grain = torch.randn(images.shape, generator=generator)
    level = 0.06 * torch.rand(count, 1, 1, 1, generator=generator)
    return ((images - 0.5) * contrast + 0.5 + level * grain).clamp(0, 1)


class ClassifierTask:
    """Computes the classifier's loss on spoiled pictures of scenes of every kind.

    Args:
        recipe: sizes and rates.
        network: what is trained.
        vae: passes half of the pictures, their latents disturbed; None passes none.
        catalog: the objects.
        seed: of everything drawn.
        steps: length of the run.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: ClassifierNetwork,
        vae: AutoencoderKL | None,
        catalog: Catalog,
        seed: int = 0,
        steps: int | None = None,
    ):
        self.recipe, self.shape, self.networks, self.vae = recipe, recipe.classifier, network, vae
        self.catalog, self.seed = catalog, seed
        self.steps, self.batch = steps or self.shape.steps, self.shape.batch
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=self.shape.learning_rate, weight_decay=0.02)
        self.device = next(network.parameters()).device
        self._generation: int | None = None
        self._images = self._targets = torch.empty(0)

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        shape = self.shape
        return learning_rate(step, self.steps, shape.learning_rate, shape.warmup, shape.decay)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the cross-entropies on this step's batch."""
        self._draw_pool(step // self.shape.pool_steps)
        generator = generator_for(self.seed, step)
        indices = torch.randint(len(self._images), (self.batch,), generator=generator)
        images = blurred(self._images[indices].float() / 255, generator)
        return classifier_loss(self.networks(images.to(self.device)), self._targets[indices].to(self.device))

    def export(self, folder: Path) -> None:
        """Write the classifier as it ships."""
        classifier = Classifier(self.networks, self.catalog.labels, tuple(BACKGROUNDS), self.recipe.size)
        save_classifier(classifier, folder)
        self.networks.requires_grad_(True)

    def sheet(self, path: Path) -> None:
        """Draw some of the pictures that it learns from."""
        picture_sheet(self._images[:48].float() / 255).save(path)

    def _draw_pool(self, generation: int) -> None:
        if generation == self._generation:
            return
        first = (self.seed * 1_000 + generation) * 1_000_000 + 500_000
        scenes = [sample_scene(self.catalog, first + index, "all", 1 + index % 2) for index in range(self.shape.pool)]
        generator = generator_for(self.seed, first)
        with torch.autocast(self.device.type, enabled=False):
            parts = [self._draw_images(scenes[start : start + 256], generator) for start in range(0, len(scenes), 256)]
        self._images = torch.cat(parts)
        self._targets = targets_of(scenes, self.catalog.labels)
        self._generation = generation

    @no_grad
    def _draw_images(self, scenes: list[Scene], generator: torch.Generator) -> torch.Tensor:
        """(B, 3, H, W), uint8; the second half has passed the autoencoder."""
        images = pictures_of(scenes, self.catalog, self.recipe.size)
        if self.vae is not None:
            through = images[len(images) // 2 :]
            latents = encode(self.vae, through).float()
            level = 0.35 * torch.rand(len(latents), 1, 1, 1, generator=generator)
            noise = torch.randn(latents.shape, generator=generator) * level
            latents = (latents + noise.to(latents)) / self.vae.config.scaling_factor
            images[len(images) // 2 :] = self.vae.decode(latents).sample.cpu() / 2 + 0.5
        return (images.clamp(0, 1) * 255).round().byte()


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--start",
        type=Path,
        help="stock folder whose autoencoder some pictures pass (default: the shipped model, for its own recipe)",
    )
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    recipe, device = find_recipe(options.recipe), pick_device()
    start = choose_folder(options.start, recipe, "--start", MODEL)
    require_fit(start, recipe, ("vae",))
    catalog = catalog_for(recipe)
    vae = AutoencoderKL.from_pretrained(part_folder(start, "vae"), dtype=torch.float32)
    network = ClassifierNetwork(len(catalog.objects), len(BACKGROUNDS), recipe.classifier.widths)
    settings = settings_from(options, recipe.classifier.steps, recipe.classifier.ema)
    task = ClassifierTask(recipe, network.to(device), vae.to(device).eval(), catalog, options.seed, settings.steps)
    train(task, options.run_dir / "classifier", settings)


if __name__ == "__main__":
    main()
