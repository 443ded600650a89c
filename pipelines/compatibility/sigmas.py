"""Lists of sigmas as ComfyUI and A1111 make them, in their float32 arithmetic: one function for each name there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from pipelines.compatibility.sigma_table import SigmaTable
from pipelines.core.registry import parse_settings
from pipelines.core.types import Choice
from pipelines.schedules import SCHEDULES
from pipelines.schedules.beta import beta_quantiles
from pipelines.schedules.linear_quadratic import linear_quadratic_shares

__all__ = ["COMFYUI_SIGMAS", "K_DIFFUSION_SIGMAS", "peer_sigmas"]

Sigmas = Callable[[SigmaTable, int], "torch.Tensor"]
"""Lists the sigmas of so many steps, float32, descending, without the 0 at the end."""


def peer_sigmas(
    names: Mapping[str, Sigmas], name: str, schedule: Choice, table: SigmaTable, count: int
) -> torch.Tensor:
    """List the sigmas of a program's schedule.

    Args:
        names: the program's.
        name: of the schedule there.
        schedule: as it is chosen here; of Karras and exponential its ends and rho count.
        table: of the model.
        count: of steps.

    Returns:
        float32, descending, without the 0 at the end; of DDIM and Beta not always `count`.
    """
    if name.lower() not in ("karras", "exponential"):
        return names[name](table, count)
    settings = parse_settings(SCHEDULES[schedule.key].settings, schedule.settings)
    low = getattr(settings, "sigma_min", 0.0) or float(table.sigmas[0])
    high = getattr(settings, "sigma_max", 0.0) or float(table.sigmas[-1])
    if name.lower() == "karras":
        return _karras(low, high, count, getattr(settings, "rho", 7.0))
    return torch.linspace(math.log(high), math.log(low), count).exp()


def _karras(low: float, high: float, count: int, rho: float) -> torch.Tensor:
    """Source: k-diffusion, `get_sigmas_karras`; Karras et al., arXiv:2206.00364, equation 5."""
    first, last = high ** (1 / rho), low ** (1 / rho)
    return (first + torch.linspace(0, 1, count) * (last - first)) ** rho


def _uniform(table: SigmaTable, count: int) -> torch.Tensor:
    """Equal distances in time, fractional, both ends included."""
    return table.between(torch.linspace(table.num_train_timesteps - 1, 0, count))


def _one_by_one(table: SigmaTable, times: torch.Tensor) -> torch.Tensor:
    """Interpolate time by time: PyTorch rounds exponentials of many numbers at once otherwise."""
    return torch.stack([table.between(time) for time in times])


def _normal(table: SigmaTable, count: int) -> torch.Tensor:
    """The same, one by one."""
    return _one_by_one(table, torch.linspace(table.num_train_timesteps - 1, 0, count))


def _sgm_uniform(table: SigmaTable, count: int) -> torch.Tensor:
    """Equal distances in time of one step more, without the last."""
    return _one_by_one(table, torch.linspace(table.num_train_timesteps - 1, 0, count + 1)[:-1])


def _simple(table: SigmaTable, count: int) -> torch.Tensor:
    """Every T / N-th trained step, cut to whole ones."""
    stride = table.num_train_timesteps / count
    return table.sigmas[[-(1 + int(step * stride)) for step in range(count)]]


def _ddim_uniform(table: SigmaTable, count: int) -> torch.Tensor:
    """Every floor(T / N)-th trained step from the second on, however many that makes."""
    stride = max(table.num_train_timesteps // count, 1)
    return table.sigmas[1::stride].flip(0)


def _beta_in_time(table: SigmaTable, count: int) -> torch.Tensor:
    """The quantiles of Beta(0.6, 0.6) in time, rounded to whole steps, of which each is taken once.

    Source: Lee et al., Beta sampling is all you need, arXiv:2407.12173.
    """
    shares = 1 - np.linspace(0, 1, count, endpoint=False)
    # The median lies half way between two steps and goes up, as SciPy's, which is an ulp above it.
    times = np.rint(beta_quantiles(shares, 0.6, 0.6) * (table.num_train_timesteps - 1) + 1e-9).astype(int)
    return table.sigmas[list(dict.fromkeys(times.tolist()))]


def _beta_in_sigma(table: SigmaTable, count: int) -> torch.Tensor:
    """The quantiles of Beta(0.6, 0.6) between the ends of sigma, both included; A1111's Beta."""
    low, high = float(table.sigmas[0]), float(table.sigmas[-1])
    quantiles = beta_quantiles(1 - np.linspace(0, 1, count), 0.6, 0.6)
    return torch.tensor(low + quantiles * (high - low), dtype=torch.float32)


def _kl_optimal(table: SigmaTable, count: int) -> torch.Tensor:
    """Equal distances in arctan(sigma). Source: Sabour et al., Align your steps, arXiv:2404.14507, section 3.1."""
    low, high = (math.atan(float(table.sigmas[end])) for end in (0, -1))
    share = torch.arange(count, dtype=torch.float32).div_(max(count - 1, 1))
    return (share * low + (1 - share) * high).tan_()


def _kl_optimal_with_end(table: SigmaTable, count: int) -> torch.Tensor:
    """A1111's: one distance more, so that its last sigma, the model's least, stands where others have 0."""
    low, high = (torch.arctan(table.sigmas[end]) for end in (0, -1))
    index = torch.arange(count + 1)
    return torch.tan(index / count * low + (1.0 - index / count) * high)[:-1]


def _linear_quadratic(table: SigmaTable, count: int) -> torch.Tensor:
    """Half of the steps take the first fortieth of the highest sigma away, the rest grow with the square."""
    return torch.tensor(linear_quadratic_shares(count, 0.025), dtype=torch.float32) * table.sigmas[-1]


COMFYUI_SIGMAS: Mapping[str, Sigmas] = {
    "simple": _simple,
    "sgm_uniform": _sgm_uniform,
    "ddim_uniform": _ddim_uniform,
    "beta": _beta_in_time,
    "normal": _normal,
    "linear_quadratic": _linear_quadratic,
    "kl_optimal": _kl_optimal,
}
"""Source: ComfyUI 0.3.64, `comfy/samplers.py`, SCHEDULER_HANDLERS."""

K_DIFFUSION_SIGMAS: Mapping[str, Sigmas] = {
    "Uniform": _uniform,
    "SGM Uniform": _sgm_uniform,
    "KL Optimal": _kl_optimal_with_end,
    "Simple": _simple,
    "Normal": _normal,
    "DDIM": _ddim_uniform,
    "Beta": _beta_in_sigma,
}
"""Source: AUTOMATIC1111, stable-diffusion-webui 1.10, `modules/sd_schedulers.py`."""
