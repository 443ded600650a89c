"""Measure by how much a model's estimates beat a Gaussian's: `python -m pipelines.training.denoising_gain`.

The start "Short diffusion time" needs it beside the data's statistics, which `data_statistics` makes first.
"""

from __future__ import annotations

import argparse

import torch

from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import SettingsError, StepwiseError
from pipelines.core.gradients import no_grad
from pipelines.core.prediction import Conditioning
from pipelines.core.schedule import Level
from pipelines.families.base import Family
from pipelines.guidance.cfg import Unguided
from pipelines.initializations.fitted import (
    DENOISING_GAIN,
    STATISTICS,
    DenoisingGain,
    Statistics,
    load_statistics,
    save_denoising_gain,
)
from pipelines.initializations.short_time import estimate_by_gaussian
from pipelines.training.data_statistics import (
    add_data_options,
    latents_of_folder,
    latents_of_scenes,
    open_model,
    require_data,
)

__all__ = ["main", "measure_denoising_gain"]

PICTURES, RATIOS, ROWS = 256, 20, 16
HIGHEST = 4.0
"""Logarithm of alpha^2 / sigma^2 up to which it is measured: from there on a Gaussian's estimate is far off."""


@no_grad
def measure_denoising_gain(
    family: Family, latents: torch.Tensor, statistics: Statistics, ratios: int = RATIOS, seed: int = 0
) -> DenoisingGain:
    """Measure the squared error of the Gaussian's estimate of x0 less that of the model's, summed over a picture.

    Both see the same noisy latents. The model has the empty prompt: the Gaussian knows none either.

    Args:
        family: the loaded model.
        latents: (N, C, h, w), scaled, of its data.
        statistics: of its data.
        ratios: how many signal-to-noise ratios, even in the logarithm from the schedule's most noise.
        seed: of the noise.
    """
    schedule = family.noise_schedule
    most = schedule.at(schedule.network_time(1.0))
    # A flow model's last time is pure noise, of which there is nothing to estimate.
    lowest = 2 * most.lam if most.alpha > 0 else -12.0
    generator = torch.Generator().manual_seed(seed)
    logs = torch.linspace(lowest, HIGHEST, ratios, dtype=torch.float64)
    denoiser_by_rows = {rows: _build_denoiser(family, rows) for rows in {min(ROWS, len(latents)), len(latents) % ROWS}}
    gains = []
    for log in logs.tolist():
        level = schedule.at_sigma_ve(float(torch.tensor(-log / 2, dtype=torch.float64).exp()))
        total = 0.0
        for part in latents.split(ROWS):
            noisy = level.alpha * part + level.sigma * torch.randn(part.shape, generator=generator)
            total += _compare(denoiser_by_rows[len(part)], noisy, part, level, statistics, family.device)
        gains.append(total / len(latents))
    return DenoisingGain(logs, torch.tensor(gains, dtype=torch.float64))


def _build_denoiser(family: Family, rows: int) -> Denoiser | None:
    if not rows:
        return None
    texts = {"positive": ""}
    conditionings: dict[str, Conditioning] = family.encode_texts(texts, rows, family.default_size)
    if family.traits.guidance != "cfg":
        conditionings = family.embed_guidance(conditionings, 1.0)
    return Denoiser(family, Unguided(), conditionings)


def _compare(
    denoiser: Denoiser | None,
    noisy: torch.Tensor,
    clean: torch.Tensor,
    level: Level,
    statistics: Statistics,
    device: torch.device,
) -> float:
    if denoiser is None:
        raise SettingsError("There are no pictures to measure on.")
    estimate = denoiser.predict(noisy.to(device), level).denoised.cpu().double()
    errors = [(one - clean).square().sum() for one in (estimate_by_gaussian(noisy, level, statistics), estimate)]
    return float(errors[0] - errors[1])


def main(arguments: list[str] | None = None) -> int:
    """Measure for a model of the catalog; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.training.denoising_gain", description=__doc__)
    add_data_options(parser, PICTURES)
    options = parser.parse_args(arguments)
    try:
        require_data(options)
        with open_model(options.model, options.models_folder) as (family, fitted_here):
            if not (fitted_here / STATISTICS).is_file():
                raise SettingsError("Run python -m pipelines.training.data_statistics first: it makes the Gaussian.")
            if options.pictures:
                latents = latents_of_folder(options.pictures, family, options.count)
            else:
                latents = latents_of_scenes(family, options.count, seed=71)
            gain = measure_denoising_gain(family, latents, load_statistics(fitted_here / STATISTICS))
        path = (options.out or fitted_here) / DENOISING_GAIN
        save_denoising_gain(gain, path)
        for log, value in zip(gain.log_snr.tolist(), gain.gain.tolist(), strict=True):
            print(f"log SNR {log:7.3f}  gain {value:9.4f}")
        print("written to", path)
    except (StepwiseError, OSError) as error:
        print(f"denoising_gain: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
