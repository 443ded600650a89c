"""What the starts need of a model's data, fitted to its latents: `python -m pipelines.training.data_statistics`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipelines.core.errors import PictureError, SettingsError, StepwiseError
from pipelines.families.base import Family
from pipelines.initializations.fitted import (
    STATISTICS,
    TRANSPORT,
    Statistics,
    fitted_folder,
    save_statistics,
    save_transport,
)
from pipelines.initializations.optimal_transport import fit_transport, masses
from pipelines.models.cache import ModelCache
from pipelines.models.catalog import Catalog
from pipelines.models.loader import Loader

__all__ = ["add_data_options", "fit", "latents_of_folder", "latents_of_scenes", "main", "open_model", "require_data"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SCENES, POINTS, RANK = 12_000, 256, 320
FEWEST = 16


def latents_of_folder(folder: Path, family: Family, most: int) -> torch.Tensor:
    """Return (N, C, h, w), float32, scaled latents of a folder's pictures, each cut to the middle at the model's own
    size.

    Raises:
        PictureError: a file is no picture.
        SettingsError: there are too few.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:most]
    if len(files) < FEWEST:
        raise SettingsError(
            f"There are {len(files)} pictures in {str(folder)!r}. Give at least {FEWEST}, better thousands."
        )
    return torch.cat([family.encode_images(_read_picture(path, family.default_size)).cpu() for path in files])


def _read_picture(path: Path, size: tuple[int, int]) -> torch.Tensor:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path.name} cannot be read as a picture: take it out of the folder.") from error
    scale = max(size[0] / image.width, size[1] / image.height)
    image = image.resize((max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale))))
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    pixels = np.asarray(image.crop((left, top, left + size[0], top + size[1])))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def latents_of_scenes(family: Family, count: int, seed: int = 70) -> torch.Tensor:
    """Return (count, C, h, w), float32: latents of the generator's scenes, which the shipped model learned from."""
    from pipelines.emoji.objects import shipped_catalog
    from pipelines.emoji.scenes import sample_scene
    from pipelines.training.latents import pictures_of

    catalog = shipped_catalog()

    def parts() -> Iterator[torch.Tensor]:
        for first in range(0, count, 256):
            places = range(first, min(first + 256, count))
            scenes = [sample_scene(catalog, seed * 10**6 + place, objects=1 + (place % 5 == 0)) for place in places]
            yield family.encode_images(pictures_of(scenes, catalog, family.default_size[0])).cpu()

    return torch.cat(list(parts()))


def fit(latents: torch.Tensor, folder: Path, rank: int = RANK, points: int = POINTS, seed: int = 0) -> dict[str, float]:
    """Fit both to latents (N, C, h, w) and write them; returns how well.

    Returns: the share of the variance along the kept directions, and of the transport's masses the smallest and
        the largest, as multiples of what each point should receive.
    """
    statistics = Statistics.of(latents, rank)
    save_statistics(statistics, folder / STATISTICS)
    principal = float(statistics.variances.sum())
    residual = statistics.rest * (statistics.mean.numel() - len(statistics.variances))
    generator = torch.Generator().manual_seed(seed)
    selected = latents[torch.randperm(len(latents), generator=generator)[:points]]
    transport = fit_transport(selected, generator)
    save_transport(transport, folder / TRANSPORT)
    received = masses(transport, 200 * len(selected), generator) * len(selected)
    return {
        "latents": len(latents),
        "variance kept": round(principal / (principal + residual), 4),
        "least mass": round(float(received.min()), 3),
        "most mass": round(float(received.max()), 3),
    }


@contextlib.contextmanager
def open_model(model: str, models_folder: Path | None = None) -> Iterator[tuple[Family, Path]]:
    """Provide a model of the catalog while the context lasts, and the folder where its starts look for what was fitted.

    Raises:
        UnknownMethodError: no model has this key.
        SettingsError: it has no starts.
    """
    catalog = Catalog(models_folder)
    with Loader(ModelCache(2**35, 2**30), catalog).model(model) as family:
        if not isinstance(family, Family):
            raise SettingsError(f"The model {model!r} runs through its own pipeline: it has no starts.")
        yield family, fitted_folder(model, catalog.folder)


def add_data_options(parser: argparse.ArgumentParser, count: int) -> None:
    """Add the options that say which model is measured, and on which pictures; `count` of them by default."""
    parser.add_argument("--model", default="emoji", help="key of the catalog (default: the shipped model)")
    parser.add_argument("--models-folder", type=Path, help="where models are kept")
    parser.add_argument(
        "--pictures",
        type=Path,
        help="a folder of the model's data, or of pictures that it made (default, for the shipped model: its own data)",
    )
    parser.add_argument("--count", type=int, default=count, help="pictures at most")
    parser.add_argument("--out", type=Path, help="where to write (default: where the studio looks)")


def require_data(options: argparse.Namespace) -> None:
    """Refuse a model whose data is not here.

    Raises:
        SettingsError: no pictures are named, and the model is not the one whose data is drawn here.
    """
    if options.pictures is None and options.model != "emoji":
        raise SettingsError(
            f"What the model {options.model!r} learned from is not here. Name a folder with --pictures."
        )


def main(arguments: list[str] | None = None) -> int:
    """Fit for a model of the catalog; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.training.data_statistics", description=__doc__)
    add_data_options(parser, SCENES)
    options = parser.parse_args(arguments)
    try:
        require_data(options)
        with open_model(options.model, options.models_folder) as (family, fitted_here):
            if options.pictures:
                latents = latents_of_folder(options.pictures, family, options.count)
            else:
                latents = latents_of_scenes(family, options.count)
        folder = options.out or fitted_here
        print(fit(latents, folder), "written to", folder)
    except (StepwiseError, OSError) as error:
        print(f"data_statistics: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
