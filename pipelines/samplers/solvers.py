"""The solvers of the sampler table, each a method of its own; those that work around another stand beside them."""

from __future__ import annotations

from pipelines.core.registry import Method
from pipelines.core.sampler import Sampler
from pipelines.core.types import Traits
from pipelines.samplers.ddim import AncestralSettings, Ddim, DdimSettings
from pipelines.samplers.ddpm import Ddpm, DdpmSettings
from pipelines.samplers.deis import Deis, DeisSettings
from pipelines.samplers.dpm2 import Dpm2, Dpm2Ancestral
from pipelines.samplers.dpmpp import DpmSolver1, DpmSolver2M, DpmSolver2S
from pipelines.samplers.dpmpp_3m import DpmSolver3M, DpmSolver3MSde
from pipelines.samplers.dpmpp_sde import DpmSolver2MSde, DpmSolverSde, SdeSettings
from pipelines.samplers.euler import Euler
from pipelines.samplers.heun import FlowHeun, Heun
from pipelines.samplers.ipndm import Ipndm, IpndmSettings
from pipelines.samplers.lcm import Lcm, LcmSettings, fits_lcm
from pipelines.samplers.lms import Lms, LmsSettings
from pipelines.samplers.pndm import Pndm, PndmSettings
from pipelines.samplers.sa_solver import SaSolver, SaSolverSettings
from pipelines.samplers.scm import Scm
from pipelines.samplers.tcd import Tcd, TcdSettings
from pipelines.samplers.unipc import UniPc, UniPcSettings

__all__ = ["SOLVER_METHODS"]


def _fits_euler(traits: Traits) -> str | None:
    return "on a flow model its update is that of Flow Euler: choose that" if traits.flow else None


def _fits_heun(traits: Traits) -> str | None:
    reason = "its rule is in sigma / alpha, which is infinite where a flow model starts: choose Flow Heun"
    return reason if traits.flow else None


def _fits_flow_only(traits: Traits) -> str | None:
    return None if traits.flow else "it is written for flow models (SD3, FLUX, ...)"


SOLVER_METHODS: list[Method[Sampler]] = [
    Method(
        "dpmpp_2m",
        "DPM-Solver++(2M)",
        DpmSolver2M,
        paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
        help="Second order at one evaluation a step: sharp from 15 steps on. The sensible default.",
        groups=("DPM-Solver++", "second order"),
    ),
    Method(
        "dpmpp_2s",
        "DPM-Solver++(2S)",
        DpmSolver2S,
        paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
        help="Second order with two evaluations a step; steadier than 2M at strong guidance.",
        groups=("DPM-Solver++", "second order"),
    ),
    Method(
        "dpmpp_1",
        "DPM-Solver++(1)",
        DpmSolver1,
        paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
        help="First order; the same update as DDIM.",
        groups=("DPM-Solver++", "first order"),
    ),
    Method(
        "dpmpp_3m",
        "DPM-Solver++(3M)",
        DpmSolver3M,
        paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
        help="Third order at one evaluation a step: most exact with 20 steps or more.",
        groups=("DPM-Solver++", "third order"),
    ),
    Method(
        "dpmpp_sde",
        "DPM-Solver++ SDE",
        DpmSolverSde,
        SdeSettings,
        paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
        help="Fresh noise in every step, two evaluations a step.",
        groups=("stochastic", "DPM-Solver++ SDE"),
    ),
    Method(
        "dpmpp_2m_sde",
        "DPM-Solver++(2M) SDE",
        DpmSolver2MSde,
        SdeSettings,
        paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
        help="2M with fresh noise in every step: richer detail from 20 steps on.",
        groups=("stochastic", "DPM-Solver++ SDE"),
    ),
    Method(
        "dpmpp_3m_sde",
        "DPM-Solver++(3M) SDE",
        DpmSolver3MSde,
        SdeSettings,
        paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
        help="3M with fresh noise in every step; wants many steps.",
        groups=("stochastic", "DPM-Solver++ SDE"),
    ),
    Method(
        "unipc",
        "UniPC",
        UniPc,
        UniPcSettings,
        paper="Zhao et al., UniPC, arXiv:2302.04867",
        help="Predictor and free corrector: good pictures from 6 to 10 steps.",
        groups=("second order", "exponential multistep"),
    ),
    Method(
        "deis",
        "DEIS",
        Deis,
        DeisSettings,
        paper="Zhang & Chen, DEIS, arXiv:2204.13902",
        help="Adams-Bashforth with exact exponential weights, order 1 to 3.",
        groups=("exponential multistep",),
    ),
    Method(
        "sa_solver",
        "SA-Solver",
        SaSolver,
        SaSolverSettings,
        paper="Xue et al., SA-Solver, arXiv:2309.05019",
        help="Stochastic Adams method with a free corrector; fresh noise in the middle of the run.",
        groups=("stochastic",),
    ),
    Method(
        "ddim",
        "DDIM",
        Ddim,
        DdimSettings,
        paper="Song et al., DDIM, arXiv:2010.02502",
        help="First order, with any share of fresh noise from none (deterministic) to DDPM.",
        groups=("first order",),
    ),
    Method(
        "ddpm",
        "DDPM",
        Ddpm,
        DdpmSettings,
        paper="Ho et al., DDPM, arXiv:2006.11239",
        help="The original stochastic sampler, with either of its variances; wants hundreds of steps.",
        groups=("stochastic",),
    ),
    Method(
        "pndm",
        "PNDM",
        Pndm,
        PndmSettings,
        paper="Liu et al., PNDM, arXiv:2202.09778",
        help="The linear multistep method (PLMS) that Stable Diffusion came with. On uniform levels far off up to 20 "
        "steps; takes Karras where no schedule is named.",
        groups=("PNDM", "second order"),
        schedule="karras",
    ),
    Method(
        "ipndm",
        "iPNDM",
        Ipndm,
        IpndmSettings,
        paper="Zhang & Chen, DEIS, arXiv:2204.13902",
        help="PNDM without a costly start. On uniform levels far off up to 20 steps; takes Karras where no "
        "schedule is named.",
        groups=("PNDM", "second order"),
        schedule="karras",
    ),
    Method(
        "euler",
        "Euler",
        Euler,
        fit=_fits_euler,
        paper="Karras et al., EDM, arXiv:2206.00364",
        help="First order in sigma; simple and robust.",
        groups=("EDM", "first order"),
    ),
    Method(
        "euler_a",
        "Euler a",
        Ddim,
        AncestralSettings,
        paper="Karras et al., EDM, arXiv:2206.00364",
        help="Euler with fresh noise in every step: more variety, never settles.",
        groups=("stochastic",),
    ),
    Method(
        "heun",
        "Heun",
        Heun,
        fit=_fits_heun,
        paper="Karras et al., EDM, arXiv:2206.00364",
        help="Second order with two evaluations a step.",
        groups=("EDM", "second order"),
    ),
    Method(
        "lms",
        "LMS",
        Lms,
        LmsSettings,
        paper="Zhang & Chen, DEIS, arXiv:2204.13902; k-diffusion",
        help="Linear multistep in sigma, order 1 to 4. On Karras levels, which it takes where no schedule is named, "
        "good from 6 steps on; on uniform ones take order 2 up to 20.",
        groups=("EDM",),
        schedule="karras",
    ),
    Method(
        "dpm2",
        "DPM2",
        Dpm2,
        paper="Lu et al., DPM-Solver, arXiv:2206.00927",
        help="The midpoint rule: second order with two evaluations a step.",
        groups=("EDM", "second order"),
    ),
    Method(
        "dpm2_a",
        "DPM2 a",
        Dpm2Ancestral,
        AncestralSettings,
        paper="Lu et al., DPM-Solver, arXiv:2206.00927; k-diffusion",
        help="DPM2 with fresh noise in every step.",
        groups=("stochastic",),
    ),
    Method(
        "lcm",
        "LCM",
        Lcm,
        LcmSettings,
        fit=fits_lcm,
        paper="Luo et al., LCM, arXiv:2310.04378",
        help="For consistency-distilled weights: pictures in 1 to 8 steps.",
        groups=("few steps",),
    ),
    Method(
        "tcd",
        "TCD",
        Tcd,
        TcdSettings,
        fit=fits_lcm,
        paper="Zheng et al., TCD, arXiv:2402.19159",
        help="For trajectory-distilled weights (TCD, Hyper-SD): gamma sets how much fresh noise.",
        groups=("few steps",),
    ),
    Method(
        "scm",
        "SCM",
        Scm,
        paper="Lu & Song, sCM, arXiv:2410.11081",
        help="For continuous-time consistency models: pictures in 1 to 4 steps.",
        groups=("few steps",),
    ),
    Method(
        "flow_euler",
        "Flow Euler",
        Euler,
        fit=_fits_flow_only,
        paper="Liu et al., Rectified flow, arXiv:2209.03003",
        help="First order in the flow's time: the default of SD3 and FLUX.",
        groups=("flow", "first order"),
    ),
    Method(
        "flow_heun",
        "Flow Heun",
        FlowHeun,
        fit=_fits_flow_only,
        paper="Esser et al., SD3, arXiv:2403.03206",
        help="Second order in the flow's time, two evaluations a step.",
        groups=("flow", "second order"),
    ),
]
