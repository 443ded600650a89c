"""The table of time-step schedules: which noise levels a run visits."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.core.errors import SettingsError
from pipelines.core.registry import Method, Table, own_loop_only
from pipelines.core.schedule import Level, NoiseSchedule, Schedule
from pipelines.core.types import Choice, Request
from pipelines.schedules.align_your_steps import AlignYourSteps, AlignYourStepsSettings, fits_align_your_steps
from pipelines.schedules.beta import Beta, BetaSettings
from pipelines.schedules.exponential import Exponential, ExponentialSettings
from pipelines.schedules.hand_typed import HandTyped, HandTypedSettings
from pipelines.schedules.karras import Karras, KarrasSettings
from pipelines.schedules.kl_optimal import KlOptimal
from pipelines.schedules.learned import FittedSchedule, Learned, LearnedSchedules, LearnedSettings
from pipelines.schedules.linear_quadratic import LinearQuadratic, LinearQuadraticSettings
from pipelines.schedules.quadratic import DenseAtHighNoise, DenseSettings, Quadratic, QuadraticSettings
from pipelines.schedules.shift import Shift, ShiftSettings
from pipelines.schedules.uniform import Uniform, UniformSettings
from pipelines.schedules.uniform_lambda import UniformLambda, UniformLambdaSettings, fits_uniform_lambda

__all__ = ["SCHEDULES", "ends_clean", "levels_for", "settle_schedule", "skipped_branches"]

SCHEDULES: Table[Schedule] = Table(
    "schedule",
    [
        Method(
            "uniform",
            "Uniform",
            Uniform,
            UniformSettings,
            paper="Lin et al., arXiv:2305.08891",
            help="Equal distances in time.",
        ),
        Method(
            "karras",
            "Karras",
            Karras,
            KarrasSettings,
            paper="Karras et al., EDM, arXiv:2206.00364",
            help="More steps at low noise, where detail is made.",
        ),
        Method(
            "shift",
            "Shift",
            Shift,
            ShiftSettings,
            paper="Esser et al., SD3, arXiv:2403.03206",
            help="More steps at high noise, where the composition is made.",
        ),
        Method(
            "exponential",
            "Exponential",
            Exponential,
            ExponentialSettings,
            paper="Lu et al., DPM-Solver, arXiv:2206.00927",
            help="Equal ratios of noise, many steps at low noise; on diffusion models this is uniform in lambda.",
        ),
        Method(
            "uniform_lambda",
            "Uniform in lambda",
            UniformLambda,
            UniformLambdaSettings,
            fit=fits_uniform_lambda,
            paper="Lu et al., DPM-Solver, arXiv:2206.00927",
            help="For flow models: equal distances in the logarithm of signal to noise, many steps at both ends.",
        ),
        Method(
            "beta",
            "Beta",
            Beta,
            BetaSettings,
            paper="Lee et al., Beta sampling, arXiv:2407.12173",
            help="More steps at both ends, few in the middle.",
        ),
        Method(
            "quadratic",
            "Quadratic",
            Quadratic,
            QuadraticSettings,
            paper="Song et al., DDIM, arXiv:2010.02502",
            help="Times grow with the square: more steps at low noise, less strongly than Karras.",
        ),
        Method(
            "dense_high",
            "Dense at high noise",
            DenseAtHighNoise,
            DenseSettings,
            paper="Song et al., DDIM, arXiv:2010.02502",
            help="The mirror of quadratic: the first steps are the shortest.",
        ),
        Method(
            "kl_optimal",
            "KL optimal",
            KlOptimal,
            paper="Sabour et al., Align your steps, arXiv:2404.14507",
            help="Equal distances in the angle of noise and signal: many steps at low noise.",
        ),
        Method(
            "linear_quadratic",
            "Linear quadratic",
            LinearQuadratic,
            LinearQuadraticSettings,
            paper="Polyak et al., Movie Gen, arXiv:2410.13720",
            help="Half of the steps at the very highest noise, as video models like it.",
        ),
        Method(
            "align_your_steps",
            "Align your steps",
            AlignYourSteps,
            AlignYourStepsSettings,
            fit=fits_align_your_steps,
            paper="Sabour et al., Align your steps, arXiv:2404.14507",
            help="Published levels, optimized for Stable Diffusion 1, SDXL and SVD at ten steps.",
        ),
        Method(
            "learned",
            "Learned",
            Learned,
            LearnedSettings,
            paper="Tong et al., LD3, arXiv:2405.15506; Li et al., AutoDiffusion, arXiv:2309.10438",
            help="Times that were fitted to this very model, sampler and number of steps.",
        ),
        Method(
            "hand_typed",
            "Hand-typed",
            HandTyped,
            HandTypedSettings,
            paper="Karras et al., EDM, arXiv:2206.00364",
            help="Any list of time steps or sigmas, as you type it.",
        ),
    ],
    fit=own_loop_only,
)


def settle_schedule(
    request: Request, learned: LearnedSchedules, network: Callable[[], str] | None = None
) -> Schedule | FittedSchedule:
    """Return the request's schedule with its settings; of a learned one, what was fitted for this run.

    Args:
        request: checked.
        learned: the fitted schedules that there are.
        network: names the loaded network's weights, asked only where a schedule was fitted to some; None leaves them
            unchecked.

    Raises:
        SettingsError: nothing was fitted for it, or only to other weights, or a setting cannot be.
    """
    schedule = SCHEDULES.build(request.schedule)
    return learned.choose(schedule.settings, request, network) if isinstance(schedule, Learned) else schedule


def ends_clean(choice: Choice) -> bool:
    """Say whether a run over the chosen schedule ends without noise, as all do but uniform ones that end at a model's
    first level.

    Raises:
        SettingsError: an unknown schedule or setting.
    """
    schedule = SCHEDULES.build(choice)
    return not (isinstance(schedule, Uniform) and schedule.settings.final == "first")


def skipped_branches(request: Request, learned: LearnedSchedules) -> int:
    """Return branches of the guidance that the solver which was fitted for this request leaves out, over the whole run.

    0 for every other run, and where nothing was fitted, which the run itself refuses.
    """
    if request.schedule.key != "learned":
        return 0
    try:
        schedule = settle_schedule(request, learned)
    except SettingsError:
        return 0
    return schedule.record.terms.left_out if isinstance(schedule, FittedSchedule) else 0


def levels_for(
    request: Request, noise_schedule: NoiseSchedule, learned: LearnedSchedules = LearnedSchedules()
) -> list[Level]:
    """Build the N + 1 levels that a request's run visits.

    Args:
        request: checked.
        noise_schedule: the model's.
        learned: the fitted schedules that there are; by default the shipped ones.

    Raises:
        SettingsError: the schedule cannot serve this model or number of steps.
    """
    return settle_schedule(request, learned).levels(noise_schedule, request.num_inference_steps)
