"""The table of searches: how a budget of evaluations is spent on a picture that a reward likes."""

from __future__ import annotations

from pipelines.core.registry import Method, Table
from pipelines.core.types import Traits
from pipelines.search.adjoint import Adjoint, AdjointSettings
from pipelines.search.base import Search
from pipelines.search.beam import BeamSearch, BeamSettings
from pipelines.search.best_of_n import RandomSearch, RandomSettings
from pipelines.search.boundary import BoundaryNoise, BoundarySettings
from pipelines.search.doit import Doit, DoitSettings
from pipelines.search.find import Find, FindSettings
from pipelines.search.fk_steering import FkSettings, FkSteering
from pipelines.search.paths import Paths, PathsSettings
from pipelines.search.reno import Reno, RenoSettings
from pipelines.search.rollover import Rollover, RolloverSettings
from pipelines.search.vendi import Vendi, VendiSettings
from pipelines.search.zero_order import ZeroOrder, ZeroOrderSettings

__all__ = ["SEARCHES"]


def _fits_single_pictures(traits: Traits) -> str | None:
    if traits.backbone == "pipeline":
        return "it runs through its own pipeline. Choose No search"
    if traits.family == "animatediff":
        return "its frames see each other, and a search makes single pictures. Choose No search"
    return None


def _fits_flow(traits: Traits) -> str | None:
    return (
        None if traits.flow else "it turns a flow's ODE into an SDE, and this is a diffusion model: choose FK steering"
    )


def _fits_gradients(traits: Traits) -> str | None:
    return "its network is compiled (--compile), through which no gradient is taken" if traits.compiled else None


SEARCHES: Table[Search | None] = Table(
    "search",
    [
        Method("none", "No search", lambda settings: None, help="One run, as it is."),
        Method(
            "random",
            "Best of N",
            RandomSearch,
            RandomSettings,
            _fits_single_pictures,
            paper="Ma et al., arXiv:2501.09732",
            help="Makes pictures of one seed after the other and keeps the best.",
        ),
        Method(
            "zero_order",
            "Zero-order",
            ZeroOrder,
            ZeroOrderSettings,
            _fits_single_pictures,
            paper="Ma et al., arXiv:2501.09732",
            help="Tries neighbors of the best noise so far.",
        ),
        Method(
            "paths",
            "Over paths",
            Paths,
            PathsSettings,
            _fits_single_pictures,
            paper="Ma et al., arXiv:2501.09732",
            help="Noises the best pictures again part of the way and denoises them anew.",
        ),
        Method(
            "fk_steering",
            "FK steering",
            FkSteering,
            FkSettings,
            _fits_single_pictures,
            paper="Singhal et al., arXiv:2501.06848",
            help="Pictures side by side, of which the better take the worse ones' places on the way.",
        ),
        Method(
            "rollover",
            "Rollover budget forcing",
            Rollover,
            RolloverSettings,
            lambda traits: _fits_single_pictures(traits) or _fits_flow(traits),
            paper="Kim et al., arXiv:2503.19385",
            help="Each step of a flow model ends at the first improvement and leaves the rest to the next.",
        ),
        Method(
            "reno",
            "ReNO",
            Reno,
            RenoSettings,
            lambda traits: _fits_single_pictures(traits) or _fits_gradients(traits),
            paper="Eyring et al., arXiv:2406.04312",
            help="Improves the noise of a few-step model by the reward's gradient.",
        ),
        Method(
            "find",
            "FIND",
            Find,
            FindSettings,
            _fits_single_pictures,
            paper="Chen et al., arXiv:2407.19453",
            help="Learns the mean of the noise from rewards, without their gradient.",
        ),
        Method(
            "doit",
            "DOIT (Doob's h-transform)",
            Doit,
            DoitSettings,
            _fits_single_pictures,
            paper="Zhu et al., arXiv:2602.16198",
            help="Leads each step towards continuations that were rewarded.",
        ),
        Method(
            "adjoint",
            "AdjointDPM",
            Adjoint,
            AdjointSettings,
            lambda traits: _fits_single_pictures(traits) or _fits_gradients(traits),
            paper="Pan et al., arXiv:2307.10711",
            help="Improves the noise of a long run by the reward's gradient, in little memory.",
        ),
        Method(
            "beam",
            "Latent beam search",
            BeamSearch,
            BeamSettings,
            _fits_single_pictures,
            paper="Oshima et al., arXiv:2501.19252",
            help="Goes on from the latents whose future looks best, each in several ways.",
        ),
        Method(
            "boundary",
            "Optimal boundary noise",
            BoundaryNoise,
            BoundarySettings,
            _fits_single_pictures,
            paper="after Ma et al., arXiv:2305.15357",
            help="Chooses one seed that is good for several prompts, to be kept for others like them.",
        ),
        Method(
            "vendi",
            "Vendi score guidance (c-VSG)",
            Vendi,
            VendiSettings,
            _fits_single_pictures,
            paper="Hemmat et al., arXiv:2406.04551",
            help="Makes different pictures: each is led away from those before it.",
        ),
    ],
)
