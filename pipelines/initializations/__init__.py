"""The table of starts: how the first latents of a run come to be."""

from __future__ import annotations

from pipelines.core.registry import Method, Table, own_loop_only
from pipelines.initializations.base import Start
from pipelines.initializations.gaussian import GaussianSettings, GaussianStart
from pipelines.initializations.mcmc import DenoisingMcmc, McmcSettings
from pipelines.initializations.noise import PlainNoise
from pipelines.initializations.optimal_transport import OptimalTransport, OptimalTransportSettings
from pipelines.initializations.short_time import ShortTime, ShortTimeSettings

__all__ = ["INITIALIZATIONS"]


INITIALIZATIONS: Table[Start] = Table(
    "start",
    [
        Method(
            "noise",
            "Plain noise",
            PlainNoise,
            paper="Ho et al., DDPM, arXiv:2006.11239",
            help="Pure noise, and every step of the schedule.",
        ),
        Method(
            "gaussian",
            "Gaussian-analytic",
            GaussianStart,
            GaussianSettings,
            paper="Wang & Vastola, Gaussian score, arXiv:2412.09726",
            help="The first steps by a formula, from the mean and covariance of the model's data.",
        ),
        Method(
            "short_time",
            "Short diffusion time",
            ShortTime,
            ShortTimeSettings,
            paper="Franzese et al., How much is enough?, arXiv:2206.05173",
            help="Begins at less noise, with a draw from a Gaussian of the model's data, as early as a bound allows.",
        ),
        Method(
            "optimal_transport",
            "Optimal transport",
            OptimalTransport,
            OptimalTransportSettings,
            paper="Li et al., DPM-OT, arXiv:2307.11308",
            help="Sends the noise to a partly noised picture of the model's data; only the last steps are left.",
        ),
        Method(
            "mcmc",
            "Denoising MCMC",
            DenoisingMcmc,
            McmcSettings,
            paper="Kim & Ye, Denoising MCMC, arXiv:2209.14593",
            help="A chain through noise levels; the steps begin at the least noise it reaches. One picture at a time.",
        ),
    ],
    fit=own_loop_only,
)
