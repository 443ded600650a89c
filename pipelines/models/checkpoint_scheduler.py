"""The scheduler of a single file: its donor's, with what the file says of its network's output and noise levels."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.models.entry import CheckpointFile
from pipelines.weights.files import read_full_header
from pipelines.weights.libraries import import_libraries

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = ["adapt_scheduler"]

_EDM_SIGMAS = {"sigma_min": 0.002, "sigma_max": 120.0}
"""CosXL's, where a file does not tell its own."""


def adapt_scheduler(scheduler: SchedulerMixin, path: Path, file: CheckpointFile) -> SchedulerMixin:
    """Return a scheduler of what the file was trained for.

    Args:
        scheduler: of the donor.
        path: the file.
        file: what it says of itself.
    """
    import_libraries()
    from diffusers import DDIMScheduler, EDMEulerScheduler

    if file.edm:
        return EDMEulerScheduler(**_read_edm_sigmas(path), sigma_data=1.0, prediction_type="v_prediction")
    changes: dict[str, object] = {}
    if file.prediction:
        changes["prediction_type"] = file.prediction
    if file.zero_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if not changes:
        return scheduler
    takes = inspect.signature(type(scheduler).__init__).parameters
    scheduler_type = type(scheduler) if changes.keys() <= takes.keys() else DDIMScheduler
    parameters = inspect.signature(scheduler_type.__init__).parameters
    config = {name: value for name, value in scheduler.config.items() if name in parameters}
    return scheduler_type(**{**config, **changes})


def _read_edm_sigmas(path: Path) -> dict[str, float]:
    from pipelines.weights.reading import TensorReader

    header = read_full_header(path)
    with TensorReader(path, header) as reader:
        sigmas = {
            name.rpartition(".")[2]: float(reader.read(name).float().reshape(-1)[0])
            for name in header.tensors
            if name.startswith("edm_vpred.")
        }
    return {name: sigmas.get(name, usual) for name, usual in _EDM_SIGMAS.items()}
