"""Train what reads the noise level of latents: `python -m pipelines.training.noise_level`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from pipelines.core.errors import TrainingError
from pipelines.initializations.fitted import NOISE_LEVEL
from pipelines.initializations.noise_classifier import (
    NoiseClassifier,
    NoiseLevelNetwork,
    load_noise_classifier,
    save_noise_classifier,
)
from pipelines.models.files import part_folder
from pipelines.training.data_statistics import latents_of_folder, open_model
from pipelines.training.fit import MODEL, choose_folder, require_fit
from pipelines.training.latents import LatentPool
from pipelines.training.objectives import learning_rate
from pipelines.training.recipes import catalog_for, find_recipe
from pipelines.training.trainer import add_arguments, generator_for, pick_device, settings_from, train, use_threads

__all__ = ["HIGHEST", "LEVELS", "LOWEST", "FixedPool", "NoiseLevelTask", "main", "measure", "noised"]

LOWEST, HIGHEST, LEVELS = 0.03, 14.6, 100
"""sigma / alpha of the first and last level: the ends of Stable Diffusion's schedule. Neighbors differ by 6.4 %."""

STEPS, BATCH, RATE = 2_000, 128, 2e-3
POOL = 8_192
_JUDGED = 2_048
"""Latents with noise that judge; of few pictures each comes several times, with another noise."""


def noised(latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents x0 + sigma * eps (B, C, h, w) and their sigmas (B,), drawn evenly in the logarithm."""
    share = torch.rand(len(latents), generator=generator, dtype=torch.float64)
    sigmas = LOWEST * (HIGHEST / LOWEST) ** share
    noise = torch.randn(latents.shape, generator=generator)
    return latents + sigmas.float()[:, None, None, None] * noise, sigmas


class NoiseLevelTask:
    """Computes the classifier's cross-entropy on latents with every amount of noise.

    Args:
        network: what is trained.
        pool: clean latents.
        seed: of everything drawn.
        steps: length of the run.
    """

    batch = BATCH

    def __init__(self, network: NoiseLevelNetwork, pool: LatentPool | FixedPool, seed: int = 0, steps: int = STEPS):
        self.networks, self.pool, self.seed, self.steps = network, pool, seed, steps
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
        self.device = next(network.parameters()).device

    def learning_rate(self, step: int) -> float:
        """Return the rate of this step."""
        return learning_rate(step, self.steps, RATE, 100, 0.8)

    def loss(self, step: int) -> torch.Tensor:
        """Compute the cross-entropy on this step's batch."""
        latents, generator = self.pool.latents(0), generator_for(self.seed, step)
        indices = torch.randint(len(latents), (self.batch,), generator=generator)
        noisy, sigmas = noised(latents[indices].float(), generator)
        levels = self._build_classifier().nearest(sigmas)
        self.networks.train().requires_grad_(True)
        return F.cross_entropy(self.networks(noisy.to(self.device)), levels.to(self.device))

    def export(self, folder: Path) -> None:
        """Write the classifier as it ships."""
        save_noise_classifier(self._build_classifier(), folder / NOISE_LEVEL)
        self.networks.requires_grad_(True)

    def sheet(self, path: Path) -> None:
        """There is nothing to see: the figures are printed by `--measure`."""

    def _build_classifier(self) -> NoiseClassifier:
        channels, height, width = self.pool.latents(0).shape[1:]
        return NoiseClassifier(self.networks, LOWEST, HIGHEST, (channels, height, width))


def measure(classifier: NoiseClassifier, latents: torch.Tensor, seed: int = 0) -> dict[str, float]:
    """Measure how well it reads: shares of exact levels and of at most one level beside, and the median error of sigma.

    Args:
        classifier: the judge.
        latents: (N, C, h, w), clean, not among those it learned from.
        seed: of the noise.
    """
    noisy, sigmas = noised(latents.float(), generator_for(seed, 10**6))
    estimated_sigmas = torch.cat([classifier.sigma(part) for part in noisy.split(256)])
    apart = (classifier.nearest(estimated_sigmas) - classifier.nearest(sigmas)).abs()
    error = (estimated_sigmas / sigmas).log().abs()
    return {
        "exact": float((apart == 0).double().mean()),
        "within_one": float((apart <= 1).double().mean()),
        "median_error": float(error.median().expm1()),
        "worst_decile": float(error.quantile(0.9).expm1()),
    }


class FixedPool:
    """Keeps latents of a folder's pictures: the same in every generation."""

    def __init__(self, latents: torch.Tensor):
        self._latents = latents

    def latents(self, generation: int) -> torch.Tensor:
        """Return (N, C, h, w), scaled."""
        return self._latents


def main(arguments: list[str] | None = None) -> None:
    """Train, or go on training, in --run-dir; then print how well it reads pictures that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--start", type=Path, help="stock folder of the autoencoder (default: the shipped model, for its own recipe)"
    )
    parser.add_argument("--pool", type=int, default=POOL, help="scenes, or pictures at most, to learn from")
    parser.add_argument(
        "--model",
        help="key of the catalog: learn from its latents of --pictures, and put the result "
        "where the studio looks for it",
    )
    parser.add_argument("--pictures", type=Path, help="a folder of the model's data, or of pictures that it made")
    parser.add_argument("--models-folder", type=Path, help="where models are kept")
    options = parser.parse_args(arguments)
    use_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.model or options.pictures:
        _train_on_pictures(options)
    else:
        _train_on_recipe(options)


def _train_on_recipe(options: argparse.Namespace) -> None:
    """From the scenes of the data generator, into the run's own folder."""
    recipe, device = find_recipe(options.recipe), pick_device()
    start = choose_folder(options.start, recipe, "--start", MODEL)
    require_fit(start, recipe, ("vae",))
    vae = AutoencoderKL.from_pretrained(part_folder(start, "vae"), dtype=torch.float32).to(device).eval()
    pool = LatentPool(vae, catalog_for(recipe), recipe.size, options.pool, 0.3, options.seed + 50)
    path = _train(options, pool, options.run_dir / "noise_level")
    if path.is_file():
        _print_figures(
            path, LatentPool(vae, catalog_for(recipe), recipe.size, _JUDGED, 0.3, options.seed + 900).latents(0)
        )


def _train_on_pictures(options: argparse.Namespace) -> None:
    """From a folder's pictures, to where the model's starts look.

    Raises:
        TrainingError: only one of model and pictures is named, or a start too.
    """
    if not (options.model and options.pictures) or options.start:
        raise TrainingError(
            "--model KEY and --pictures FOLDER belong together, and leave --start out: the model brings "
            "its autoencoder. Name both, or neither to learn from a recipe's scenes."
        )
    with open_model(options.model, options.models_folder) as (family, fitted_here):
        latents = latents_of_folder(options.pictures, family, options.pool)
    # Of a shuffled few that it does not learn from, or a folder in order of subjects would be judged by its last one.
    latents = latents[torch.randperm(len(latents), generator=generator_for(options.seed, 0))]
    num_judged = max(1, len(latents) // 8)
    run_folder = options.run_dir / "noise_level" / options.model.replace("/", "--")
    path = _train(options, FixedPool(latents[num_judged:]), run_folder)
    if path.is_file():
        _print_figures(path, latents[:num_judged].repeat(-(-_JUDGED // num_judged), 1, 1, 1))
        save_noise_classifier(load_noise_classifier(path), fitted_here / NOISE_LEVEL)
        print("written to", fitted_here / NOISE_LEVEL)


def _train(options: argparse.Namespace, pool: LatentPool | FixedPool, folder: Path) -> Path:
    """The file that a finished run leaves; a run that was stopped before has none yet."""
    network = NoiseLevelNetwork(pool.latents(0).shape[1], LEVELS).to(pick_device())
    settings = settings_from(options, STEPS, 0.998)
    train(NoiseLevelTask(network, pool, options.seed, settings.steps), folder, settings)
    return folder / "export" / NOISE_LEVEL


def _print_figures(path: Path, latents: torch.Tensor) -> None:
    figures = measure(load_noise_classifier(path), latents)
    print({name: round(value, 4) for name, value in figures.items()})


if __name__ == "__main__":
    main()
