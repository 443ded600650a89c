"""The table of samplers: how a run goes from one noise level to the next."""

from __future__ import annotations

from pipelines.core.registry import Method, Table, own_loop_only
from pipelines.core.sampler import Sampler
from pipelines.samplers.dualfast import DualFast, DualFastSettings
from pipelines.samplers.epsilon_scaling import EpsilonScaling, EpsilonScalingSettings, fits_epsilon_scaling
from pipelines.samplers.lml import Lml, LmlSettings
from pipelines.samplers.solvers import SOLVER_METHODS
from pipelines.samplers.time_shift import TimeShift, TimeShiftSettings, fits_time_shift

__all__ = ["SAMPLERS"]

SAMPLERS: Table[Sampler] = Table(
    "sampler",
    [
        *SOLVER_METHODS,
        Method(
            "epsilon_scaling",
            "Epsilon scaling",
            EpsilonScaling,
            EpsilonScalingSettings,
            fit=fits_epsilon_scaling,
            paper="Ning et al., Exposure bias, arXiv:2308.15321",
            help="Around any solver: makes the noise estimate a little smaller, against the drift of long runs.",
            groups=("research",),
        ),
        Method(
            "time_shift",
            "Time-Shift",
            TimeShift,
            TimeShiftSettings,
            fit=fits_time_shift,
            paper="Li et al., Shifted time steps, arXiv:2305.15583",
            help="Around DDIM, PNDM or 2M: ends each step at the time that the latents' variance suggests.",
            groups=("research",),
        ),
        Method(
            "dualfast",
            "DualFast",
            DualFast,
            DualFastSettings,
            paper="Yu et al., DualFast, arXiv:2506.13058",
            help="Around DDIM, 2M or UniPC: moves each estimate away from an earlier, noisier one; for few steps.",
            groups=("research",),
        ),
        Method(
            "lml",
            "LML",
            Lml,
            LmlSettings,
            paper="Wang et al., LML, arXiv:2505.24222",
            help="Around a deterministic solver: curvature of its steps. At kappa 0, the authors' value, it changes "
            "nothing.",
            groups=("research",),
        ),
    ],
    fit=own_loop_only,
)
