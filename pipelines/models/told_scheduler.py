"""The scheduler of a single file: its donor's, with what the file says of its network's output and noise levels."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from pipelines.models.entry import CheckpointFile
from pipelines.weights.files import read_full_header

__all__ = ["told_scheduler"]

_EDM_SIGMAS = {"sigma_min": 0.002, "sigma_max": 120.0}
"""CosXL's, where a file does not tell its own."""


def told_scheduler(scheduler: Any, path: Path, file: CheckpointFile) -> Any:
    """A scheduler of what the file was trained for.

    Args:
        scheduler: of the donor.
        path: the file.
        file: what it says of itself.
    """
    from diffusers import DDIMScheduler, EDMEulerScheduler

    if file.edm:
        return EDMEulerScheduler(**_edm_sigmas(path), sigma_data=1.0, prediction_type="v_prediction")
    changes: dict[str, Any] = {}
    if file.prediction:
        changes["prediction_type"] = file.prediction
    if file.zero_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if not changes:
        return scheduler
    takes = inspect.signature(type(scheduler).__init__).parameters
    made = type(scheduler) if changes.keys() <= takes.keys() else DDIMScheduler
    known = inspect.signature(made.__init__).parameters
    config = {name: value for name, value in scheduler.config.items() if name in known}
    return made(**{**config, **changes})


def _edm_sigmas(path: Path) -> dict[str, float]:
    from pipelines.weights.reading import TensorReader

    header = read_full_header(path)
    with TensorReader(path, header) as reader:
        found = {
            name.rpartition(".")[2]: float(reader.read(name).float().reshape(-1)[0])
            for name in header.tensors
            if name.startswith("edm_vpred.")
        }
    return {name: found.get(name, usual) for name, usual in _EDM_SIGMAS.items()}
