"""The noise schedule of a model that isn't loaded, from its scheduler's file alone."""

from __future__ import annotations

from pathlib import Path

from pipelines.core.schedule import NoiseSchedule
from pipelines.models.files import read_json
from pipelines.weights.libraries import import_libraries

__all__ = ["read_noise_schedule"]

_TOKEN = 16
"""Pixels to a token of the flow models, whose shift may grow with the picture."""


def read_noise_schedule(folder: Path, size: tuple[int, int]) -> NoiseSchedule | None:
    """Read the noise schedule of a model's folder.

    Args:
        folder: in diffusers' form.
        size: (width, height) in pixels of the pictures.

    Returns:
        The schedule; None where the file isn't there, or is of a kind whose levels only the loaded model knows.

    Raises:
        ModelFileError: it cannot be read.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    name = str(config.get("_class_name"))
    if "EDM" in name:
        return None
    import_libraries()
    import diffusers

    from pipelines.families.noise_schedules import discrete_schedule, shifted_schedule

    scheduler = getattr(diffusers, name, diffusers.DDIMScheduler).from_config(config)
    if hasattr(scheduler, "alphas_cumprod"):
        return discrete_schedule(scheduler)
    return shifted_schedule(scheduler, size[0] * size[1] // _TOKEN**2, 1.15)
